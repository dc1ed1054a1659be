-- Sums by hour and day, which are kept when their events are deleted.

alter table centiloc.stay
    add column product_reference text,
    add column loc_reference text;

comment on column centiloc.stay.product_reference is 'Product of the tag at the first event of the stay.';
comment on column centiloc.stay.loc_reference is 'Named location at the first event of the stay.';

update centiloc.stay s
   set product_reference = e.product_reference, loc_reference = e.loc_reference
  from centiloc.item_event e
 where e.momentum = s.entered_at
   and e.event_id = s.entered_id
   and (e.product_reference is not null or e.loc_reference is not null);

create table centiloc.board_hour (
    hour       timestamptz not null,
    tenant     text        not null,
    board_sn   text        not null,
    movements  bigint      not null,
    in_events  bigint      not null,
    out_events bigint      not null,
    arrivals   bigint      not null,
    departures bigint      not null,
    items      bigint      not null,
    occupied   interval    not null,
    primary key (hour, tenant, board_sn)
);

create index board_hour_board_sn on centiloc.board_hour (board_sn, hour);

comment on table centiloc.board_hour is
    'One row per board and hour (UTC) with an event or an item. Kept when the events are deleted, corrected by late ones.';
comment on column centiloc.board_hour.hour is 'Start of the hour.';
comment on column centiloc.board_hour.tenant is 'Centiloc tenantID.';
comment on column centiloc.board_hour.board_sn is
    'Serial number of the board; empty if the event named none.';
comment on column centiloc.board_hour.movements is 'Number of item events.';
comment on column centiloc.board_hour.in_events is 'Number of item events with is_in.';
comment on column centiloc.board_hour.out_events is 'Number of item events without is_in.';
comment on column centiloc.board_hour.arrivals is 'Number of stays that began.';
comment on column centiloc.board_hour.departures is 'Number of stays that ended.';
comment on column centiloc.board_hour.items is
    'Number of different tags that were on the board or had an event of it.';
comment on column centiloc.board_hour.occupied is
    'Time that items spent on the board, summed: divided by one hour it is the mean number of items.';

create table centiloc.location_hour (
    hour          timestamptz not null,
    tenant        text        not null,
    loc_reference text        not null,
    movements     bigint      not null,
    in_events     bigint      not null,
    out_events    bigint      not null,
    arrivals      bigint      not null,
    departures    bigint      not null,
    items         bigint      not null,
    occupied      interval    not null,
    primary key (hour, tenant, loc_reference)
);

create index location_hour_loc_reference on centiloc.location_hour (loc_reference, hour);

comment on table centiloc.location_hour is
    'One row per named location and hour (UTC) with an event or an item. Kept when the events are deleted, corrected by late ones.';
comment on column centiloc.location_hour.hour is 'Start of the hour.';
comment on column centiloc.location_hour.tenant is 'Centiloc tenantID.';
comment on column centiloc.location_hour.loc_reference is 'Named location.';
comment on column centiloc.location_hour.movements is 'Number of item events.';
comment on column centiloc.location_hour.in_events is 'Number of item events with is_in.';
comment on column centiloc.location_hour.out_events is 'Number of item events without is_in.';
comment on column centiloc.location_hour.arrivals is 'Number of stays that began.';
comment on column centiloc.location_hour.departures is 'Number of stays that ended.';
comment on column centiloc.location_hour.items is
    'Number of different tags that were at the location or had an event of it.';
comment on column centiloc.location_hour.occupied is 'Time that items spent at the location, summed.';

create table centiloc.product_day (
    day               timestamptz not null,
    tenant            text        not null,
    product_reference text        not null,
    movements         bigint      not null,
    in_events         bigint      not null,
    out_events        bigint      not null,
    arrivals          bigint      not null,
    departures        bigint      not null,
    items             bigint      not null,
    occupied          interval    not null,
    primary key (day, tenant, product_reference)
);

create index product_day_product_reference on centiloc.product_day (product_reference, day);

comment on table centiloc.product_day is
    'One row per product and day (UTC) with an event or an item. Kept when the events are deleted, corrected by late ones.';
