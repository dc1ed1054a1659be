-- Events from the future are kept as events, but decide nothing: where a tag is, how long it stayed,
-- how a board is.

create function centiloc.is_plausible(momentum timestamptz, received_at timestamptz)
returns boolean language sql stable parallel safe as $$
    select momentum <= greatest(received_at, now()) + interval '1 day'
$$;

comment on function centiloc.is_plausible(timestamptz, timestamptz) is
    'False if an event is dated more than a day ahead of the later of host and database clock.';

create or replace view centiloc.item_location as
select s.tenant,
       s.uid,
       nullif(s.board_sn, '') as board_sn,
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
  from centiloc.item_state s
 where centiloc.is_plausible(s.momentum, s.received_at)
   and not exists (
       select
         from centiloc.item_state o
        where o.tenant = s.tenant
          and o.uid = s.uid
          and centiloc.is_plausible(o.momentum, o.received_at)
          and (o.is_in, o.momentum, o.event_id) > (s.is_in, s.momentum, s.event_id));

create or replace view centiloc.board_content as
select s.tenant,
       s.board_sn,
       s.uid,
       s.product_reference,
       s.x_mm,
       s.y_mm,
       s.momentum,
       s.entered_at,
       s.first_seen_at,
       s.nb_hits,
       s.hold_time,
       s.fill_ratio,
       s.shelf_sn,
       s.shelf_x_mm,
       s.shelf_y_mm,
       s.furniture_sn,
       s.floor,
       s.floor_x_mm,
       s.floor_y_mm,
       s.loc_reference,
       s.loc_labels,
       s.item_labels,
       s.is_interpolated
  from centiloc.item_state s
 where s.is_in
   and centiloc.is_plausible(s.momentum, s.received_at)
   and s.board_sn <> ''
   and not exists (
       select
         from centiloc.item_state o
        where o.tenant = s.tenant
          and o.uid = s.uid
          and o.is_in
          and centiloc.is_plausible(o.momentum, o.received_at)
          and (o.momentum, o.event_id) > (s.momentum, s.event_id));

create or replace view centiloc.item_stay as
with step as (
    select tenant,
           uid,
           board_sn,
           momentum,
           event_id,
           is_in,
           lag(is_in) over same_board as was_in,
           case when not lead(is_in) over same_board then lead(momentum) over same_board end as out_at
      from centiloc.item_event
     where centiloc.is_plausible(momentum, received_at)
    window same_board as (partition by tenant, uid, board_sn order by momentum, event_id)
), arrival as (
    select tenant,
           uid,
           board_sn,
           momentum,
           event_id,
           was_in is true and lag(event_id) over tag is not null
               and lag(board_sn) over tag is not distinct from board_sn as stays,
           least(out_at,
                 case when lead(event_id) over tag is not null
                       and lead(board_sn) over tag is distinct from board_sn
                      then lead(momentum) over tag end) as left_at
      from step
     where is_in
    window tag as (partition by tenant, uid order by momentum, event_id)
), stay as (
    select tenant,
           uid,
           board_sn,
           momentum,
           left_at,
           count(*) filter (where not stays)
               over (partition by tenant, uid order by momentum, event_id) as number
      from arrival
)
select tenant,
       uid,
       board_sn,
       min(momentum) as entered_at,
       max(left_at) as left_at,
       coalesce(max(left_at), now()) - min(momentum) as duration
  from stay
 group by tenant, uid, board_sn, number;

create or replace view centiloc.board_health as
select tenant,
       board_sn,
       b.status,
       b.momentum,
       b.fw_version,
       b.last_connection_at,
       b.last_disconnection_at,
       b.last_error_at,
       i.last_item_at,
       coalesce(c.items, 0) as items,
       b.status = 'CONNECTED' as is_healthy
  from (select * from centiloc.board_state where centiloc.is_plausible(momentum, received_at)) b
  full join (select tenant, board_sn, max(momentum) as last_item_at
               from centiloc.item_state
              where board_sn <> ''
                and centiloc.is_plausible(momentum, received_at)
              group by tenant, board_sn) i using (tenant, board_sn)
  left join (select tenant, board_sn, count(*) as items
               from centiloc.board_content
              group by tenant, board_sn) c using (tenant, board_sn);

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
    select date_bin(bucket, e.momentum, timestamptz '2000-01-01 00:00:00+00'),
           e.tenant,
           e.board_sn,
           count(*),
           count(*) filter (where e.is_in),
           count(*) filter (where not e.is_in)
      from centiloc.item_event e
     where e.momentum >= since
       and e.momentum < until
       and centiloc.is_plausible(e.momentum, e.received_at)
     group by 1, 2, 3
$$;
