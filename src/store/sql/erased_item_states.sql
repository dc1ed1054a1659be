-- States whose rows were just deleted, made anew from what is left of their events: one that arrived
-- meanwhile. $1 to $3 are the keys.
insert into centiloc.item_state as s (
    tenant, uid, board_sn, momentum, event_id, received_at, is_in, x_mm, y_mm, shelf_x_mm,
    shelf_y_mm, floor_x_mm, floor_y_mm, floor, nb_hits, hold_time, fill_ratio, product_reference,
    shelf_sn, furniture_sn, loc_reference, loc_labels, item_labels, is_interpolated, extra,
    first_seen_at, entered_at
)
select
    k.tenant, k.uid, k.board_sn, e.momentum, e.event_id, e.received_at, e.is_in, e.x_mm, e.y_mm,
    e.shelf_x_mm, e.shelf_y_mm, e.floor_x_mm, e.floor_y_mm, e.floor, e.nb_hits, e.hold_time,
    e.fill_ratio, e.product_reference, e.shelf_sn, e.furniture_sn, e.loc_reference, e.loc_labels,
    e.item_labels, e.is_interpolated, e.extra, past.first_seen_at,
    case when e.is_in then past.entered_at end
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
on conflict (tenant, uid, board_sn) do update set (
    momentum, event_id, received_at, is_in, x_mm, y_mm, shelf_x_mm, shelf_y_mm, floor_x_mm,
    floor_y_mm, floor, nb_hits, hold_time, fill_ratio, product_reference, shelf_sn, furniture_sn,
    loc_reference, loc_labels, item_labels, is_interpolated, extra, first_seen_at, entered_at
) = row (
    excluded.momentum, excluded.event_id, excluded.received_at, excluded.is_in, excluded.x_mm,
    excluded.y_mm, excluded.shelf_x_mm, excluded.shelf_y_mm, excluded.floor_x_mm,
    excluded.floor_y_mm, excluded.floor, excluded.nb_hits, excluded.hold_time,
    excluded.fill_ratio, excluded.product_reference, excluded.shelf_sn, excluded.furniture_sn,
    excluded.loc_reference, excluded.loc_labels, excluded.item_labels, excluded.is_interpolated,
    excluded.extra, least(excluded.first_seen_at, s.first_seen_at), excluded.entered_at
)
where (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
returning 1
