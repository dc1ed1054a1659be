-- Days have 24 hours in every time zone, and hours whose events may be deleted are read from their sums
-- even while an older event waits. The status page shows the dead letters that were seen last.

create index dead_letter_last_seen_at on centiloc.dead_letter (last_seen_at desc, id desc)
 where replayed_at is null;

create or replace function centiloc.occupancy(
    bucket interval,
    since timestamptz,
    until timestamptz default 'infinity'
) returns table (
    bucket_start   timestamptz,
    tenant         text,
    board_sn       text,
    items_at_start bigint,
    mean_items     double precision
) language sql stable parallel safe as $$
    with origin as materialized (
        -- Adding a day as such follows the time zone of the session.
        select timestamptz '2000-01-01 00:00:00+00' as at,
               make_interval(secs => date_part('epoch', bucket)) as length
    ), whole as materialized (
        select date_bin(bucket, greatest(since, coalesce(least((select min(entered_at) from centiloc.stay),
                                                               (select min(hour) from centiloc.board_hour)),
                                                         now())), at) as first,
               least(until, now()) as last,
               least(until + length, now()) as until, length
          from origin
    ), span as materialized (
        -- Buckets of whole hours before the first hour that is not computed.
        select first, length,
               case when extract(epoch from bucket)::numeric % 3600 = 0
                    then greatest(first, date_bin(bucket, least(
                        last + length - interval '1 microsecond',
                        (select marked from centiloc.rollup_floor),
                        (select min(start) from centiloc.rollup_pending
                          where width = interval '1 hour' and start >= first)), first))
                    else first end as past
          from whole
    ), period as materialized (
        select s.past as first, w.last, w.until, w.length
          from whole w
         cross join span s
    ), computed as (
        select date_bin(bucket, h.hour, s.first) as bucket_start, h.tenant, h.board_sn,
               case when h.hour = date_bin(bucket, h.hour, s.first)
                    then h.items_at_start else 0 end as items,
               date_part('epoch', h.occupied) as seconds
          from span s
          join centiloc.board_hour h on h.hour >= s.first and h.hour < s.past
         where h.board_sn <> ''
         union all
        select g.bucket_start, b.tenant, b.board_sn, 0, 0
          from span s
         -- With constant steps the planner groups by hash.
         cross join lateral generate_series(
                   s.first, s.past - make_interval(secs => date_part('epoch', bucket)),
                   make_interval(secs => date_part('epoch', bucket))) as g (bucket_start)
         cross join centiloc.board_activity b
         where b.board_sn <> ''
    ), lasting as materialized (
        select i.tenant, s.board_sn, array_agg(s.entered_at) as entered_at
          from period p
         cross join centiloc.item_board i
         cross join lateral (
               select board_sn, entered_at, left_at
                 from centiloc.stay
                where tenant = i.tenant
                  and uid = i.uid
                  and entered_at < p.until
                order by entered_at desc, entered_id desc
                limit 1) s
         where p.until < now()
           and p.first < p.last
           and (s.left_at >= p.until or s.left_at is null)
         group by i.tenant, s.board_sn
    )
    select bucket_start, tenant, board_sn, sum(items)::bigint,
           sum(seconds) / date_part('epoch', bucket)
      from computed
     group by bucket_start, tenant, board_sn
     union all
    select o.bucket_start, b.tenant, b.board_sn, o.items::bigint,
           o.items + (o.change * date_part('epoch', o.bucket_end - p.first) - o.seconds)
                     / date_part('epoch', o.bucket_end - o.bucket_start)
      from period p
     cross join centiloc.board_activity b
      left join lasting l using (tenant, board_sn)
     cross join lateral (
           with stay as materialized (
               select entered_at, left_at
                 from centiloc.stay
                where tenant = b.tenant
                  and board_sn = b.board_sn
                  and left_at >= p.first
                  and left_at < p.until
                union all
               select entered_at, null
                 from centiloc.stays_since(b.tenant, b.board_sn, p.until)
                where p.until = now()
                  and entered_at < p.until
                union all
               select entered_at, null
                 from unnest(l.entered_at) as lasting (entered_at)
           ), change as (
               select greatest(date_bin(bucket, entered_at, p.first), p.first - p.length)
                          as bucket_start,
                      count(*)::double precision as items,
                      date_part('epoch', sum(entered_at - p.first)) as seconds
                 from stay
                group by 1
                union all
               select date_bin(bucket, left_at, p.first), -count(*)::double precision,
                      -date_part('epoch', sum(left_at - p.first))
                 from stay
                where left_at is not null
                group by 1
                union all
               select bucket_start, 0, 0
                 from generate_series(p.first, p.last, p.length) as bucket_start
           )
           select bucket_start,
                  least(bucket_start + p.length, now()) as bucket_end,
                  coalesce(sum(sum(items)) over (
                      order by bucket_start
                       rows between unbounded preceding and 1 preceding), 0) as items,
                  sum(items) as change,
                  sum(seconds) as seconds
             from change
            group by bucket_start
           offset 0) o
     where p.first < p.last
       and o.bucket_start >= p.first
       and o.bucket_start < p.last
       and b.board_sn <> ''
