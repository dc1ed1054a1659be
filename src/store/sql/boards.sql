-- One batch of board events and what they change in board_state, in one statement. Only the
-- newest of each board within the batch has is_newest.
-- $14 is the latest plausible momentum: events after it are not is_newest, and a state after it
-- gives way to any event before it.
with input as (
    select *
      from unnest(
           $1::timestamptz[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[],
           $7::text[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::text[],
           $12::bytea[], $13::boolean[]
           ) as t (
           momentum, event_id, received_at, tenant, board_sn, status, fw_version,
           last_connection_at, last_disconnection_at, last_error_at, extra, payload, is_newest
           )
), event as (
    insert into centiloc.board_event (
        momentum, event_id, received_at, tenant, board_sn, status, fw_version,
        last_connection_at, last_disconnection_at, last_error_at, extra, payload
    )
    select
        momentum, event_id, received_at, tenant, board_sn, status, fw_version,
        last_connection_at, last_disconnection_at, last_error_at, extra::jsonb, payload
      from input
    on conflict (momentum, event_id) do nothing
    returning tableoid
), state as (
    insert into centiloc.board_state as s (
        momentum, event_id, received_at, tenant, board_sn, status, fw_version,
        last_connection_at, last_disconnection_at, last_error_at, extra
    )
    select
        momentum, event_id, received_at, tenant, board_sn, status, fw_version,
        last_connection_at, last_disconnection_at, last_error_at, extra::jsonb
      from input
     where is_newest
    on conflict (tenant, board_sn) do update set
        momentum = excluded.momentum,
        event_id = excluded.event_id,
        received_at = excluded.received_at,
        status = excluded.status,
        fw_version = excluded.fw_version,
        last_connection_at = excluded.last_connection_at,
        last_disconnection_at = excluded.last_disconnection_at,
        last_error_at = excluded.last_error_at,
        extra = excluded.extra
    where s.momentum > $14 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
)
select count(*) as inserted, 0::bigint as in_default from event
