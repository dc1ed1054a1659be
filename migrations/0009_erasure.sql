-- Who erased which trace, when, and how many rows: kept after the rows are gone.

create table centiloc.erasure (
    id            bigint      generated always as identity primary key,
    started_at    timestamptz not null default clock_timestamp(),
    finished_at   timestamptz,
    role          text        not null default session_user,
    selector      text        not null check (selector in ('uid', 'board', 'before')),
    uid_salt      bytea,
    uid_digest    bytea,
    board_sn      text,
    before        timestamptz,
    item_events   bigint      not null default 0,
    board_events  bigint      not null default 0,
    item_states   bigint      not null default 0,
    board_states  bigint      not null default 0,
    dead_letters  bigint      not null default 0,
    spooled       bigint      not null default 0
);

comment on table centiloc.erasure is
    'Runs of "centiloc-bridge erase": kept for good. Counts grow with each transaction that deletes.';
comment on column centiloc.erasure.id is 'Grows with every run.';
comment on column centiloc.erasure.started_at is 'When the run began.';
comment on column centiloc.erasure.finished_at is
    'When it was complete; null while it runs, and for good if it was interrupted.';
comment on column centiloc.erasure.role is 'Database role that logged in for it.';
comment on column centiloc.erasure.selector is 'uid, board or before.';
comment on column centiloc.erasure.uid_salt is 'For a uid: random bytes in front of it in uid_digest.';
comment on column centiloc.erasure.uid_digest is
    'For a uid: sha256(uid_salt || convert_to(uid, ''UTF8'')). The uid itself is not kept.';
comment on column centiloc.erasure.board_sn is 'For a board: its serial number.';
comment on column centiloc.erasure.before is 'For a date: everything before it.';
comment on column centiloc.erasure.item_events is 'Rows deleted from item_event.';
comment on column centiloc.erasure.board_events is 'Rows deleted from board_event.';
comment on column centiloc.erasure.item_states is 'Rows deleted from item_state.';
comment on column centiloc.erasure.board_states is 'Rows deleted from board_state.';
comment on column centiloc.erasure.dead_letters is 'Rows deleted from dead_letter.';
comment on column centiloc.erasure.spooled is 'Messages deleted from spools on disk.';