$$;

create or replace function centiloc.dwell(
    since timestamptz,
    until timestamptz default 'infinity',
    by text default 'board'
) returns table (
    tenant text,
    key    text,
    stays  bigint,
    p50    interval,
    p90    interval,
    p95    interval,
    max    interval,
    mean   interval
) language sql stable parallel safe as $$
    with origin as materialized (
        select timestamptz '2000-01-01 00:00:00+00' as at
    ), span as materialized (
        -- Whole days, if the period is long.
        select date_bin('1 day', since + interval '24 hours' - interval '1 microsecond', at) as first,
               date_bin('1 day', least(until, now()), at) as past
          from origin
         where since < least(until, now()) - interval '2 days'
           and by in ('board', 'product', 'location')
    ), day as materialized (
        select d.*
          from centiloc.dwell_day d
         where d.by = dwell.by
           and d.day >= (select first from span)
           and d.day < (select past from span)
           and not exists (
               select
                 from centiloc.rollup_pending p
                where p.width = interval '1 day'
                  and p.start = d.day)
    ), piece as materialized (
        select since as since, first as until from span
         union all
        select past, until from span
         union all
        select p.start, p.start + interval '24 hours'
          from centiloc.rollup_pending p, span
         where p.width = interval '1 day'
           and p.start >= first
           and p.start < past
    ), single as materialized (
        select s.tenant,
               coalesce(case by when 'product' then s.product_reference
                                when 'location' then s.loc_reference
                                else s.board_sn end, '') as key,
               date_part('epoch', s.left_at - s.entered_at) as seconds
          from piece
         cross join lateral (
               select *
                 from centiloc.stay
                where left_at >= piece.since
                  and left_at < piece.until
               offset 0) s
    ), total as (
        select tenant, key, sum(stays) as stays, max(longest) as longest, sum(total) as total
          from (select tenant, key, stays, date_part('epoch', longest) as longest,
                       date_part('epoch', total) as total
                  from day
                 union all
                select tenant, key, 1, seconds, seconds from single) one
         where by <> 'board' or key <> ''
         group by tenant, key
    ), cell as (
        select tenant, key, bucket, sum(n) as n
          from (select d.tenant, d.key, b.bucket, b.n
                  from day d
                 cross join lateral unnest(d.buckets, d.counts) as b (bucket, n)
                 union all
                select tenant, key, centiloc.dwell_bucket(seconds), 1 from single) one
         group by tenant, key, bucket
    ), ranked as (
        select tenant, key, c.bucket, c.n, t.longest,
               sum(c.n) over (partition by tenant, key order by c.bucket) - c.n as before,
               t.stays - 1 as last
          from cell c
          join total t using (tenant, key)
    ), percentile as (
        -- Within a bucket durations are taken as evenly spread.
        select tenant, key,
               max(value) filter (where p = 0.5) as p50,
               max(value) filter (where p = 0.9) as p90,
               max(value) filter (where p = 0.95) as p95
          from (select r.tenant, r.key, p.p,
                       least(r.longest,
                             1.1::double precision ^ r.bucket
                             * (1 + 0.1 * (p.p * r.last - r.before + 0.5) / r.n) - 1) as value
                  from ranked r
                 cross join (values (0.5), (0.9), (0.95)) as p (p)
                 where p.p * r.last >= r.before
                   and p.p * r.last < r.before + r.n) v
         group by tenant, key
    )
    select tenant, nullif(key, ''), stays::bigint, make_interval(secs => p.p50), make_interval(secs => p.p90),
           make_interval(secs => p.p95), make_interval(secs => t.longest),
           make_interval(secs => t.total / t.stays::double precision)
      from total t
      join percentile p using (tenant, key)
     union all
    select d.tenant, d.key, d.stays,
           make_interval(secs => d.percentiles[1]),
           make_interval(secs => d.percentiles[2]),
           make_interval(secs => d.percentiles[3]),
           make_interval(secs => d.longest),
           make_interval(secs => d.average)
      from (select b.tenant, b.board_sn as key, s.*
              from centiloc.board_activity b
             cross join lateral (
                   select count(*) as stays,
                          percentile_cont(array[0.5, 0.9, 0.95]) within group (order by seconds)
                              as percentiles,
                          max(seconds) as longest,
                          avg(seconds) as average
                     from (select date_part('epoch', left_at - entered_at) as seconds
                             from centiloc.stay
                            where tenant = b.tenant
                              and board_sn = b.board_sn
                              and left_at >= since
                              and left_at < until
                           offset 0) ended) s
             where by = 'board'
               and not exists (select from span)
               and b.board_sn <> ''
               and s.stays > 0
             union all
            select tenant, key, count(*),
                   percentile_cont(array[0.5, 0.9, 0.95]) within group (order by seconds),
                   max(seconds),
                   avg(seconds)
              from (select s.tenant,
                           case by when 'product' then s.product_reference
                                   else s.loc_reference end as key,
                           date_part('epoch', s.left_at - s.entered_at) as seconds
                      from centiloc.stay s
                     where by in ('product', 'location')
                       and not exists (select from span)
                       and s.left_at >= since
                       and s.left_at < until
                    offset 0) ended
             group by tenant, key
             union all
            select tenant, key, count(*),
                   percentile_cont(array[0.5, 0.9, 0.95]) within group (order by seconds),
                   max(seconds),
                   avg(seconds)
              from (select s.tenant,
                           case by when 'shelf' then i.shelf_sn else i.furniture_sn end as key,
                           date_part('epoch', s.left_at - s.entered_at) as seconds
                      from centiloc.stay s
                      join centiloc.item_state i using (tenant, uid, board_sn)
                     where by in ('shelf', 'furniture')
                       and s.left_at >= since
                       and s.left_at < until
                    offset 0) ended
             group by tenant, key) d
