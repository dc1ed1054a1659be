-- Computes dwell_day from the stays that ended on some days. $1 are the days. What was there for them
-- is deleted before.
insert into centiloc.dwell_day (day, by, tenant, key, stays, total, longest, buckets, counts)
select day, by, tenant, key, sum(n), make_interval(secs => sum(total)),
       make_interval(secs => max(longest)), array_agg(bucket order by bucket),
       array_agg(n order by bucket)
  from (select day.day, k.by, s.tenant, k.key, centiloc.dwell_bucket(s.seconds) as bucket,
               count(*)::integer as n, sum(s.seconds) as total, max(s.seconds) as longest
          from unnest($1::timestamptz[]) as day (day)
         cross join lateral (
               select tenant, board_sn, product_reference, loc_reference,
                      date_part('epoch', left_at - entered_at) as seconds
                 from centiloc.stay
                where left_at >= day.day
                  and left_at < day.day + interval '1 day'
               offset 0) s
         cross join lateral (
               values ('board', s.board_sn), ('product', coalesce(s.product_reference, '')),
                      ('location', coalesce(s.loc_reference, ''))) as k (by, key)
         group by 1, 2, 3, 4, 5) cell
 group by day, by, tenant, key
