-- Answers for few stays, for clocks that are ahead, and for arguments that make no sense.

-- A day of 24 hours, in every time zone, is also added faster.
create or replace function centiloc.is_plausible(momentum timestamptz, received_at timestamptz)
returns boolean language sql stable parallel safe as $$
    select momentum <= greatest(received_at, now()) + interval '24 hours'
$$;

create function centiloc.check_argument(is_valid boolean, message text)
returns boolean language plpgsql immutable parallel safe as $$
begin
    if is_valid then
        return true;
    end if;
    raise exception using errcode = 'invalid_parameter_value', message = message;
end
$$;

comment on function centiloc.check_argument(boolean, text) is
    'Fails with a message if an argument of a function is not valid.';

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
        select past, least(until, now()) from span
         union all
        select p.start, p.start + interval '24 hours'
          from centiloc.rollup_pending p, span
         where p.width = interval '1 day'
           and p.start >= first
           and p.start < past
    ), single as materialized (
        select tenant, key, centiloc.dwell_bucket(seconds) as bucket, count(*) as stays,
               max(seconds) as longest, sum(seconds) as total
          from (select s.tenant,
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
                       offset 0) s) ended
         group by 1, 2, 3
    ), total as (
        select tenant, key, sum(stays) as stays, max(longest) as longest, sum(total) as total
          from (select tenant, key, stays, date_part('epoch', longest) as longest,
                       date_part('epoch', total) as total
                  from day
                 union all
                select tenant, key, stays, longest, total from single) one
         where by <> 'board' or key <> ''
         group by tenant, key
    ), cell as (
        select tenant, key, bucket, sum(n) as n
          from (select d.tenant, d.key, b.bucket, b.n
                  from day d
                 cross join lateral unnest(d.buckets, d.counts) as b (bucket, n)
                 union all
                select tenant, key, bucket, stays::integer from single) one
         group by tenant, key, bucket
    ), ranked as (
        select tenant, key, c.bucket, c.n, t.longest,
               sum(c.n::double precision) over (partition by tenant, key order by c.bucket) - c.n as before,
               t.stays::double precision - 1 as last
          from cell c
          join total t using (tenant, key)
    ), percentile as (
        -- Between the two nearest durations, as percentile_cont does. Within a bucket durations are taken
        -- as evenly spread.
        select tenant, key,
               sum(value) filter (where p = 0.5) as p50,
               sum(value) filter (where p = 0.9) as p90,
               sum(value) filter (where p = 0.95) as p95
          from (select r.tenant, r.key, p.p,
                       k.weight
                       * case when k.rank = r.last then r.longest
                              else least(r.longest,
                                         1.1::double precision ^ r.bucket
                                         * (1 + 0.1 * (k.rank - r.before + 0.5) / r.n) - 1) end as value
                  from ranked r
                 cross join (values (0.5::double precision), (0.9), (0.95)) as p (p)
                 cross join lateral (
                       values (floor(p.p * r.last), 1 + floor(p.p * r.last) - p.p * r.last),
                              (floor(p.p * r.last) + 1, p.p * r.last - floor(p.p * r.last)))
                       as k (rank, weight)
                 where floor(p.p * r.last) + 1 >= r.before
                   and floor(p.p * r.last) < r.before + r.n
                   and k.rank >= r.before
                   and k.rank < r.before + r.n
                   and k.weight > 0) v
         group by tenant, key
    )
    select tenant, nullif(key, ''), stays::bigint, make_interval(secs => p.p50), make_interval(secs => p.p90),
           make_interval(secs => p.p95), make_interval(secs => t.longest),
           make_interval(secs => t.total / t.stays::double precision)
      from total t
      join percentile p using (tenant, key)
     where centiloc.check_argument(
               by in ('board', 'product', 'location', 'shelf', 'furniture'),
               'dwell by ' || coalesce(quote_literal(by), 'null')
                   || ': give board, product, location, shelf or furniture')
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
                              and left_at < least(until, now())
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
                       and s.left_at < least(until, now())
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
                       and s.left_at < least(until, now())
                    offset 0) ended
             group by tenant, key) d
