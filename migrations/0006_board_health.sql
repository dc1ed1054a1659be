-- Boards that are not CONNECTED, DEGRADED among them, are marked as unhealthy.

create or replace view centiloc.board_health as
select tenant,
       board_sn,
       b.status,
       b.momentum,
       b.fw_version,
       b.last_connection_at,
       b.last_disconnection_at,
       b.last_error_at,
       i.last_item_at,
       coalesce(c.items, 0) as items,
       b.status = 'CONNECTED' as is_healthy
  from centiloc.board_state b
  full join (select tenant, board_sn, max(momentum) as last_item_at
               from centiloc.item_state
              where board_sn <> ''
              group by tenant, board_sn) i using (tenant, board_sn)
  left join (select tenant, board_sn, count(*) as items
               from centiloc.board_content
              group by tenant, board_sn) c using (tenant, board_sn);

comment on column centiloc.board_health.is_healthy is
    'True if the newest status is CONNECTED, false if it is any other; null if no status is known.';
comment on column centiloc.board_event.status is
    'CONNECTED, DISCONNECTED, ONERROR, MAINTENANCE, DEGRADED, or another status sent by the platform.';
comment on column centiloc.board_state.status is
    'CONNECTED, DISCONNECTED, ONERROR, MAINTENANCE, DEGRADED, or another status sent by the platform.';
