-- Indexes and storage that cost the ingest and the computation of stays less, and answer the same.

-- The primary keys begin with the tag: no other index by tag is needed.
alter table centiloc.item_state
    drop constraint item_state_pkey,
    add constraint item_state_pkey primary key (uid, tenant, board_sn);
drop index centiloc.item_state_uid;

alter table centiloc.stay
    drop constraint stay_pkey,
    add constraint stay_pkey primary key (uid, entered_at, tenant, entered_id);
drop index centiloc.stay_uid;

-- These rows live for seconds: compressing them takes longer than writing them.
alter table centiloc.stay_pending
    alter column tenants set storage external,
    alter column uids set storage external,
    alter column momenta set storage external;

comment on column centiloc.stay_pending.uids is 'The tags. One may occur several times.';
comment on column centiloc.stay_pending.momenta is 'Momentum of an event of each tag.';
comment on column centiloc.known_value.last_seen_at is
    'Momentum of the newest event that has it, or up to an hour less.';
comment on column centiloc.product_list.last_seen_at is
    'Momentum of the newest event that names it, or up to an hour less.';
comment on column centiloc.location_list.last_seen_at is
    'Momentum of the newest event that names it, or up to an hour less.';
comment on column centiloc.shelf_list.last_seen_at is
    'Momentum of the newest event that names it, or up to an hour less.';
