-- Computes the sums of some hours or days from events and stays. {table} and {key} name the table and
-- its column, {start} the start of an hour or day. $1 are the starts, $2 is the width. What was there
-- for them is deleted before. A stay that lasts since before the first start is the newest earlier one
-- of its tag.
with span as materialized (
    select start from unnest($1::timestamptz[]) as start
), event as (
    select span.start, e.tenant, e.key, e.uid, e.is_in
      from span
     cross join lateral (
           select tenant, {key_of_event} as key, uid, is_in
             from centiloc.item_event
            where momentum >= span.start
              and momentum < span.start + $2
              and centiloc.is_plausible(momentum, received_at)
           offset 0) e
     where e.key is not null
), stay as (
    select span.start, s.tenant, s.key, s.uid, s.entered_at, s.left_at
      from (select tenant, {key} as key, uid, entered_at, left_at
              from centiloc.stay
             where entered_at >= (select min(start) from span)
               and entered_at < (select max(start) + $2 from span)
             union all
            select newest.tenant, newest.{key}, newest.uid, newest.entered_at, newest.left_at
              from centiloc.item_board i
             cross join lateral (
                   select *
                     from centiloc.stay
                    where tenant = i.tenant
                      and uid = i.uid
                      and entered_at < (select min(start) from span)
                    order by entered_at desc, entered_id desc
                    limit 1) newest
             where newest.left_at >= (select min(start) from span)
                or newest.left_at is null) s
     cross join lateral generate_series(
               date_bin($2, greatest(s.entered_at, (select min(start) from span)),
                        timestamptz '2000-01-01 00:00+00'),
               least(s.left_at, (select max(start) from span)), $2) as during
      join span on span.start = during
     where s.key is not null
), row as (
    select start, tenant, key, uid, 1 as movements, is_in::integer as ins,
           (not is_in)::integer as outs, 0 as arrivals, 0 as departures, interval '0' as occupied,
           0 as lasting
      from event
     union all
    select start, tenant, key, uid, 0, 0, 0,
           (entered_at >= start)::integer,
           coalesce(left_at < start + $2, false)::integer,
           least(left_at, start + $2) - greatest(entered_at, start),
           (entered_at < start)::integer
      from stay
), tag as (
    select start, tenant, key, uid, sum(movements) as movements, sum(ins) as ins, sum(outs) as outs,
           sum(arrivals) as arrivals, sum(departures) as departures, sum(occupied) as occupied,
           sum(lasting) as lasting
      from row
     group by start, tenant, key, uid
)
insert into centiloc.{table} (
    {start}, tenant, {key}, movements, in_events, out_events, arrivals, departures, items, occupied,
    items_at_start
)
select start, tenant, key, sum(movements), sum(ins), sum(outs), sum(arrivals), sum(departures),
       count(*), sum(occupied), sum(lasting)
  from tag
 group by start, tenant, key
