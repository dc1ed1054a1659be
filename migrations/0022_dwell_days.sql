-- Dwell times of days as histograms, and items at the start of each hour: what dashboards ask of weeks
-- and months is answered from them.

alter table centiloc.board_hour add column items_at_start bigint;
alter table centiloc.location_hour add column items_at_start bigint;
alter table centiloc.product_day add column items_at_start bigint;

comment on column centiloc.board_hour.items_at_start is
    'Items that were on the board just before the hour. Null for hours that were final before it was kept.';
comment on column centiloc.location_hour.items_at_start is
    'Items that were at the location just before the hour. Null for hours that were final before it was kept.';
comment on column centiloc.product_day.items_at_start is
    'Items of the product that were on a board just before the day. Null for days that were final before it was kept.';

create table centiloc.dwell_day (
    day      timestamptz not null,
    by       text        not null check (by in ('board', 'product', 'location')),
    tenant   text        not null,
    key      text        not null,
    stays    bigint      not null,
    total    interval    not null,
    longest  interval    not null,
    buckets  smallint[]  not null,
    counts   integer[]   not null,
    primary key (day, by, tenant, key)
);

comment on table centiloc.dwell_day is
    'How long the stays lasted that ended on a day (UTC), by board, product or location. Kept when the events are deleted, corrected by late ones. Read dwell().';
comment on column centiloc.dwell_day.day is 'Start of the day.';
comment on column centiloc.dwell_day.by is 'board, product or location.';
comment on column centiloc.dwell_day.tenant is 'Centiloc tenantID.';
comment on column centiloc.dwell_day.key is 'The board, product or location. Empty for stays without one.';
comment on column centiloc.dwell_day.stays is 'Number of stays that ended.';
comment on column centiloc.dwell_day.total is 'Their durations, summed.';
comment on column centiloc.dwell_day.longest is 'The longest of them.';
comment on column centiloc.dwell_day.buckets is
    'Histogram of the durations: bucket n holds those from 1.1^n - 1 up to 1.1^(n+1) - 1 seconds. Empty buckets are left out.';
comment on column centiloc.dwell_day.counts is 'Number of stays in each of buckets.';

create function centiloc.dwell_bucket(seconds double precision)
returns smallint language sql immutable strict parallel safe as $$
    select floor(ln(greatest(seconds, 0) + 1) / ln(1.1::double precision))::smallint
$$;

comment on function centiloc.dwell_bucket(double precision) is
    'The bucket of dwell_day.buckets that holds a duration.';

-- An hour without an event is computed too, because items lie on boards.
alter table centiloc.rollup_floor add column marked timestamptz not null default '-infinity';

comment on column centiloc.rollup_floor.marked is
    'Hours and days before this time are computed or in rollup_pending.';

-- Hours and days that are not final get what was added.
insert into centiloc.rollup_pending (width, start)
select w.width, start
  from (select greatest(min(hour), (select kept from centiloc.rollup_floor)) as first
          from centiloc.board_hour
        having count(*) > 0) oldest
 cross join (values (interval '1 hour'), (interval '1 day')) as w (width)
 cross join lateral generate_series(
           date_bin(w.width, first, timestamptz '2000-01-01 00:00+00'), now(),
           make_interval(secs => extract(epoch from w.width))) as start
    on conflict (width, start) do nothing;

update centiloc.rollup_floor
   set marked = date_bin('1 hour', now(), timestamptz '2000-01-01 00:00+00');

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
        select date_bin('1 day', since + interval '1 day' - interval '1 microsecond', at) as first,
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
        select p.start, p.start + interval '1 day'
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

