-- Questions of dashboards, each with the limit of its time at 10 million events, ms, and the statement
-- that answered it from the views before there were stays, where that is possible.

-- where is an item | 1
select * from centiloc.item_location where uid = 'E00400000000002a'
-- before
select * from former.item_location where uid = 'E00400000000002a'

-- what lies on a board | 5
select * from centiloc.board_content where board_sn = 'B0007'
-- before
select * from former.board_content where board_sn = 'B0007'

-- where are all items | 50
select * from centiloc.item_location
-- before
select * from former.item_location

-- stock by product | 50
select * from centiloc.stock_by_product
-- before
select tenant, product_reference, count(*), count(distinct board_sn), min(entered_at)
  from former.item_location where is_in group by tenant, product_reference

-- stock by location | 50
select * from centiloc.stock_by_location

-- stock by shelf | 50
select * from centiloc.stock_by_shelf

-- items not seen for an hour | 100
select * from centiloc.items_not_seen_since(now() - interval '1 hour')

-- hourly rates, 30 days | 50
select * from centiloc.movement_rate('1 hour', now() - interval '30 days', now())
-- before
select date_bin('1 hour', momentum, '2000-01-01 00:00+00'), tenant, board_sn, count(*),
       count(*) filter (where is_in), count(*) filter (where not is_in)
  from centiloc.item_event where momentum >= now() - interval '30 days' group by 1, 2, 3

-- daily rates, 30 days | 50
select * from centiloc.movement_rate('1 day', now() - interval '30 days', now())

-- dwell by board, 1 day | 20
select * from centiloc.dwell(now() - interval '1 day', now())
-- before
select tenant, board_sn, count(*),
       percentile_cont(array[0.5, 0.9, 0.95]) within group (order by duration), max(duration),
       avg(duration)
  from former.item_stay where left_at >= now() - interval '1 day' group by tenant, board_sn

-- dwell by board, 30 days | 100
select * from centiloc.dwell(now() - interval '30 days', now())
-- before
select tenant, board_sn, count(*),
       percentile_cont(array[0.5, 0.9, 0.95]) within group (order by duration), max(duration),
       avg(duration)
  from former.item_stay where left_at >= now() - interval '30 days' group by tenant, board_sn

-- dwell by product, 1 day |
select * from centiloc.dwell(now() - interval '1 day', now(), 'product')

-- occupancy by hour, 1 week | 100
select * from centiloc.occupancy('1 hour', now() - interval '7 days')
-- before
select b, s.tenant, s.board_sn, count(*)
  from generate_series(date_trunc('hour', now() - interval '7 days'), now(), interval '1 hour') b
  join former.item_stay s on s.entered_at < b and (s.left_at >= b or s.left_at is null)
 group by b, s.tenant, s.board_sn

-- occupancy by hour, 1 week of last month | 100
select * from centiloc.occupancy('1 hour', now() - interval '37 days', now() - interval '30 days')

-- heat map of a board, 30 days | 100
select * from centiloc.board_heat_map('B0007', 50, now() - interval '30 days')

-- content of a board a month ago | 20
select * from centiloc.board_content_at('B0007', now() - interval '30 days')

-- path of an item | 5
select * from centiloc.item_path('E00400000000002a')
-- before
select * from former.item_stay where uid = 'E00400000000002a' order by entered_at

-- busiest boards, 1 week | 100
select * from centiloc.busiest_boards(now() - interval '7 days')

-- week against week |
select * from centiloc.week_against_week()

-- availability of boards, 30 days | 50
select * from centiloc.board_availability(now() - interval '30 days')

-- silent boards | 50
select * from centiloc.board_silence

-- health of boards | 50
select * from centiloc.board_health
-- before
select * from former.board_health

-- list of boards | 5
select * from centiloc.board_list
-- before
select distinct tenant, board_sn from centiloc.item_state

-- list of products | 5
select * from centiloc.product_list
-- before
select distinct tenant, product_reference from centiloc.item_state

-- list of locations | 5
select * from centiloc.location_list

-- list of shelves | 5
select * from centiloc.shelf_list

-- boards of the layout that are missing | 50
select * from centiloc.layout_missing_board

-- boards that are not in the layout | 5
select * from centiloc.layout_unknown_board

-- empty locations | 50
select * from centiloc.empty_location
