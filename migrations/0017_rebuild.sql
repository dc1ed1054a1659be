-- Lets `centiloc-bridge rebuild` continue after an interruption.

create table centiloc.rebuild (
    target     text        primary key check (target in ('stays', 'rollups')),
    started_at timestamptz not null default clock_timestamp(),
    total      bigint      not null
);

comment on table centiloc.rebuild is
    'Computations of all stays or sums that `centiloc-bridge rebuild` began and did not see the end of.';
comment on column centiloc.rebuild.target is 'stays or rollups.';
comment on column centiloc.rebuild.started_at is
    'When everything was queued. For stays the committed_at of the rows in stay_pending.';
comment on column centiloc.rebuild.total is 'Number of tags, or of hours and days, that were queued.';

-- Roles that may use item_state may use what is computed with it.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.grantee, a.privilege_type
          from pg_catalog.pg_class c
         cross join lateral pg_catalog.aclexplode(c.relacl) a
         where c.oid = 'centiloc.item_state'::regclass
           and a.grantee not in (0, c.relowner)
           and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE')
    loop
        execute format('grant %s on centiloc.rebuild to %s', privilege.privilege_type,
                       privilege.grantee::regrole);
        if privilege.privilege_type = 'INSERT' then
            execute format('grant delete on centiloc.rebuild to %s', privilege.grantee::regrole);
        end if;
    end loop;
end
$$;
