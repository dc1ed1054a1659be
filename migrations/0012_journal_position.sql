-- Lets a bridge notice that the database has gone back in time.

create table centiloc.journal_position (
    client_id text        primary key,
    position  bigint      not null,
    noted_at  timestamptz not null
);

comment on table centiloc.journal_position is
    'How far each bridge has written. A bridge that remembers a higher position finds a database restored from a backup.';
comment on column centiloc.journal_position.client_id is 'MQTT client identifier.';
comment on column centiloc.journal_position.position is 'Grows every 10 seconds while the bridge is connected.';
comment on column centiloc.journal_position.noted_at is 'When it last grew.';
comment on column centiloc.gap.cause is
    'session_lost, absence, backpressure, spool_full, spool_damaged, member_vanished or database_restored.';
