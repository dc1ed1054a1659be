-- States whose rows were just deleted, made anew from what is left of their events: one that arrived
-- meanwhile. $1 are the tenants, $2 the boards.
insert into centiloc.board_state as s (
    tenant, board_sn, momentum, event_id, received_at, status, fw_version, last_connection_at,
    last_disconnection_at, last_error_at, extra
)
select
    k.tenant, k.board_sn, e.momentum, e.event_id, e.received_at, e.status, e.fw_version,
    e.last_connection_at, e.last_disconnection_at, e.last_error_at, e.extra
  from unnest($1::text[], $2::text[]) as k (tenant, board_sn)
 cross join lateral (
       select *
         from centiloc.board_event
        where board_sn = k.board_sn and tenant = k.tenant
          and centiloc.is_plausible(momentum, received_at)
        order by momentum desc, event_id desc
        limit 1) e
on conflict (tenant, board_sn) do update set (
    momentum, event_id, received_at, status, fw_version, last_connection_at,
    last_disconnection_at, last_error_at, extra
) = row (
    excluded.momentum, excluded.event_id, excluded.received_at, excluded.status,
    excluded.fw_version, excluded.last_connection_at, excluded.last_disconnection_at,
    excluded.last_error_at, excluded.extra
)
where (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
returning 1
