-- Views and functions that answer the usual questions of dashboards from states and stays.

create function centiloc.visible_labels(labels text[])
returns text[] language sql immutable parallel safe as $$
    select array_agg(l.label order by l.place)
      from unnest(labels) with ordinality as l (label, place)
     where l.label not like '.%'
$$;

comment on function centiloc.visible_labels(text[]) is
    'Labels without those that begin with a dot, which are technical. Null if none is left.';

create function centiloc.uid_reversed(uid text)
returns text language sql immutable strict parallel safe as $$
    select case when uid ~ '^([0-9A-Fa-f]{2})+$' then (
           select string_agg(substr(uid, 2 * n - 1, 2), '' order by n desc)
             from generate_series(1, length(uid) / 2) as n) end
$$;

comment on function centiloc.uid_reversed(text) is
    'The uid with its bytes in reverse order, as phones show it. Null unless it is pairs of hexadecimal digits.';

-- `offset 0` looks up the state of each tag. Reading all of item_state takes longer: it has a row for
-- every board that a tag was ever on.
create or replace view centiloc.item_location as
select b.tenant,
       b.uid,
       b.named_board_sn as board_sn,
       s.is_in,
       s.momentum,
       s.entered_at,
       s.first_seen_at,
       s.x_mm,
       s.y_mm,
       s.shelf_x_mm,
       s.shelf_y_mm,
       s.floor_x_mm,
       s.floor_y_mm,
       s.floor,
       s.nb_hits,
       s.hold_time,
       s.fill_ratio,
       s.product_reference,
       s.shelf_sn,
       s.furniture_sn,
       s.loc_reference,
       s.loc_labels,
       s.item_labels,
       s.is_interpolated,
       s.extra,
       s.event_id,
       s.received_at
  from centiloc.current_board b
 cross join lateral (
       select *
         from centiloc.item_state i
        where i.tenant = b.tenant
          and i.uid = b.uid
          and i.board_sn = b.board_sn
          and centiloc.is_plausible(i.momentum, i.received_at)
       offset 0) s;

create or replace view centiloc.board_content as
select tenant,
       board_sn,
       uid,
       product_reference,
       x_mm,
       y_mm,
       momentum,
       entered_at,
       first_seen_at,
       nb_hits,
       hold_time,
       fill_ratio,
       shelf_sn,
       shelf_x_mm,
       shelf_y_mm,
       furniture_sn,
       floor,
       floor_x_mm,
       floor_y_mm,
       loc_reference,
       loc_labels,
       item_labels,
       is_interpolated
  from centiloc.item_location
 where is_in
   and board_sn is not null;

create view centiloc.stock_by_product as
select tenant,
       product_reference,
       count(*) as items,
       count(distinct board_sn) as boards,
       min(entered_at) as oldest_entered_at
  from centiloc.item_location
 where is_in
 group by tenant, product_reference;

comment on view centiloc.stock_by_product is
    'Items that are on a board, by product.';
comment on column centiloc.stock_by_product.tenant is 'Centiloc tenantID.';
comment on column centiloc.stock_by_product.product_reference is
    'Product the tags are enrolled to; null for items without one.';
comment on column centiloc.stock_by_product.items is 'Number of items.';
comment on column centiloc.stock_by_product.boards is 'Number of boards they are on.';
comment on column centiloc.stock_by_product.oldest_entered_at is
    'When the item came that has been on its board for longest.';

create view centiloc.stock_by_location as
select tenant,
       loc_reference,
       centiloc.visible_labels(newest_labels) as loc_labels,
       count(*) as items,
       count(distinct board_sn) as boards,
       min(entered_at) as oldest_entered_at
  from (select tenant, loc_reference, board_sn, entered_at,
               first_value(loc_labels) over (
                   partition by tenant, loc_reference
                       order by momentum desc, event_id desc) as newest_labels
          from centiloc.item_location
         where is_in) item
 group by tenant, loc_reference, newest_labels;

comment on view centiloc.stock_by_location is
    'Items that are on a board, by named location.';
