-- Separate roles for migrations, the service and dashboards. Run it as a superuser in the database,
-- after `centiloc-bridge migrate`, and again after each upgrade:
--
--   sudo -u postgres psql -d centiloc -f roles.sql
--
-- owner             the role that owns schema centiloc: migrations, and commands such as erase
-- centiloc_writer   what `centiloc-bridge run` does, with database.migrate = false
-- centiloc_reader   dashboards: reads everything but payloads and dead letters
--
-- The roles have no password until you set one: \password centiloc_writer

\set ON_ERROR_STOP on
begin;

do $$
begin
    if to_regclass('centiloc.recent_change') is null then
        raise exception 'run "centiloc-bridge migrate" in this database first';
    end if;
    if to_regrole('centiloc_writer') is null then
        create role centiloc_writer login;
    end if;
    if to_regrole('centiloc_reader') is null then
        create role centiloc_reader login;
    end if;
end
$$;

alter role centiloc_reader set default_transaction_read_only = on;
alter role centiloc_reader set statement_timeout = '60s';
-- Compiling the questions of dashboards takes longer than answering them.
alter role centiloc_reader set jit = off;

-- What earlier runs granted.
revoke all on all tables in schema centiloc from centiloc_writer, centiloc_reader;

grant usage on schema centiloc to centiloc_writer, centiloc_reader;

-- The service makes and drops partitions, for which it must own item_event and may create tables.
-- The owner of the schema remains able to change them.
grant create on schema centiloc to centiloc_writer;
do $$
declare
    owner regrole := (select nspowner::regrole from pg_namespace where nspname = 'centiloc');
    item_events regclass;
begin
    execute format('grant connect on database %I to centiloc_writer, centiloc_reader',
                   current_database());
    execute format('grant centiloc_writer to %s', owner);
    for item_events in
        select relid from pg_partition_tree('centiloc.item_event')
         union
        select to_regclass(held_in) from centiloc.archive_file where to_regclass(held_in) is not null
    loop
        execute format('alter table %s owner to centiloc_writer', item_events);
        execute format('grant all on %s to centiloc_writer', item_events);
    end loop;
    -- Tables of later versions.
    execute format('alter default privileges for role %s in schema centiloc
                        grant select, insert, update, delete on tables to centiloc_writer', owner);
    execute format('alter default privileges for role %s in schema centiloc
                        grant select on tables to centiloc_reader', owner);
end
$$;

grant select on centiloc._sqlx_migrations to centiloc_writer;
grant select, insert, update on
    centiloc.gap, centiloc.journal_position, centiloc.board_activity, centiloc.board_usual_interval,
    centiloc.known_value
    to centiloc_writer;
grant select, insert, update, delete on
    centiloc.dead_letter, centiloc.connection, centiloc.stay,
    centiloc.stay_pending, centiloc.item_board, centiloc.change_batch
    to centiloc_writer;
grant select, insert, delete on
    centiloc.board_hour, centiloc.location_hour, centiloc.product_day, centiloc.dwell_day,
    centiloc.rollup_pending,
    centiloc.service_figures, centiloc.recent_change
    to centiloc_writer;
grant select, insert, update, delete on centiloc.rebuild, centiloc.archive_file to centiloc_writer;
grant select, update on centiloc.rollup_floor to centiloc_writer;
grant select on
    centiloc.board_silence, centiloc.layout_furniture, centiloc.layout_shelf, centiloc.layout_board,
    centiloc.layout_location, centiloc.board_list, centiloc.board_content
    to centiloc_writer;

-- The tables of each kind of event: X_event and X_state.
do $$
declare
    relation record;
begin
    for relation in
        select c.oid::regclass as events,
               to_regclass('centiloc.' || replace(c.relname, '_event', '_state')) as states
          from pg_class c
         where c.relnamespace = 'centiloc'::regnamespace
           and right(c.relname, 6) = '_event'
           and c.relkind in ('r', 'p')
    loop
        execute format('grant select, insert, update, delete on %s to centiloc_writer', relation.events);
        execute format('grant select, insert, update on %s to centiloc_writer', relation.states);
    end loop;
end
$$;

-- Functions read with the rights of the caller, so the reader may read tables too. Partitions are
-- read through item_event.
grant select on all tables in schema centiloc to centiloc_reader;
do $$
declare
    relation record;
begin
    for relation in
        select c.oid::regclass as name
          from pg_class c
         where c.relnamespace = 'centiloc'::regnamespace
           and c.relkind in ('r', 'p')
           and exists (
               select
                 from pg_attribute
                where attrelid = c.oid
                  and attname = 'payload'
                  and not attisdropped)
    loop
        execute format('revoke select on %s from centiloc_reader', relation.name);
    end loop;
    for relation in
        select attrelid::regclass as name, string_agg(quote_ident(attname), ', ') as columns
          from pg_attribute
          join pg_class c on c.oid = attrelid
         where c.relnamespace = 'centiloc'::regnamespace
           and right(c.relname, 6) = '_event'
           and c.relkind in ('r', 'p')
           and attnum > 0
           and not attisdropped
           and attname <> 'payload'
         group by attrelid
    loop
        execute format('grant select (%s) on %s to centiloc_reader', relation.columns, relation.name);
    end loop;
end
$$;

commit;