comment on column centiloc.product_day.day is 'Start of the day.';
comment on column centiloc.product_day.tenant is 'Centiloc tenantID.';
comment on column centiloc.product_day.product_reference is 'Product.';
comment on column centiloc.product_day.movements is 'Number of item events.';
comment on column centiloc.product_day.in_events is 'Number of item events with is_in.';
comment on column centiloc.product_day.out_events is 'Number of item events without is_in.';
comment on column centiloc.product_day.arrivals is 'Number of stays that began.';
comment on column centiloc.product_day.departures is 'Number of stays that ended.';
comment on column centiloc.product_day.items is
    'Number of different tags of the product that were on a board or had an event.';
comment on column centiloc.product_day.occupied is
    'Time that items of the product spent on boards, summed.';

create table centiloc.rollup_pending (
    width interval    not null,
    start timestamptz not null,
    primary key (width, start)
);

comment on table centiloc.rollup_pending is
    'Hours and days whose sums are to be computed: those that last, and those with late events.';
comment on column centiloc.rollup_pending.width is 'One hour or one day.';
comment on column centiloc.rollup_pending.start is 'Start of the hour or day.';

create table centiloc.rollup_floor (
    is_only boolean     primary key default true check (is_only),
    kept    timestamptz not null
);

comment on table centiloc.rollup_floor is
    'One row: sums of earlier hours and days are final, because their events may be deleted.';
comment on column centiloc.rollup_floor.is_only is 'Always true.';
comment on column centiloc.rollup_floor.kept is 'Events from here on are complete.';

insert into centiloc.rollup_floor (kept)
select coalesce(date_bin('1 day', min(momentum), timestamptz '2000-01-01 00:00+00'), '-infinity')
  from centiloc.item_event
 where momentum >= '2015-01-01';

insert into centiloc.rollup_pending (width, start)
select interval '1 hour', hour
  from (select kept, (select max(momentum) from centiloc.item_event
                       where centiloc.is_plausible(momentum, received_at)) as newest
          from centiloc.rollup_floor) span
 cross join lateral generate_series(kept, newest, interval '1 hour') as hour
 where kept > '-infinity'
 union all
select interval '1 day', day
  from (select kept, (select max(momentum) from centiloc.item_event
                       where centiloc.is_plausible(momentum, received_at)) as newest
          from centiloc.rollup_floor) span
 cross join lateral generate_series(kept, newest, interval '24 hours') as day
 where kept > '-infinity';

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
                               (select date_bin('1 hour', min(m), at)
                                  from centiloc.stay_pending
                                 cross join lateral unnest(momenta) as m))
                    else until end as past
          from origin
    ), computed as (
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
                  and p.start = h.hour)
    ), piece as materialized (
        select since as since, least(first, until) as until from span where since < first
         union all
        select greatest(past, first, since), until from span where past < until or first >= past
         union all
        select p.start, p.start + interval '1 hour'
          from centiloc.rollup_pending p, span
         where p.width = interval '1 hour'
           and p.start >= first
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
    select date_bin(bucket, moved.at, origin.at), moved.tenant, moved.board_sn,
           sum(moved.movements)::bigint, sum(moved.ins)::bigint, sum(moved.outs)::bigint
      from (table computed union all table raw) as moved (at, tenant, board_sn, movements, ins, outs)
     cross join origin
     group by 1, 2, 3
$$;

comment on function centiloc.movement_rate(interval, timestamptz, timestamptz) is
    'Item events per board and bucket of time, e.g. movement_rate(''1 hour''). Buckets are aligned to UTC midnight and cannot be months. Buckets of whole hours are read from board_hour, also for times whose events are deleted.';

-- Roles that may use item_state may use what is computed with it.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.grantee, a.privilege_type, t.name
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         cross join (values ('board_hour'), ('location_hour'), ('product_day'), ('rollup_pending'),
                            ('rollup_floor')) as t (name)
         where c.oid = 'centiloc.item_state'::regclass
           and a.grantee not in (0, c.relowner)
           and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE')
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