comment on column centiloc.stock_by_location.tenant is 'Centiloc tenantID.';
comment on column centiloc.stock_by_location.loc_reference is
    'Named location; null for items at none.';
comment on column centiloc.stock_by_location.loc_labels is
    'Labels of the location without those that begin with a dot, from its newest event.';
comment on column centiloc.stock_by_location.items is 'Number of items.';
comment on column centiloc.stock_by_location.boards is 'Number of boards they are on.';
comment on column centiloc.stock_by_location.oldest_entered_at is
    'When the item came that has been on its board for longest.';

create view centiloc.stock_by_shelf as
select tenant,
       shelf_sn,
       count(*) as items,
       count(distinct board_sn) as boards,
       min(entered_at) as oldest_entered_at
  from centiloc.item_location
 where is_in
 group by tenant, shelf_sn;

comment on view centiloc.stock_by_shelf is 'Items that are on a board, by shelf.';
comment on column centiloc.stock_by_shelf.tenant is 'Centiloc tenantID.';
comment on column centiloc.stock_by_shelf.shelf_sn is
    'Shelf that bears the boards; null for boards on none.';
comment on column centiloc.stock_by_shelf.items is 'Number of items.';
comment on column centiloc.stock_by_shelf.boards is 'Number of boards they are on.';
comment on column centiloc.stock_by_shelf.oldest_entered_at is
    'When the item came that has been on its board for longest.';

create view centiloc.product_list as
select tenant, value as product_reference, last_seen_at
  from centiloc.known_value
 where kind = 'product';

comment on view centiloc.product_list is 'Products that item events name, for lists to choose from.';
comment on column centiloc.product_list.tenant is 'Centiloc tenantID.';
comment on column centiloc.product_list.product_reference is 'The product.';
comment on column centiloc.product_list.last_seen_at is
    'Momentum of the newest event that names it.';

create view centiloc.location_list as
select tenant, value as loc_reference, last_seen_at
  from centiloc.known_value
 where kind = 'location';

comment on view centiloc.location_list is
    'Named locations that item events name, for lists to choose from.';
comment on column centiloc.location_list.tenant is 'Centiloc tenantID.';
comment on column centiloc.location_list.loc_reference is 'The location.';
comment on column centiloc.location_list.last_seen_at is
    'Momentum of the newest event that names it.';

create view centiloc.shelf_list as
select tenant, value as shelf_sn, last_seen_at
  from centiloc.known_value
 where kind = 'shelf';

comment on view centiloc.shelf_list is 'Shelves that item events name, for lists to choose from.';
comment on column centiloc.shelf_list.tenant is 'Centiloc tenantID.';
comment on column centiloc.shelf_list.shelf_sn is 'The shelf.';
comment on column centiloc.shelf_list.last_seen_at is 'Momentum of the newest event that names it.';

create view centiloc.board_list as
select tenant, board_sn, b.status, a.last_item_at
  from (select * from centiloc.board_state where centiloc.is_plausible(momentum, received_at)) b
  full join (select * from centiloc.board_activity where board_sn <> '') a using (tenant, board_sn);

comment on view centiloc.board_list is
    'Boards that reported a status or an item, for lists to choose from.';
comment on column centiloc.board_list.tenant is 'Centiloc tenantID.';
comment on column centiloc.board_list.board_sn is 'Serial number of the board.';
comment on column centiloc.board_list.status is
    'Newest status; null if the board never reported one.';
comment on column centiloc.board_list.last_item_at is 'When an item last moved on the board.';

create function centiloc.items_not_seen_since(since timestamptz)
returns table (
    tenant            text,
    uid               text,
    last_seen_at      timestamptz,
    is_in             boolean,
    board_sn          text,
    product_reference text
) language sql stable parallel safe as $$
    select l.tenant, l.uid, n.momentum, l.is_in, l.board_sn, l.product_reference
      from centiloc.item_location l
     cross join lateral (
           select max(s.momentum) as momentum
             from centiloc.item_state s
            where s.tenant = l.tenant
              and s.uid = l.uid
              and centiloc.is_plausible(s.momentum, s.received_at)) n
     where l.momentum < since
       and n.momentum < since