$$;

create or replace function centiloc.movement_rate(
    bucket interval,
    since timestamptz default '-infinity',
    until timestamptz default 'infinity'
) returns table (
    bucket_start timestamptz,
    tenant       text,
    board_sn     text,
    movements    bigint,
    in_events    bigint,
    out_events   bigint
) language sql stable parallel safe as $$
    with origin as materialized (
        select timestamptz '2000-01-01 00:00:00+00' as at
    ), span as materialized (
        -- Whole hours before the oldest event that is not computed, if a bucket consists of whole
        -- hours.
        select case when extract(epoch from bucket)::numeric % 3600 = 0
                    then date_bin('1 hour', since + interval '1 hour' - interval '1 microsecond', at)
                    else until end as first,
               case when extract(epoch from bucket)::numeric % 3600 = 0
                    then least(date_bin('1 hour', until, at), date_bin('1 hour', now(), at),
                               -- Sums are final where events may be deleted.
                               (select greatest(date_bin('1 hour', min(m), at),
                                                (select kept from centiloc.rollup_floor))
                                  from centiloc.stay_pending
                                 cross join lateral unnest(momenta) as m
                                having count(*) > 0))
                    else until end as past
          from origin
    ), computed as not materialized (
        select h.hour, h.tenant, nullif(h.board_sn, '') as board_sn, h.movements, h.in_events,
               h.out_events
          from centiloc.board_hour h
         where h.hour >= (select first from span)
           and h.hour < (select past from span)
           and h.movements > 0
           and not exists (
               select
                 from centiloc.rollup_pending p
                where p.width = interval '1 hour'
                  and p.start = h.hour
                  and p.start >= (select kept from centiloc.rollup_floor))
    ), piece as materialized (
        select since as since, least(first, until) as until from span where since < first
         union all
        select greatest(past, first, since), until from span where past < until or first >= past
         union all
        select p.start, p.start + interval '1 hour'
          from centiloc.rollup_pending p, span
         where p.width = interval '1 hour'
           and p.start >= greatest(first, (select kept from centiloc.rollup_floor))
           and p.start < past
    ), raw as (
        select e.momentum, e.tenant, e.board_sn, 1, e.is_in::integer, (not e.is_in)::integer
          from piece
         cross join lateral (
               select i.momentum, i.tenant, i.board_sn, i.is_in
                 from centiloc.item_event i
                where i.momentum >= piece.since
                  and i.momentum < piece.until
                  and centiloc.is_plausible(i.momentum, i.received_at)
               offset 0) e
    )
    select hour, tenant, board_sn, movements, in_events, out_events
      from computed
     where bucket = interval '1 hour'
     union all
    select date_bin(bucket, moved.at, origin.at), moved.tenant, moved.board_sn,
           sum(moved.movements)::bigint, sum(moved.ins)::bigint, sum(moved.outs)::bigint
      from (select * from computed where bucket <> interval '1 hour'
             union all
            table raw) as moved (at, tenant, board_sn, movements, ins, outs)
     cross join origin
     group by 1, 2, 3
$$;
