-- One batch of messages that became no event. One that is received again is counted, not repeated.
-- The count stops at the largest integer: one that overflows would refuse the whole batch.
insert into centiloc.dead_letter as d (
    received_at, last_seen_at, topic, payload, digest, reason, detail, sqlstate, seen
)
select received_at, last_seen_at, topic, payload, digest, reason, detail, sqlstate, seen
  from unnest(
       $1::timestamptz[], $2::timestamptz[], $3::text[], $4::bytea[], $5::bytea[], $6::text[],
       $7::text[], $8::text[], $9::integer[]
       ) as t (
       received_at, last_seen_at, topic, payload, digest, reason, detail, sqlstate, seen
       )
on conflict (digest) do update set
    last_seen_at = greatest(excluded.last_seen_at, d.last_seen_at),
    seen = least(d.seen::bigint + excluded.seen, 2147483647)::integer,
    reason = excluded.reason,
    detail = excluded.detail,
    sqlstate = excluded.sqlstate
