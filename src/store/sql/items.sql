-- One batch of item events and what they change in item_state, in one statement.
-- A row of the input that is the newest of its tag on its board within the batch has first_seen_at
-- (least momentum of the batch) and entered_at (first arrival after the last leave within the
-- batch; null if the newest is a leave); in the other rows both are null. The two are the same if
-- no leave came before within the batch: then an entered_at that is stored may be the true one.
-- $29 is the latest plausible momentum: events after it have no first_seen_at, and a state after it
-- gives way to any event before it.
-- A stored event is never changed. State changes by (momentum, event_id), not by arrival, and is
-- not written when nothing changes. Labels come as array literals because unnest flattens nested arrays.
with input as (
    select *
      from unnest(
           $1::timestamptz[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[],
           $6::boolean[], $7::text[], $8::integer[], $9::integer[], $10::integer[],
           $11::integer[], $12::integer[], $13::integer[], $14::integer[], $15::integer[],
           $16::interval[], $17::real[], $18::text[], $19::text[], $20::text[], $21::text[],
           $22::text[], $23::text[], $24::boolean[], $25::text[], $26::bytea[],
           $27::timestamptz[], $28::timestamptz[]
           ) as t (
           momentum, event_id, received_at, tenant, uid, is_in, board_sn, x_mm, y_mm,
           shelf_x_mm, shelf_y_mm, floor_x_mm, floor_y_mm, floor, nb_hits, hold_time,
           fill_ratio, product_reference, shelf_sn, furniture_sn, loc_reference, loc_labels,
           item_labels, is_interpolated, extra, payload, first_seen_at, entered_at
           )
), event as (
    insert into centiloc.item_event (
        momentum, event_id, received_at, tenant, uid, is_in, board_sn, x_mm, y_mm, shelf_x_mm,
        shelf_y_mm, floor_x_mm, floor_y_mm, floor, nb_hits, hold_time, fill_ratio,
        product_reference, shelf_sn, furniture_sn, loc_reference, loc_labels, item_labels,
        is_interpolated, extra, payload
    )
    select
        momentum, event_id, received_at, tenant, uid, is_in, board_sn, x_mm, y_mm, shelf_x_mm,
        shelf_y_mm, floor_x_mm, floor_y_mm, floor, nb_hits, hold_time, fill_ratio,
        product_reference, shelf_sn, furniture_sn, loc_reference, loc_labels::text[],
        item_labels::text[], is_interpolated, extra::jsonb, payload
      from input
    on conflict (momentum, event_id) do nothing
    returning tableoid
), state as (
    insert into centiloc.item_state as s (
        momentum, event_id, received_at, tenant, uid, is_in, board_sn, x_mm, y_mm, shelf_x_mm,
        shelf_y_mm, floor_x_mm, floor_y_mm, floor, nb_hits, hold_time, fill_ratio,
        product_reference, shelf_sn, furniture_sn, loc_reference, loc_labels, item_labels,
        is_interpolated, extra, first_seen_at, entered_at
    )
    select
        momentum, event_id, received_at, tenant, uid, is_in, coalesce(board_sn, ''), x_mm, y_mm,
        shelf_x_mm, shelf_y_mm, floor_x_mm, floor_y_mm, floor, nb_hits, hold_time, fill_ratio,
        product_reference, shelf_sn, furniture_sn, loc_reference, loc_labels::text[],
        item_labels::text[], is_interpolated, extra::jsonb, first_seen_at, entered_at
      from input
     where first_seen_at is not null
    on conflict (tenant, uid, board_sn) do update set
        momentum = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.momentum else s.momentum end,
        event_id = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.event_id else s.event_id end,
        received_at = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.received_at else s.received_at end,
        is_in = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.is_in else s.is_in end,
        x_mm = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.x_mm else s.x_mm end,
        y_mm = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.y_mm else s.y_mm end,
        shelf_x_mm = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.shelf_x_mm else s.shelf_x_mm end,
        shelf_y_mm = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.shelf_y_mm else s.shelf_y_mm end,
        floor_x_mm = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.floor_x_mm else s.floor_x_mm end,
        floor_y_mm = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.floor_y_mm else s.floor_y_mm end,
        floor = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.floor else s.floor end,
        nb_hits = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.nb_hits else s.nb_hits end,
        hold_time = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.hold_time else s.hold_time end,
        fill_ratio = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.fill_ratio else s.fill_ratio end,
        product_reference = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.product_reference else s.product_reference end,
        shelf_sn = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.shelf_sn else s.shelf_sn end,
        furniture_sn = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.furniture_sn else s.furniture_sn end,
        loc_reference = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.loc_reference else s.loc_reference end,
        loc_labels = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.loc_labels else s.loc_labels end,
        item_labels = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.item_labels else s.item_labels end,
        is_interpolated = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.is_interpolated else s.is_interpolated end,
        extra = case when s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
            then excluded.extra else s.extra end,
        first_seen_at = least(excluded.first_seen_at, s.first_seen_at),
        entered_at = case
            when not (s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)) then s.entered_at
            when not excluded.is_in then null
            when s.momentum > $29 then excluded.entered_at
            when excluded.entered_at <> excluded.first_seen_at then excluded.entered_at
            when s.is_in then s.entered_at
            when excluded.entered_at > s.momentum then excluded.entered_at
            else excluded.momentum end
    where s.momentum > $29 or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)
       or excluded.first_seen_at < s.first_seen_at
)
select count(*) as inserted,
       count(*) filter (where tableoid = (
           select partdefid from pg_catalog.pg_partitioned_table
            where partrelid = 'centiloc.item_event'::regclass)) as in_default
  from event
