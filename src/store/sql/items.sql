-- One batch of item events and their changes to item_state, in one statement. The lists of columns
-- in braces are filled in by src/store/kinds/columns.rs.
-- A row of the input that is the newest of its tag on its board within the batch has first_seen_at
-- (least momentum of the batch) and entered_at (first arrival after the last leave within the
-- batch; null if the newest is a leave). In the other rows both are null. The two are the same if
-- no leave came before within the batch: then an entered_at that is stored may be the true one.
-- last_in_at and last_in_id are the newest arrival within the batch, if any.
-- {+5} is the latest plausible momentum: events after it have no first_seen_at, and any event
-- before it replaces a state after it.
-- A batch without a new event leaves nothing to compute. Else all its tags are computed, which is
-- cheaper than to find those with a new event.
-- A stored event is never changed. State changes by (momentum, event_id), not by arrival, and is
-- not written when nothing changes.
with input as (
    select *
      from unnest({arrays}, {+1}::timestamptz[], {+2}::timestamptz[], {+3}::timestamptz[],
                  {+4}::uuid[])
           as t ({names}, first_seen_at, entered_at, last_in_at, last_in_id)
), event as (
    insert into centiloc.item_event ({names})
    select {values}
      from input
    on conflict (momentum, event_id) do nothing
    returning tableoid
), pending as (
    insert into centiloc.stay_pending (tenants, uids, momenta)
    select {array:tenant}, {array:uid}, {array:momentum}
     where exists (select from event)
), state as (
    insert into centiloc.item_state as s (
        tenant, uid, board_sn, {state}, first_seen_at, entered_at, last_in_at, last_in_id
    )
    select
        tenant, uid, coalesce(board_sn, ''), {state_values}, first_seen_at, entered_at,
        last_in_at, last_in_id
      from input
     where first_seen_at is not null
    on conflict (tenant, uid, board_sn) do update set
        {set},
        first_seen_at = least(excluded.first_seen_at, s.first_seen_at),
        entered_at = case
            when not {newer} then s.entered_at
            when not excluded.is_in then null
            when s.momentum > {+5} then excluded.entered_at
            when excluded.entered_at <> excluded.first_seen_at then excluded.entered_at
            when s.is_in then s.entered_at
            when excluded.entered_at > s.momentum then excluded.entered_at
            else excluded.momentum end,
        last_in_at = case when {newer_in} then excluded.last_in_at else s.last_in_at end,
        last_in_id = case when {newer_in} then excluded.last_in_id else s.last_in_id end
    where {newer} or excluded.first_seen_at < s.first_seen_at or {newer_in}
)
select count(*) as inserted,
       count(*) filter (where tableoid = (
           select partdefid from pg_catalog.pg_partitioned_table
            where partrelid = 'centiloc.item_event'::regclass)) as in_default
  from event
