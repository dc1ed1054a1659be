-- Files that hold the events which retention deleted.

create table centiloc.archive_file (
    id          bigint      generated always as identity primary key,
    table_name  text        not null,
    from_at     timestamptz not null,
    until_at    timestamptz not null,
    held_in     text,
    detached_at timestamptz not null default clock_timestamp(),
    file        text        unique,
    rows        bigint,
    sha256      text,
    bytes       bigint,
    written_at  timestamptz,
    dropped_at  timestamptz,
    restored_at timestamptz,
    check (held_in is not null or written_at is not null)
);

comment on table centiloc.archive_file is
    'Files that retention writes to retention.archive_dir before it drops the rows, and tables that wait for it.';
comment on column centiloc.archive_file.id is 'Identifier.';
comment on column centiloc.archive_file.table_name is 'Table of the rows: item_event or board_event.';
comment on column centiloc.archive_file.from_at is 'Start of the range of momenta.';
comment on column centiloc.archive_file.until_at is 'End of the range of momenta, which is not in it.';
comment on column centiloc.archive_file.held_in is
    'Table that holds the rows until the file is written and verified; null afterwards.';
comment on column centiloc.archive_file.detached_at is 'When retention took the rows out of their table.';
comment on column centiloc.archive_file.file is 'Name within retention.archive_dir; null until it is written.';
comment on column centiloc.archive_file.rows is 'Number of rows in the file.';
comment on column centiloc.archive_file.sha256 is 'SHA-256 of the uncompressed file, in hexadecimal digits.';
comment on column centiloc.archive_file.bytes is 'Size of the compressed file.';
comment on column centiloc.archive_file.written_at is 'When the file was written, synced and read back.';
comment on column centiloc.archive_file.dropped_at is 'When the rows were dropped, in the same transaction as written_at.';
comment on column centiloc.archive_file.restored_at is
    'When `archive restore` brought the rows back. Retention keeps them until `archive restore --release`.';

-- Roles that may use item_state may use this.
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
        execute format('grant %s on centiloc.archive_file to %s', privilege.privilege_type,
                       privilege.grantee::regrole);
        if privilege.privilege_type = 'INSERT' then
            execute format('grant delete on centiloc.archive_file to %s', privilege.grantee::regrole);
        end if;
    end loop;
end
$$;
