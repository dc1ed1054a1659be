-- The tags that changed lately, for readers that follow the events. Written by the computation of
-- stays, apart from the ingest.

create table centiloc.recent_change (
    id          bigint      generated always as identity primary key,
    computed_at timestamptz not null default clock_timestamp(),
    tenants     text[]      not null,
    uids        text[]      not null
);

comment on table centiloc.recent_change is
    'Tags whose stays were computed lately, by computation. Rows are kept for a minute. With stay_pending it names every tag with a new event.';
comment on column centiloc.recent_change.id is
    'Grows with each computation, in the order of commits. A reader whose last row is gone reads all tags again.';
comment on column centiloc.recent_change.computed_at is 'When the stays were computed.';
comment on column centiloc.recent_change.tenants is 'Centiloc tenantID of each tag.';
comment on column centiloc.recent_change.uids is 'The tags.';

-- Roles that may use stay_pending may use it.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.grantee, a.privilege_type
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         where c.oid = 'centiloc.stay_pending'::regclass
           and a.grantee not in (0, c.relowner)
           and a.privilege_type in ('SELECT', 'INSERT', 'DELETE')
    loop
        execute format('grant %s on centiloc.recent_change to %s', privilege.privilege_type,
                       privilege.grantee::regrole);
    end loop;
end
$$;