$$;

comment on function centiloc.items_not_seen_since(timestamptz) is
    'Items whose newest event is older than a time, with their last board and product.';

-- Stays of one board by the time they ended: those that last come last.
create index stay_of_board on centiloc.stay (tenant, board_sn, left_at) include (entered_at);

create function centiloc.stays_since(tenant text, board_sn text, since timestamptz)
returns table (
    uid        text,
    entered_at timestamptz,
    entered_id uuid,
    left_at    timestamptz
) language sql stable parallel safe as $$
    select uid, entered_at, entered_id, left_at
      from centiloc.stay
     where stay.tenant = stays_since.tenant
       and stay.board_sn = stays_since.board_sn
       and left_at >= since
     union all
    select uid, entered_at, entered_id, left_at
      from centiloc.stay
     where stay.tenant = stays_since.tenant
       and stay.board_sn = stays_since.board_sn
       and left_at is null
$$;

comment on function centiloc.stays_since(text, text, timestamptz) is
    'Stays on a board that ended at or after a time, and those that last.';

create function centiloc.dwell(
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
               and b.board_sn <> ''
               and s.stays > 0
             union all
            select tenant, key, count(*),
                   percentile_cont(array[0.5, 0.9, 0.95]) within group (order by seconds),
                   max(seconds),
                   avg(seconds)
              from (select s.tenant,
                           case by when 'product' then i.product_reference
                                   when 'location' then i.loc_reference
                                   when 'shelf' then i.shelf_sn
                                   when 'furniture' then i.furniture_sn end as key,
                           date_part('epoch', s.left_at - s.entered_at) as seconds
                      from centiloc.stay s
                      join centiloc.item_state i using (tenant, uid, board_sn)
                     where by in ('product', 'location', 'shelf', 'furniture')
                       and s.left_at >= since
                       and s.left_at < until
                    offset 0) ended
             group by tenant, key) d
$$;

comment on function centiloc.dwell(timestamptz, timestamptz, text) is
    'How long items stayed, from the stays that ended in a period: percentiles by board, product, location, shelf or furniture.';

