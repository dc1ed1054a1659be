-- One rule for where a tag is: on the board of its newest arrival, unless that board saw it leave
-- later. Stays and boards of tags become rows, which a background task computes apart from the ingest.

alter table centiloc.item_state
    add column last_in_at timestamptz,
    add column last_in_id uuid;

comment on column centiloc.item_state.last_in_at is
    'When the tag last arrived on this board or moved on it (newest event with is_in); null if none is known.';
comment on column centiloc.item_state.last_in_id is 'Event of last_in_at, as in item_event.';

update centiloc.item_state s
   set last_in_at = s.momentum, last_in_id = s.event_id
 where s.is_in;

update centiloc.item_state s
   set last_in_at = e.momentum, last_in_id = e.event_id
  from (select distinct on (tenant, uid, board_sn) tenant, uid, board_sn, momentum, event_id
          from centiloc.item_event
         where is_in
           and centiloc.is_plausible(momentum, received_at)
         order by tenant, uid, board_sn, momentum desc, event_id desc) e
 where not s.is_in
   and s.tenant = e.tenant
   and s.uid = e.uid
   and s.board_sn = coalesce(e.board_sn, '');

create index item_state_uid on centiloc.item_state (uid);

create table centiloc.stay (
    tenant     text        not null,
    uid        text        not null,
    board_sn   text        not null,
    entered_at timestamptz not null,
    entered_id uuid        not null,
    left_at    timestamptz,
    primary key (tenant, uid, entered_at, entered_id)
);

create index stay_uid on centiloc.stay (uid, entered_at);
create index stay_board_sn on centiloc.stay (nullif(board_sn, ''), entered_at);
create index stay_entered_at on centiloc.stay (entered_at);
create index stay_left_at on centiloc.stay (left_at);

comment on table centiloc.stay is
    'One row per uninterrupted stay of a tag on a board. Computed from item_event by the bridge: read item_stay.';
comment on column centiloc.stay.tenant is 'Centiloc tenantID.';
comment on column centiloc.stay.uid is 'The tag.';
comment on column centiloc.stay.board_sn is
    'Serial number of the board; empty if the event named none.';
comment on column centiloc.stay.entered_at is 'Momentum of the first event of the stay.';
comment on column centiloc.stay.entered_id is 'First event of the stay, as in item_event.';
comment on column centiloc.stay.left_at is
    'First leave from the board or arrival elsewhere; null while the stay lasts.';

create table centiloc.item_board (
    tenant   text not null,
    uid      text not null,
    board_sn text not null,
    primary key (tenant, uid)
);

create index item_board_uid on centiloc.item_board (uid);
create index item_board_board_sn on centiloc.item_board (nullif(board_sn, ''));

comment on table centiloc.item_board is
    'Board of the newest arrival of each tag. Computed by the bridge: read item_location.';
comment on column centiloc.item_board.tenant is 'Centiloc tenantID.';
comment on column centiloc.item_board.uid is 'The tag.';
comment on column centiloc.item_board.board_sn is
    'Serial number of the board; empty if the event named none.';

create table centiloc.board_activity (
    tenant       text        not null,
    board_sn     text        not null,
    last_item_at timestamptz not null,
    primary key (tenant, board_sn)
);

comment on table centiloc.board_activity is
    'Newest item event of each board. Computed by the bridge: read board_health.';
comment on column centiloc.board_activity.tenant is 'Centiloc tenantID.';
comment on column centiloc.board_activity.board_sn is 'Serial number of the board.';
comment on column centiloc.board_activity.last_item_at is 'Momentum of its newest item event.';

create table centiloc.known_value (
    tenant       text        not null,
    kind         text        not null,
    value        text        not null,
    last_seen_at timestamptz not null,
    primary key (tenant, kind, value)
);

comment on table centiloc.known_value is
    'Distinct values of item events, for lists to choose from. Computed by the bridge.';
comment on column centiloc.known_value.tenant is 'Centiloc tenantID.';
comment on column centiloc.known_value.kind is 'product, location, shelf or furniture.';
comment on column centiloc.known_value.value is
    'product_reference, loc_reference, shelf_sn or furniture_sn.';
comment on column centiloc.known_value.last_seen_at is 'Momentum of the newest event that has it.';

create table centiloc.stay_pending (
    id           bigint      generated always as identity primary key,
    committed_at timestamptz not null default clock_timestamp(),
    tenants      text[]      not null,
    uids         text[]      not null,
    momenta      timestamptz[] not null
);

comment on table centiloc.stay_pending is
    'Tags with new events, by batch, whose stays are to be computed. Rows are deleted when that is done.';
comment on column centiloc.stay_pending.id is 'Grows with each batch.';
comment on column centiloc.stay_pending.committed_at is 'When the batch was written.';
comment on column centiloc.stay_pending.tenants is 'Centiloc tenantID of each tag.';
comment on column centiloc.stay_pending.uids is 'The tags.';
comment on column centiloc.stay_pending.momenta is 'Momentum of the oldest new event of each tag.';

