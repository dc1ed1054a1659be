\echo '-- Where is every item now?'
select uid, board_sn, loc_reference, x_mm, y_mm, entered_at
  from centiloc.item_location
 where is_in
 order by entered_at desc nulls last
 limit 3;

\echo '-- Which items are on each board?'
select board_sn, count(*) as items, max(momentum) as last_change
  from centiloc.board_content
 group by board_sn
 order by items desc
 limit 3;

\echo '-- How long did items stay, by board?'
select board_sn, count(*) as stays, avg(duration) as average, max(duration) as longest
  from centiloc.item_stay
 where left_at is not null
 group by board_sn
 order by stays desc
 limit 3;

\echo '-- How many movements? Buckets of ten seconds here, of an hour in a dashboard.'
select bucket_start, sum(movements) as movements
  from centiloc.movement_rate('10 seconds')
 group by bucket_start
 order by bucket_start desc
 limit 3;

\echo '-- Which boards are not healthy?'
select board_sn, status, momentum, last_item_at
  from centiloc.board_health
 where is_healthy is distinct from true
 order by momentum desc nulls first
 limit 3;

\echo '-- When may messages have been lost?'
select started_at, ended_at, cause, detail
  from centiloc.data_gap
 order by started_at desc
 limit 3;