comment on function centiloc.dwell(timestamptz, timestamptz, text) is
    'How long items stayed, from the stays that ended in a period: percentiles by board, product, location, shelf or furniture. For more than two days of board, product or location, percentiles come from the histograms of dwell_day, exact to 10 % and mostly to 2 %.';

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
        select timestamptz '2000-01-01 00:00:00+00' as at
    ), whole as materialized (
        select date_bin(bucket, greatest(since, coalesce(least((select min(entered_at) from centiloc.stay),
                                                               (select min(hour) from centiloc.board_hour)),
                                                         now())), at) as first,
               least(until, now()) as last,
               least(until + bucket, now()) as until
          from origin
    ), span as materialized (
        -- Buckets of whole hours before the first hour that is not computed.
        select first,
               case when extract(epoch from bucket)::numeric % 3600 = 0
                    then greatest(first, date_bin(bucket, least(
                        last + bucket - interval '1 microsecond',
                        (select marked from centiloc.rollup_floor),
                        (select min(start) from centiloc.rollup_pending
                          where width = interval '1 hour' and start >= first)), first))
                    else first end as past
          from whole
    ), period as materialized (
        select s.past as first, w.last, w.until
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
         cross join lateral generate_series(s.first, s.past - bucket, bucket) as g (bucket_start)
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
               select greatest(date_bin(bucket, entered_at, p.first), p.first - bucket)
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
                 from generate_series(p.first, p.last, bucket) as bucket_start
           )
           select bucket_start,
                  least(bucket_start + bucket, now()) as bucket_end,
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

comment on function centiloc.occupancy(interval, timestamptz, timestamptz) is
    'Items on each board just before each bucket of time, and their mean number over the bucket, up to now. Buckets are aligned to UTC midnight and cannot be months. Buckets of whole hours are read from board_hour, also for times whose events are deleted.';

create or replace function centiloc.week_against_week(weeks integer default 2)
returns table (
    tenant            text,
    board_sn          text,
    week_start        timestamptz,
    arrivals          bigint,
    departures        bigint,
    arrivals_before   bigint,
    departures_before bigint
) language sql stable parallel safe as $$
    with week as materialized (
        select n, now() - (weeks - n) * interval '7 days' as week_start,
               now() - (weeks - n - 1) * interval '7 days' as week_end
          from generate_series(0, weeks - 1) as n
    ), hour as materialized (
        -- Whole hours of each week.
        select n, date_bin('1 hour', week_start + interval '1 hour' - interval '1 microsecond',
                           timestamptz '2000-01-01 00:00+00') as first,
               date_bin('1 hour', week_end, timestamptz '2000-01-01 00:00+00') as past
          from week
    ), piece as materialized (
        select n, week_start as since, first as until from week join hour using (n)
         union all
        select n, past, week_end from week join hour using (n)
         union all
        select h.n, p.start, p.start + interval '1 hour'
          from hour h
          join centiloc.rollup_pending p
            on p.width = interval '1 hour' and p.start >= h.first and p.start < h.past
    ), counted as (
        select h.n, b.tenant, b.board_sn, b.arrivals, b.departures
          from hour h
          join centiloc.board_hour b on b.hour >= h.first and b.hour < h.past
         where not exists (
               select
                 from centiloc.rollup_pending p
                where p.width = interval '1 hour'
                  and p.start = b.hour)
         union all
        select piece.n, s.tenant, s.board_sn, 1, 0
          from piece
         cross join lateral (
               select tenant, board_sn
                 from centiloc.stay
                where entered_at >= piece.since
                  and entered_at < piece.until
               offset 0) s
         union all
        select piece.n, s.tenant, s.board_sn, 0, 1
          from piece
         cross join lateral (
               select tenant, board_sn
                 from centiloc.stay
                where left_at >= piece.since
                  and left_at < piece.until
               offset 0) s
    ), summed as materialized (
        select n, tenant, board_sn, sum(arrivals)::bigint as arrivals,
               sum(departures)::bigint as departures
          from counted
         group by n, tenant, board_sn
    )
    select b.tenant, b.board_sn, w.week_start,
           coalesce(s.arrivals, 0), coalesce(s.departures, 0),
           lag(coalesce(s.arrivals, 0)) over board, lag(coalesce(s.departures, 0)) over board
      from week w
     cross join centiloc.board_activity b
      left join summed s using (n, tenant, board_sn)
     where b.board_sn <> ''
    window board as (partition by b.tenant, b.board_sn order by w.n)
$$;

-- Roles that may use item_state may use what is computed with it.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.grantee, a.privilege_type
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         where c.oid = 'centiloc.item_state'::regclass
           and a.grantee not in (0, c.relowner)
           and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE')
    loop
        execute format('grant %s on centiloc.dwell_day to %s', privilege.privilege_type,
                       privilege.grantee::regrole);
        if privilege.privilege_type = 'INSERT' then
            execute format('grant delete on centiloc.dwell_day to %s', privilege.grantee::regrole);
        end if;
    end loop;
end
$$;