$$;

comment on function centiloc.dwell(timestamptz, timestamptz, text) is
    'How long items stayed, from the stays that ended in a period: percentiles by board, product, location, shelf or furniture. For more than two days of board, product or location, percentiles come from the histograms of dwell_day, exact to 10 % and mostly to 2 %. Product and location are those of the first event of a stay, shelf and furniture those of the newest event of the item on that board.';

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
           and h.hour not in (
               select start
                 from centiloc.rollup_pending
                where width = interval '1 hour'
                  and start >= (select kept from centiloc.rollup_floor))
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
        select n, now() - (weeks - n) * interval '168 hours' as week_start,
               now() - (weeks - n - 1) * interval '168 hours' as week_end
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

comment on function centiloc.week_against_week(integer) is
    'Arrivals and departures of each board in the last weeks, and those of the week before each: null for the first one. A week is 168 hours, and the last one ends now.';

create or replace function centiloc.busiest_boards(
    since timestamptz,
    until timestamptz default 'infinity',
    n integer default 10
) returns table (
    tenant     text,
    board_sn   text,
    arrivals   bigint,
    departures bigint
) language sql stable parallel safe as $$
    select b.tenant, b.board_sn, s.arrivals, s.departures
      from centiloc.board_activity b
     cross join lateral (
           select count(*) filter (where entered_at >= since
                                    and entered_at < least(until, now())) as arrivals,
                  count(*) filter (where left_at < least(until, now())) as departures
             from centiloc.stays_since(b.tenant, b.board_sn, since)) s
     where b.board_sn <> ''
       and s.arrivals + s.departures > 0
     order by s.arrivals + s.departures desc, b.tenant, b.board_sn
     limit n
$$;

create or replace function centiloc.board_heat_map(
    board_sn text,
    cell_mm integer,
    since timestamptz,
    until timestamptz default 'infinity'
) returns table (
    tenant   text,
    x_mm     integer,
    y_mm     integer,
    arrivals bigint,
    moves    bigint
) language sql stable parallel safe as $$
    select e.tenant, e.cell_x, e.cell_y,
           count(*) filter (where e.arrives),
           count(*) filter (where not e.arrives)
      from (select b.tenant, e.momentum, e.event_id, bool_or(e.event_id = s.entered_id) as arrives,
                   (floor(e.x_mm::double precision / cell_mm) * cell_mm)::integer as cell_x,
                   (floor(e.y_mm::double precision / cell_mm) * cell_mm)::integer as cell_y
              from centiloc.board_activity b
             cross join lateral centiloc.stays_since(b.tenant, b.board_sn, since) s
             cross join lateral (
                   select i.momentum, i.event_id, i.x_mm, i.y_mm
                     from centiloc.item_event i
                    where i.uid = s.uid
                      and i.tenant = b.tenant
                      and i.board_sn = b.board_sn
                      and i.is_in
                      and i.momentum >= greatest(s.entered_at, since)
                      and i.momentum <= coalesce(s.left_at, 'infinity')
                      and i.momentum < until
                      and centiloc.is_plausible(i.momentum, i.received_at)
                   offset 0) e
             where centiloc.check_argument(
                       cell_mm > 0,
                       'cell_mm ' || coalesce(cell_mm::text, 'null')
                           || ': give the size of a cell in millimetres')
               and b.board_sn = board_heat_map.board_sn
               and s.entered_at < until
             group by 1, 2, 3, 5, 6) e
     where e.cell_x is not null
       and e.cell_y is not null
     group by e.tenant, e.cell_x, e.cell_y
$$;

