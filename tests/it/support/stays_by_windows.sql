-- The definition of a stay: all events of all tags, by window functions.
with step as (
    select tenant,
           uid,
           board_sn,
           momentum,
           event_id,
           is_in,
           lag(is_in) over same_board as was_in,
           case when not lead(is_in) over same_board then lead(momentum) over same_board end as out_at
      from centiloc.item_event
     where centiloc.is_plausible(momentum, received_at)
    window same_board as (partition by tenant, uid, board_sn order by momentum, event_id)
), arrival as (
    select tenant,
           uid,
           board_sn,
           momentum,
           event_id,
           was_in is true and lag(event_id) over tag is not null
               and lag(board_sn) over tag is not distinct from board_sn as stays,
           least(out_at,
                 case when lead(event_id) over tag is not null
                       and lead(board_sn) over tag is distinct from board_sn
                      then lead(momentum) over tag end) as left_at
      from step
     where is_in
    window tag as (partition by tenant, uid order by momentum, event_id)
), stay as (
    select tenant,
           uid,
           board_sn,
           momentum,
           left_at,
           count(*) filter (where not stays)
               over (partition by tenant, uid order by momentum, event_id) as number
      from arrival
)
select tenant,
       uid,
       board_sn,
       min(momentum) as entered_at,
       max(left_at) as left_at,
       coalesce(max(left_at), now()) - min(momentum) as duration
  from stay
 group by tenant, uid, board_sn, number
