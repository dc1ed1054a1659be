-- What the bridge writes about itself: what it set aside, when it was connected, what may be missing.

create table centiloc.dead_letter (
    id           bigint      generated always as identity primary key,
    received_at  timestamptz not null,
    last_seen_at timestamptz not null,
    topic        text        not null,
    payload      bytea       not null,
    digest       bytea       not null unique,
    reason       text        not null,
    detail       text        not null,
    sqlstate     text,
    seen         integer     not null default 1,
    replayed_at  timestamptz
);

comment on table centiloc.dead_letter is
    'Messages that became no event, with their bytes. "centiloc-bridge dead-letters replay" tries them again.';
comment on column centiloc.dead_letter.id is 'Number to name it by.';
comment on column centiloc.dead_letter.received_at is 'When it was first received.';
comment on column centiloc.dead_letter.last_seen_at is 'When it was last received.';
comment on column centiloc.dead_letter.topic is 'MQTT topic.';
comment on column centiloc.dead_letter.payload is 'The message as received.';
comment on column centiloc.dead_letter.digest is
    'SHA-256 of topic and payload, each preceded by its length as eight bytes, big-endian.';
comment on column centiloc.dead_letter.reason is
    'malformed, missing_field, out_of_range, implausible, unknown_topic or refused_by_database.';
comment on column centiloc.dead_letter.detail is 'What was found, what was expected, what to do.';
comment on column centiloc.dead_letter.sqlstate is 'PostgreSQL error code, where the database refused it.';
comment on column centiloc.dead_letter.seen is 'How often it was received.';
comment on column centiloc.dead_letter.replayed_at is
    'When a replay brought it in; deleted 90 days later.';

create table centiloc.connection (
    id              bigint      generated always as identity primary key,
    client_id       text        not null,
    instance        uuid        not null,
    connected_at    timestamptz not null,
    session_present boolean     not null,
    filters         text[]      not null,
    last_seen_at    timestamptz not null,
    disconnected_at timestamptz,
    reason          text,
    -- A repeated insert, after an answer that got lost, finds its first.
    unique (client_id, instance, connected_at)
);

create index connection_newest on centiloc.connection (client_id, id);

comment on table centiloc.connection is 'Connections of the bridge to the broker; kept for 90 days.';
comment on column centiloc.connection.id is 'Grows with every connection.';
comment on column centiloc.connection.client_id is 'MQTT client identifier.';
comment on column centiloc.connection.instance is 'The process that connected: a fresh UUID per start.';
comment on column centiloc.connection.connected_at is 'When the broker accepted it.';
comment on column centiloc.connection.session_present is
    'Whether the broker still knew the session. False after an earlier connection means loss: see gap.';
comment on column centiloc.connection.filters is
    'Topic filters the session may hold at the broker: those subscribed to, and earlier ones not yet unsubscribed.';
comment on column centiloc.connection.last_seen_at is
    'When the connection was last known to stand; refreshed every 10 seconds.';
comment on column centiloc.connection.disconnected_at is 'When it ended; null while it lasts.';
comment on column centiloc.connection.reason is 'Why it ended.';

create table centiloc.gap (
    id         bigint      generated always as identity primary key,
    client_id  text        not null,
    started_at timestamptz not null,
    ended_at   timestamptz,
    cause      text        not null,
    detail     text        not null,
    unique (client_id, cause, started_at)
);

comment on table centiloc.gap is
    'Periods in which messages may have been lost. No row means that no loss is possible as far as the bridge can tell.';
comment on column centiloc.gap.id is 'Grows with every gap.';
comment on column centiloc.gap.client_id is 'MQTT client identifier.';
comment on column centiloc.gap.started_at is 'Since when messages may be missing.';
comment on column centiloc.gap.ended_at is 'Until when; null while it lasts.';
comment on column centiloc.gap.cause is
    'session_lost, absence, backpressure, spool_full or spool_damaged.';
comment on column centiloc.gap.detail is 'In words.';
