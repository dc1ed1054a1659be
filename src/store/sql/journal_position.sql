-- Writes the next position of a client id ($1). A database whose position is below the one that was
-- written last ($2) has gone back in time: a gap from its own position's time to $5. Its newest
-- connection is then known to have been seen at $4, so that the restored row is no absence.
with before as (
    select position, noted_at
      from centiloc.journal_position
     where client_id = $1
       for update
), newest as (
    select max(id) as id, max(last_seen_at) as last_seen_at
      from centiloc.connection
     where client_id = $1
), lost as (
    insert into centiloc.gap as g (client_id, started_at, ended_at, cause, detail)
    select $1, least(coalesce(b.noted_at, n.last_seen_at, $4), $5), $5, $6,
           'the database is an earlier state of itself (a restored backup, or a standby without the '
           || 'newest commits): what was acknowledged in this time is missing in it'
      from newest n
      left join before b on true
     where $2 > coalesce(b.position, 0)
    on conflict (client_id, cause, started_at) do update
       set ended_at = greatest(excluded.ended_at, g.ended_at)
    returning id
), seen as (
    update centiloc.connection c
       set last_seen_at = greatest(c.last_seen_at, $4)
      from newest n
     where c.id = n.id
       and exists (select from lost)
)
insert into centiloc.journal_position as p (client_id, position, noted_at)
values ($1, greatest((select position from before), $2) + 1, $3)
on conflict (client_id) do update
   set position = greatest(p.position, excluded.position),
       noted_at = excluded.noted_at
returning position, exists (select from lost) as restored