create function centiloc.occupancy(
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
    with period as materialized (
        select date_bin(bucket, greatest(since, coalesce(min(entered_at), now())),
                        timestamptz '2000-01-01 00:00:00+00') as first,
               least(until, now()) as last,
               least(until + bucket, now()) as until
          from centiloc.stay
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
           and (s.left_at >= p.until or s.left_at is null)
         group by i.tenant, s.board_sn
    )
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
     where o.bucket_start >= p.first
       and o.bucket_start < p.last
       and b.board_sn <> ''
$$;

comment on function centiloc.occupancy(interval, timestamptz, timestamptz) is
    'Items on each board just before each bucket of time, and their mean number over the bucket, up to now. Buckets are aligned to UTC midnight and cannot be months.';

create function centiloc.board_heat_map(
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
             where b.board_sn = board_heat_map.board_sn
               and s.entered_at < until
             group by 1, 2, 3, 5, 6) e
     where e.cell_x is not null
       and e.cell_y is not null
     group by e.tenant, e.cell_x, e.cell_y
$$;

comment on function centiloc.board_heat_map(text, integer, timestamptz, timestamptz) is
    'Arrivals and movements on a board in square cells of cell_mm millimetres. x_mm and y_mm are the lowest coordinates of a cell.';

create function centiloc.board_content_at(board_sn text, at timestamptz)
returns table (
    tenant            text,
    board_sn          text,
    uid               text,
    entered_at        timestamptz,
    momentum          timestamptz,
    x_mm              integer,
    y_mm              integer,
    product_reference text,
    shelf_sn          text,
    loc_reference     text
) language sql stable parallel safe as $$
    select b.tenant, b.board_sn, s.uid, s.entered_at, e.momentum, e.x_mm, e.y_mm,
           e.product_reference, e.shelf_sn, e.loc_reference
      from centiloc.board_activity b
     cross join lateral centiloc.stays_since(b.tenant, b.board_sn, at) s
      left join lateral (
           select i.momentum, i.x_mm, i.y_mm, i.product_reference, i.shelf_sn, i.loc_reference
             from centiloc.item_event i
            where i.uid = s.uid
              and i.tenant = b.tenant
              and i.board_sn = b.board_sn
              and i.is_in
              and i.momentum >= s.entered_at
              and i.momentum <= at
              and centiloc.is_plausible(i.momentum, i.received_at)
            order by i.momentum desc, i.event_id desc
            limit 1) e on true
     where b.board_sn = board_content_at.board_sn
       and b.board_sn <> ''
       and s.entered_at <= at
       and s.left_at is distinct from at
$$;

comment on function centiloc.board_content_at(text, timestamptz) is
    'What lay on a board at a moment, and where: the position of the newest event of each item up to then. Null if that event is no longer kept.';

create function centiloc.item_path(
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
           coalesce(s.left_at, now()) - s.entered_at,
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

comment on function centiloc.item_path(text, timestamptz, timestamptz) is
    'Stays of an item that lie in a period or reach into it, in order. gap_before is the time it was on no board before.';

create function centiloc.busiest_boards(
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
           select count(*) filter (where entered_at >= since and entered_at < until) as arrivals,
                  count(*) filter (where left_at < until) as departures
             from centiloc.stays_since(b.tenant, b.board_sn, since)) s
     where b.board_sn <> ''
       and s.arrivals + s.departures > 0
     order by s.arrivals + s.departures desc, b.tenant, b.board_sn
     limit n
$$;

comment on function centiloc.busiest_boards(timestamptz, timestamptz, integer) is
    'The n boards with most arrivals and departures in a period, the busiest first.';

create function centiloc.week_against_week(weeks integer default 2)
returns table (
    tenant            text,
    board_sn          text,
    week_start        timestamptz,
    arrivals          bigint,
    departures        bigint,
    arrivals_before   bigint,
    departures_before bigint
) language sql stable parallel safe as $$
    select b.tenant, b.board_sn, w.week_start, w.arrivals, w.departures,
           w.arrivals_before, w.departures_before
      from (select now() - weeks * interval '7 days' as first) p
     cross join centiloc.board_activity b
     cross join lateral (
           with stay as materialized (
               select entered_at, left_at
                 from centiloc.stays_since(b.tenant, b.board_sn, p.first)
           ), change as (
               select date_bin('7 days', entered_at, p.first) as week_start,
                      count(*) as arrivals, 0 as departures
                 from stay
                where entered_at >= p.first
                group by 1
                union all
               select date_bin('7 days', left_at, p.first), 0, count(*)
                 from stay
                group by 1
                union all
               select p.first + n * interval '7 days', 0, 0
                 from generate_series(0, weeks - 1) as n
           )
           select week_start,
                  sum(arrivals)::bigint as arrivals,
                  sum(departures)::bigint as departures,
                  lag(sum(arrivals)::bigint) over (order by week_start) as arrivals_before,
                  lag(sum(departures)::bigint) over (order by week_start) as departures_before
             from change
            where week_start < now()
            group by week_start) w
     where b.board_sn <> ''
$$;

comment on function centiloc.week_against_week(integer) is
    'Arrivals and departures of each board in the last weeks, and those of the week before each. A week is 7 days, and the last one ends now.';

create function centiloc.board_availability(since timestamptz, until timestamptz default 'infinity')
returns table (
    tenant       text,
    board_sn     text,
    connected    interval,
    known        interval,
    availability double precision
) language sql stable parallel safe as $$
    select b.tenant, b.board_sn, make_interval(secs => s.connected), make_interval(secs => s.known),
           100 * s.connected / s.known
      from centiloc.board_state b
     cross join lateral (
           select coalesce(sum(e.seconds) filter (where e.status = 'CONNECTED'), 0) as connected,
                  sum(e.seconds) as known
             from (select e.status,
                          date_part('epoch', lead(e.momentum, 1, least(until, now())) over (
                              order by e.momentum, e.event_id))
                              - date_part('epoch', greatest(e.momentum, since)) as seconds
                     from ((select c.momentum, c.event_id, c.status
                              from centiloc.board_event c
                             where c.tenant = b.tenant
                               and c.board_sn = b.board_sn
                               and c.momentum < since
                               and centiloc.is_plausible(c.momentum, c.received_at)
                             order by c.momentum desc, c.event_id desc
                             limit 1)
                           union all
                           select c.momentum, c.event_id, c.status
                             from centiloc.board_event c
                            where c.tenant = b.tenant
                              and c.board_sn = b.board_sn
                              and c.momentum >= since
                              and c.momentum < least(until, now())) e) e
            where e.status is not null) s
     where s.known > 0
$$;

comment on function centiloc.board_availability(timestamptz, timestamptz) is
    'Percent of a period in which each board was CONNECTED. Only time with a known status counts.';

create table centiloc.board_usual_interval (
    tenant         text        not null,
    board_sn       text        not null,
    usual_interval interval,
    learned_at     timestamptz not null,
    primary key (tenant, board_sn)
);

comment on table centiloc.board_usual_interval is
    'How long each board is silent at most on a usual day. Computed by the bridge: read board_silence.';
comment on column centiloc.board_usual_interval.tenant is 'Centiloc tenantID.';
comment on column centiloc.board_usual_interval.board_sn is 'Serial number of the board.';
comment on column centiloc.board_usual_interval.usual_interval is
    'On nine of ten days no more time passed between two arrivals, but at least 15 minutes. Null until it is known from three days.';
comment on column centiloc.board_usual_interval.learned_at is 'When it was computed last.';

create view centiloc.board_silence as
select a.tenant,
       a.board_sn,
       a.last_item_at,
       greatest(p.complete_until - a.last_item_at, interval '0') as silent_for,
       u.usual_interval,
       p.complete_until - a.last_item_at > u.usual_interval as is_silent,
       b.status
  from centiloc.board_activity a
 cross join centiloc.item_stay_progress p
  left join centiloc.board_usual_interval u using (tenant, board_sn)
  left join (select tenant, board_sn, status
               from centiloc.board_state
              where centiloc.is_plausible(momentum, received_at)) b using (tenant, board_sn)
 where a.board_sn <> '';

comment on view centiloc.board_silence is
    'Whether boards are silent for longer than is usual for them, learned from the last 30 days.';
comment on column centiloc.board_silence.tenant is 'Centiloc tenantID.';
comment on column centiloc.board_silence.board_sn is 'Serial number of the board.';
comment on column centiloc.board_silence.last_item_at is 'When an item last moved on the board.';
comment on column centiloc.board_silence.silent_for is
    'Time since then, up to the newest events that were computed.';
comment on column centiloc.board_silence.usual_interval is
    'On nine of ten days no more time passes between two arrivals; null until it is known from three days.';
comment on column centiloc.board_silence.is_silent is
    'True if the board is silent for longer than usual; null while usual_interval is.';
comment on column centiloc.board_silence.status is
    'Newest status; null if the board never reported one.';

-- Roles that may use item_state may use what is computed with it.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.grantee, a.privilege_type, t.name
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         cross join (values ('stock_by_product'), ('stock_by_location'), ('stock_by_shelf'),
                            ('product_list'), ('location_list'), ('shelf_list'), ('board_list'),
                            ('board_usual_interval'), ('board_silence')) as t (name)
         where c.oid = 'centiloc.item_state'::regclass
           and a.grantee not in (0, c.relowner)
           and (a.privilege_type = 'SELECT'
                or a.privilege_type in ('INSERT', 'UPDATE') and t.name = 'board_usual_interval')
    loop
        execute format('grant %s on centiloc.%I to %s', privilege.privilege_type, privilege.name,
                       privilege.grantee::regrole);
        if privilege.privilege_type = 'INSERT' then
            execute format('grant delete on centiloc.%I to %s', privilege.name,
                           privilege.grantee::regrole);
        end if;
    end loop;
end
$$;
