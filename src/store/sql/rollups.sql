-- Computes the sums of some hours or days from events and stays. {table} and {key} name the table and
-- its column, {start} the start of an hour or day. $1 are the starts, $2 is the width. What was there
-- for them is deleted before. A stay that lasts since before the first start is the newest earlier one
-- of its tag.
--
-- Most stays last for many whole hours. Those are counted by their first and their last, so that the
-- work depends on the number of events and stays, and not on the time that items lie on boards.
with span as materialized (
    select start from unnest($1::timestamptz[]) as start
), bound as materialized (
    select min(start) as first, max(start) + $2 as until from span
), stay as materialized (
    -- It covers the hours from whole_from to before whole_until.
    select tenant, key, uid, entered_at, left_at, entered_in, left_in,
           case when entered_at < first then first else entered_in + $2 end as whole_from,
           least(left_in, until) as whole_until
      from (select tenant, key, uid, entered_at, left_at,
                   date_bin($2, entered_at, timestamptz '2000-01-01 00:00+00') as entered_in,
                   date_bin($2, left_at, timestamptz '2000-01-01 00:00+00') as left_in
              from (select tenant, {key} as key, uid, entered_at, left_at
                      from centiloc.stay
                     where entered_at >= (select first from bound)
                       and entered_at < (select until from bound)
                     union all
                    select newest.tenant, newest.{key}, newest.uid, newest.entered_at, newest.left_at
                      from centiloc.item_board i
                     cross join lateral (
                           select *
                             from centiloc.stay
                            where tenant = i.tenant
                              and uid = i.uid
                              and entered_at < (select first from bound)
                            order by entered_at desc, entered_id desc
                            limit 1) newest
                     where newest.left_at >= (select first from bound)
                        or newest.left_at is null) s
             where key is not null) s
     cross join bound
), event as materialized (
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
), edge as (
    -- Hours in which a stay begins or ends.
    select entered_in as start, tenant, key, uid, 1 as arrivals,
           coalesce(left_in = entered_in, false)::integer as departures,
           least(left_at, entered_in + $2) - entered_at as occupied
      from stay
      join span on span.start = entered_in
     union all
    select left_in, tenant, key, uid, 0, 1, left_at - left_in
      from stay
      join span on span.start = left_in
     where left_in > entered_in
), edge_tag as (
    select start, tenant, key, uid, sum(arrivals) as arrivals, sum(departures) as departures,
           count(*) - sum(arrivals) as lasting, sum(occupied) as occupied
      from edge
     group by start, tenant, key, uid
), change as (
    select tenant, key, at, sum(n) as n
      from stay
     cross join lateral (values (whole_from, 1), (whole_until, -1)) as change (at, n)
     where whole_from < whole_until
     group by tenant, key, at
), whole as (
    -- Tags that lie there for the whole hour.
    select start, tenant, key,
           sum(n) over (partition by tenant, key order by at, start nulls first) as n
      from (select tenant, key, at, null::timestamptz as start, n
              from change
             union all
            select tenant, key, start, start, 0
              from (select distinct tenant, key from change) key
             cross join span) point
), cell as (
    select start, tenant, key, count(*) as movements, count(*) filter (where is_in) as ins,
           0 as arrivals, 0 as departures, 0 as items, interval '0' as occupied, 0 as lasting
      from event
     group by start, tenant, key
     union all
    -- Tags that are seen there, but do not lie there in that hour.
    select start, tenant, key, 0, 0, 0, 0, count(*), interval '0', 0
      from (select distinct start, tenant, key, uid
              from event
             where not exists (
                   select
                     from stay
                    where stay.tenant = event.tenant
                      and stay.uid = event.uid
                      and stay.key = event.key
                      and stay.entered_in <= event.start
                      and coalesce(stay.left_in, 'infinity') >= event.start)) passing
     group by start, tenant, key
     union all
    select start, tenant, key, 0, 0, sum(arrivals), sum(departures), count(*), sum(occupied),
           sum(lasting)
      from edge_tag
     group by start, tenant, key
     union all
    select start, tenant, key, 0, 0, 0, 0, n, n::integer * $2, n
      from whole
     where start is not null
       and n > 0
)
insert into centiloc.{table} (
    {start}, tenant, {key}, movements, in_events, out_events, arrivals, departures, items, occupied,
    items_at_start
)
select start, tenant, key, sum(movements), sum(ins), sum(movements) - sum(ins), sum(arrivals),
       sum(departures), sum(items), sum(occupied), sum(lasting)
  from cell
 group by start, tenant, key
