-- A person has looked at a gap: when, and with what conclusion.

alter table centiloc.gap
    add column acknowledged_at timestamptz,
    add column note text;

comment on column centiloc.gap.acknowledged_at is
    'When a person acknowledged it ("centiloc-bridge gaps acknowledge"); null until then.';
comment on column centiloc.gap.note is 'What the person noted.';

create or replace view centiloc.data_gap as
select id,
       client_id,
       started_at,
       ended_at,
       coalesce(ended_at, now()) - started_at as duration,
       cause,
       detail,
       acknowledged_at,
       note
  from centiloc.gap;

comment on column centiloc.data_gap.acknowledged_at is
    'When a person acknowledged it; null until then.';
comment on column centiloc.data_gap.note is 'What the person noted.';