create or replace function centiloc.item_path(
    uid text,
    since timestamptz default '-infinity',
    until timestamptz default 'infinity'
) returns table (
    tenant     text,
    board_sn   text,
    entered_at timestamptz,
    left_at    timestamptz,
    duration   interval,
    gap_before interval
) language sql stable parallel safe as $$
    select s.tenant, s.board_sn, s.entered_at, s.left_at,
           greatest(coalesce(s.left_at, now()) - s.entered_at, interval '0'),
           s.entered_at - s.left_before
      from (select stay.tenant, nullif(stay.board_sn, '') as board_sn, stay.entered_at,
                   stay.entered_id, stay.left_at,
                   lag(stay.left_at) over (
                       partition by stay.tenant order by stay.entered_at, stay.entered_id)
                       as left_before
              from centiloc.stay
             where stay.uid = item_path.uid
               and stay.entered_at < until) s
     where s.left_at is null or s.left_at > since or s.entered_at >= since
     order by s.tenant, s.entered_at, s.entered_id
$$;

create or replace view centiloc.item_stay as
select tenant,
       uid,
       nullif(board_sn, '') as board_sn,
       entered_at,
       left_at,
       greatest(coalesce(left_at, now()) - entered_at, interval '0') as duration
  from centiloc.stay;

comment on column centiloc.item_stay.board_sn is
    'Serial number of the board; null if the event named none.';
comment on column centiloc.item_stay.entered_at is 'Momentum of the first event of the stay.';
comment on column centiloc.item_stay.duration is 'Until now while the stay lasts.';
comment on column centiloc.item_location.board_sn is
    'Serial number of the board; null if the event named none.';
comment on column centiloc.board_content.board_sn is 'Serial number of the board.';
comment on column centiloc.board_content.entered_at is
    'Since when the tag has been on the board without leaving, as far as known.';
comment on column centiloc.board_health.board_sn is 'Serial number of the board.';
comment on view centiloc.stock_by_product is
    'Items that are somewhere, by product. Also those whose event named no board, which board_content leaves out.';
comment on view centiloc.stock_by_location is
    'Items that are somewhere, by named location. Also those whose event named no board.';
comment on view centiloc.stock_by_shelf is
    'Items that are somewhere, by shelf. Also those whose event named no board.';
comment on column centiloc.stock_by_product.boards is
    'Number of boards that they are on.';

create view centiloc.board_clock_ahead as
select tenant, board_sn, max(momentum - received_at) as ahead, max(momentum) as newest_momentum,
       max(received_at) as last_received_at, count(*) as events
  from (select tenant, board_sn, momentum, received_at
          from centiloc.item_event
         where momentum > now()
         union all
        select tenant, board_sn, momentum, received_at
          from centiloc.board_event
         where momentum > now()) dated_ahead
 group by tenant, board_sn;

comment on view centiloc.board_clock_ahead is
    'Boards with events that are dated in the future: their clock is wrong, or they send local time as UTC. Events dated more than a day ahead decide nothing, so that their board may be missing from the other views.';
comment on column centiloc.board_clock_ahead.tenant is 'Centiloc tenantID.';
comment on column centiloc.board_clock_ahead.board_sn is
    'Serial number of the board; null if the event named none.';
comment on column centiloc.board_clock_ahead.ahead is
    'How far they are dated ahead of their arrival at the bridge, at most.';
comment on column centiloc.board_clock_ahead.newest_momentum is 'The latest of their dates.';
comment on column centiloc.board_clock_ahead.last_received_at is 'When the last of them arrived.';
comment on column centiloc.board_clock_ahead.events is 'Number of these events.';

-- Roles that may read item_state may read it.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.grantee
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         where c.oid = 'centiloc.item_state'::regclass
           and a.grantee not in (0, c.relowner)
           and a.privilege_type = 'SELECT'
    loop
        execute format('grant select on centiloc.board_clock_ahead to %s', privilege.grantee::regrole);
    end loop;
end
$$;
