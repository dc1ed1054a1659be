-- What dashboards read. Conditions on uid and board_sn reach the indexes through all of these.

create view centiloc.item_location as
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
 where not exists (
       select
         from centiloc.item_state o
        where o.tenant = s.tenant
          and o.uid = s.uid
          and (o.is_in, o.momentum, o.event_id) > (s.is_in, s.momentum, s.event_id));

comment on view centiloc.item_location is
    'Where each tag is: one row a tag. Its newest row among the boards it is on; if it is on none (is_in false), the last it was seen leaving.';

create view centiloc.board_content as
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
   and s.board_sn <> ''
   and not exists (
       select
         from centiloc.item_state o
        where o.tenant = s.tenant
          and o.uid = s.uid
          and o.is_in
          and (o.momentum, o.event_id) > (s.momentum, s.event_id));

comment on view centiloc.board_content is
    'What lies on each board: the tags whose item_location is that board.';

create view centiloc.item_stay as
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

comment on view centiloc.item_stay is
    'Uninterrupted stays of tags on boards, from item_event. A stay ends at the first leave from that board or arrival elsewhere. Reads the whole history of the tags asked for: give a uid.';
comment on column centiloc.item_stay.left_at is 'Null while the stay lasts.';
comment on column centiloc.item_stay.duration is 'Until now while the stay lasts.';

create view centiloc.board_health as
select tenant,
       board_sn,
       b.status,
       b.momentum,
       b.fw_version,
       b.last_connection_at,
       b.last_disconnection_at,
       b.last_error_at,
       i.last_item_at,
       coalesce(c.items, 0) as items
  from centiloc.board_state b
  full join (select tenant, board_sn, max(momentum) as last_item_at
               from centiloc.item_state
              where board_sn <> ''
              group by tenant, board_sn) i using (tenant, board_sn)
  left join (select tenant, board_sn, count(*) as items
               from centiloc.board_content
              group by tenant, board_sn) c using (tenant, board_sn);

comment on view centiloc.board_health is
    'Every board that reported a status or an item. A board that loses power cannot say so: compare last_item_at with what is usual for it.';
comment on column centiloc.board_health.status is
    'Newest status; null if the board never reported one.';
comment on column centiloc.board_health.momentum is 'When the newest status was reported.';
comment on column centiloc.board_health.last_item_at is 'When an item last moved on the board.';
comment on column centiloc.board_health.items is 'Number of items lying on the board.';

create view centiloc.data_gap as
select id,
       client_id,
       started_at,
       ended_at,
       coalesce(ended_at, now()) - started_at as duration,
       cause,
       detail
  from centiloc.gap;

comment on view centiloc.data_gap is
    'Periods in which messages may have been lost; empty is good news.';
comment on column centiloc.data_gap.ended_at is 'Null while it lasts.';
comment on column centiloc.data_gap.duration is 'Until now while it lasts.';

create function centiloc.movement_rate(
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
     group by 1, 2, 3
$$;

comment on function centiloc.movement_rate(interval, timestamptz, timestamptz) is
    'Item events per board and bucket of time, e.g. movement_rate(''1 hour''). Buckets are aligned to UTC midnight and cannot be months. since and until spare reading all history.';
