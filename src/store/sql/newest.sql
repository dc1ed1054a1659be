-- One batch of events of a kind whose state is the newest event of its key, and their changes to the
-- states, in one statement. The names in braces are filled in by src/store/kinds/newest.rs and
-- columns.rs. Only the newest event of each key within the batch has is_newest.
-- {+2} is the latest plausible momentum: events after it are not is_newest, and any event before it
-- replaces a state after it.
with input as (
    select *
      from unnest({arrays}, {+1}::boolean[]) as t ({names}, is_newest)
), event as (
    insert into centiloc.{event_table} ({names})
    select {values}
      from input
    on conflict (momentum, event_id) do nothing
    returning tableoid
), state as (
    insert into centiloc.{state_table} as s ({key}, {state})
    select {key}, {state_values}
      from input
     where is_newest
    on conflict ({key}) do update set ({state}) = row ({excluded.state})
    where {newer}
)
select count(*) as inserted, 0::bigint as in_default from event
