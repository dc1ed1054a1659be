-- Makes states whose rows were just deleted again from the events that are left: one arrived
-- meanwhile. $1 to $3 are the keys. The lists of columns in braces are filled in by
-- src/store/kinds/columns.rs.
insert into centiloc.item_state as s (
    tenant, uid, board_sn, {state}, first_seen_at, entered_at, last_in_at, last_in_id
)
select
    k.tenant, k.uid, k.board_sn, {e.state}, past.first_seen_at,
    case when e.is_in then past.entered_at end, arrival.momentum, arrival.event_id
  from unnest($1::text[], $2::text[], $3::text[]) as k (tenant, uid, board_sn)
 cross join lateral (
       select *
         from centiloc.item_event
        where uid = k.uid and tenant = k.tenant and coalesce(board_sn, '') = k.board_sn
          and centiloc.is_plausible(momentum, received_at)
        order by momentum desc, event_id desc
        limit 1) e
 cross join lateral (
       select min(momentum) as first_seen_at,
              min(momentum) filter (where is_in and later_leaves = 0) as entered_at
         from (select momentum, is_in,
                      count(*) filter (where not is_in)
                          over (order by momentum desc, event_id desc) as later_leaves
                 from centiloc.item_event
                where uid = k.uid and tenant = k.tenant and coalesce(board_sn, '') = k.board_sn
                  and centiloc.is_plausible(momentum, received_at)) known) past
  left join lateral (
       select momentum, event_id
         from centiloc.item_event
        where uid = k.uid and tenant = k.tenant and coalesce(board_sn, '') = k.board_sn
          and is_in and centiloc.is_plausible(momentum, received_at)
        order by momentum desc, event_id desc
        limit 1) arrival on true
on conflict (tenant, uid, board_sn) do update set (
    {state}, first_seen_at, entered_at, last_in_at, last_in_id
) = row (
    {excluded.state}, least(excluded.first_seen_at, s.first_seen_at), excluded.entered_at,
    excluded.last_in_at, excluded.last_in_id
)
where (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
returning 1
