-- Figures of the service for the charts of its status page, which go on after a restart.

create table centiloc.service_figures (
    client_id text not null,
    at timestamptz not null,
    events_per_second double precision not null,
    lag_seconds double precision,
    unacked bigint not null,
    primary key (client_id, at)
);

comment on table centiloc.service_figures is
    'Figures of the running service, one row every five minutes while its admin endpoint is on. Kept for 30 days.';
comment on column centiloc.service_figures.client_id is 'MQTT client identifier.';
comment on column centiloc.service_figures.at is 'End of the five minutes.';
comment on column centiloc.service_figures.events_per_second is 'Events stored each second.';
comment on column centiloc.service_figures.lag_seconds is
    'Mean time from an event to its commit; null without events.';
comment on column centiloc.service_figures.unacked is
    'Most messages received and not yet acknowledged.';

-- Roles that may use item_state may use it too.
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
           and a.privilege_type in ('SELECT', 'INSERT')
    loop
        execute format('grant %s on centiloc.service_figures to %s', privilege.privilege_type,
                       privilege.grantee::regrole);
        if privilege.privilege_type = 'INSERT' then
            execute format('grant delete on centiloc.service_figures to %s',
                           privilege.grantee::regrole);
        end if;
    end loop;
end
$$;