insert into centiloc.stay_pending (tenants, uids, momenta)
select array_agg(tenant), array_agg(uid), array_agg(first_seen_at)
  from (select tenant, uid, min(first_seen_at) as first_seen_at,
               (row_number() over (order by tenant, uid) - 1) / 20 as batch
          from centiloc.item_state
         group by tenant, uid) tag
 group by batch
 order by batch;

create view centiloc.stale_tag as
select distinct t.tenant, t.uid
  from centiloc.stay_pending p
 cross join lateral unnest(p.tenants, p.uids) as t (tenant, uid);

comment on view centiloc.stale_tag is
    'Tags whose stays and board are not computed yet. The views find where these are by item_state.';
comment on column centiloc.stale_tag.tenant is 'Centiloc tenantID.';
comment on column centiloc.stale_tag.uid is 'The tag.';

create view centiloc.current_board as
select b.tenant, b.uid, b.board_sn, nullif(b.board_sn, '') as named_board_sn
  from centiloc.item_board b
 where not exists (
       select from centiloc.stale_tag t where t.tenant = b.tenant and t.uid = b.uid)
 union all
select t.tenant, t.uid, newest.board_sn, nullif(newest.board_sn, '')
  from centiloc.stale_tag t
 cross join lateral (
       select s.board_sn
         from centiloc.item_state s
        where s.tenant = t.tenant
          and s.uid = t.uid
          and centiloc.is_plausible(s.momentum, s.received_at)
        order by s.last_in_at desc nulls last, s.last_in_id desc, s.momentum desc, s.event_id desc
        limit 1) newest;

comment on view centiloc.current_board is
    'The board whose row of item_state says where a tag is: the board of its newest arrival.';
comment on column centiloc.current_board.tenant is 'Centiloc tenantID.';
comment on column centiloc.current_board.uid is 'The tag.';
comment on column centiloc.current_board.board_sn is
    'Serial number of the board as in item_state: empty if the event named none.';
comment on column centiloc.current_board.named_board_sn is
    'Serial number of the board; null if the event named none.';

create or replace view centiloc.item_location as
select s.tenant,
       s.uid,
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
  join centiloc.item_state s
    on s.tenant = b.tenant
   and s.uid = b.uid
   and s.board_sn = b.board_sn
 where centiloc.is_plausible(s.momentum, s.received_at);

comment on view centiloc.item_location is
    'Where each tag is: one row a tag. The board of its newest arrival; if that board saw it leave later, it is nowhere (is_in false) and was last seen there.';

create or replace view centiloc.board_content as
select s.tenant,
       b.named_board_sn as board_sn,
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
  from centiloc.current_board b
  join centiloc.item_state s
    on s.tenant = b.tenant
   and s.uid = b.uid
   and s.board_sn = b.board_sn
 where s.is_in
   and b.named_board_sn is not null
   and centiloc.is_plausible(s.momentum, s.received_at);

create or replace view centiloc.item_stay as
select tenant,
       uid,
       nullif(board_sn, '') as board_sn,
       entered_at,
       left_at,
       coalesce(left_at, now()) - entered_at as duration
  from centiloc.stay;

comment on view centiloc.item_stay is
    'Uninterrupted stays of tags on boards. A stay ends at the first leave from that board or arrival elsewhere. Complete as item_stay_progress says.';

create view centiloc.item_stay_progress as
select coalesce(min(committed_at), now()) as complete_until,
       count(*) as pending_batches
  from centiloc.stay_pending;

comment on view centiloc.item_stay_progress is
    'How far item_stay, board_health.last_item_at and known_value follow the events.';
comment on column centiloc.item_stay_progress.complete_until is
    'Events committed before this time are in item_stay.';
comment on column centiloc.item_stay_progress.pending_batches is
    'Number of batches of events that are not in item_stay yet.';

create or replace view centiloc.board_health as
select tenant,
       board_sn,
       b.status,
       b.momentum,
       b.fw_version,
       b.last_connection_at,
       b.last_disconnection_at,
       b.last_error_at,
       a.last_item_at,
       coalesce(c.items, 0) as items,
       b.status = 'CONNECTED' as is_healthy
  from (select * from centiloc.board_state where centiloc.is_plausible(momentum, received_at)) b
  full join (select * from centiloc.board_activity where board_sn <> '') a using (tenant, board_sn)
  left join (select tenant, board_sn, count(*) as items
               from centiloc.board_content
              group by tenant, board_sn) c using (tenant, board_sn);

-- Roles that may use item_state may use what is computed with it.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.grantee, a.privilege_type, t.name
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         cross join (values ('stay'), ('stay_pending'), ('item_board'), ('board_activity'),
                            ('known_value'), ('current_board'), ('stale_tag'),
                            ('item_stay_progress')) as t (name)
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
