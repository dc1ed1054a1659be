-- A feed of the committed batches of item events, for programs that follow them.

alter table centiloc.stay_pending add column is_batch boolean not null default false;

comment on column centiloc.stay_pending.is_batch is
    'True for a batch of the ingest, which becomes a row of change_batch. False for tags that are computed again.';

create table centiloc.change_batch (
    position     bigint        generated always as identity primary key,
    committed_at timestamptz   not null,
    tenants      text[]        not null,
    uids         text[]        not null,
    momenta      timestamptz[] not null
);

alter table centiloc.change_batch
    alter column tenants set storage external,
    alter column uids set storage external,
    alter column momenta set storage external;

comment on table centiloc.change_batch is
    'The item events of each committed batch, kept for a day. Positions become visible in their order, so that a reader that goes on after the last one it saw misses none. Read changes_since().';
comment on column centiloc.change_batch.position is
    'Grows with each batch. Numbers may be left out.';
comment on column centiloc.change_batch.committed_at is 'When the batch was written.';
comment on column centiloc.change_batch.tenants is 'Centiloc tenantID of each event.';
comment on column centiloc.change_batch.uids is 'Tag of each event.';
comment on column centiloc.change_batch.momenta is 'Momentum of each event.';

create function centiloc.changes_since(after bigint, batches integer default 100)
returns table (
    "position"        bigint,
    committed_at      timestamptz,
    tenant            text,
    uid               text,
    board_sn          text,
    is_in             boolean,
    momentum          timestamptz,
    event_id          uuid,
    x_mm              integer,
    y_mm              integer,
    product_reference text,
    shelf_sn          text,
    loc_reference     text
) language sql stable parallel safe as $$
    select b.position, b.committed_at, e.tenant, e.uid, e.board_sn, e.is_in, e.momentum, e.event_id,
           e.x_mm, e.y_mm, e.product_reference, e.shelf_sn, e.loc_reference
      from (select *
              from centiloc.change_batch
             where change_batch.position > after
             order by change_batch.position
             limit batches) b
     cross join lateral (
           select distinct tenant, uid, momentum
             from unnest(b.tenants, b.uids, b.momenta) as t (tenant, uid, momentum)) k
     cross join lateral (
           select tenant, uid, board_sn, is_in, momentum, event_id, x_mm, y_mm, product_reference,
                  shelf_sn, loc_reference
             from centiloc.item_event i
            where i.uid = k.uid
              and i.tenant = k.tenant
              and i.momentum = k.momentum
           offset 0) e
     order by b.position, e.momentum, e.event_id
$$;

comment on function centiloc.changes_since(bigint, integer) is
    'Item events of the next batches after a position, oldest batch first. A redelivered event may occur again: event_id tells. Go on after the last position; if that is less than change_feed.first_position - 1, batches were deleted meanwhile.';

create view centiloc.change_feed as
select (select min("position") from centiloc.change_batch) as first_position,
       (select max("position") from centiloc.change_batch) as last_position;

comment on view centiloc.change_feed is 'The range of positions that changes_since() can read.';
comment on column centiloc.change_feed.first_position is 'Oldest position that is kept. Null if there is none.';
comment on column centiloc.change_feed.last_position is 'Newest position. Null if there is none.';

-- Roles that may use item_state may use what is computed with it.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.grantee, a.privilege_type, t.name
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         cross join (values ('change_batch'), ('change_feed')) as t (name)
         where c.oid = 'centiloc.item_state'::regclass
           and a.grantee not in (0, c.relowner)
           and (a.privilege_type = 'SELECT'
                or a.privilege_type in ('INSERT', 'UPDATE') and t.name = 'change_batch')
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
