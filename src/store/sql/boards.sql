-- One batch of board events and their changes to board_state, in one statement. The lists of columns
-- in braces are filled in by src/store/kinds/columns.rs. Only the newest event of each board within
-- the batch has is_newest.
-- {+2} is the latest plausible momentum: events after it are not is_newest, and any event before it
-- replaces a state after it.
with input as (
    select *
      from unnest({arrays}, {+1}::boolean[]) as t ({names}, is_newest)
), event as (
    insert into centiloc.board_event ({names})
    select {values}
      from input
    on conflict (momentum, event_id) do nothing
    returning tableoid
), state as (
    insert into centiloc.board_state as s (tenant, board_sn, {state})
    select tenant, board_sn, {state_values}
      from input
     where is_newest
    on conflict (tenant, board_sn) do update set ({state}) = row ({excluded.state})
    where {newer}
)
select count(*) as inserted, 0::bigint as in_default from event
