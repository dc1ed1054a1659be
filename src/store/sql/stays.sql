-- Computes the stays of the tags that pending batches name, and what else follows from their events.
-- $1 are the ids of the batches, $2 is about the number of events to read. What that leaves becomes a
-- batch of its own. $3 is true if NOTIFY announces new rows of change_batch. Returns the number of
-- tags that were computed.
--
-- For each tag, `since` is its oldest new event. Its newest stay that began earlier stands for all
-- events before: as an arrival, and as a leave if it ended before. Events from `since` on are read.
--
-- Sums are computed again for the hours and days of new events, and for those in which a stay changed.
--
-- `offset 0` keeps lookups by index from becoming scans of whole tables. Other joins are hash joins,
-- because the planner cannot know the number of tags.
with taken as (
    delete from centiloc.stay_pending
     where id = any ($1)
    returning id, committed_at, is_batch, tenants, uids, momenta
), pending_tag as materialized (
    -- Stays whose events may be deleted are not computed again.
    select tenant, uid, is_batch,
           case when since < (select kept from centiloc.rollup_floor)
                 and exists (
                     select
                       from centiloc.stay s
                      where s.tenant = t.tenant
                        and s.uid = t.uid
                        and s.entered_at >= t.since
                        and s.entered_at < (select kept from centiloc.rollup_floor))
                then (select kept from centiloc.rollup_floor)
                else since end as since
      from (select t.tenant, t.uid, min(t.momentum) as since, bool_and(t.is_batch) as is_batch
              from (select is_batch, unnest(tenants) as tenant, unnest(uids) as uid,
                           unnest(momenta) as momentum
                      from taken) t
             group by t.tenant, t.uid) t
), tag as materialized (
    select tenant, uid, since, is_batch
      from pending_tag
     order by tenant, uid
     limit greatest($2 / 50, 50)
), recent as (
    insert into centiloc.recent_change (tenants, uids)
    select array_agg(tenant), array_agg(uid)
      from tag
    having count(*) > 0
), outdated as (
    delete from centiloc.recent_change
     where computed_at < now() - interval '1 minute'
), change as (
    insert into centiloc.change_batch (committed_at, tenants, uids, momenta)
    select committed_at, tenants, uids, momenta
      from taken
     where is_batch
     order by id
    returning "position"
), read_change as (
    -- Deletes the oldest, a few with each computation.
    delete from centiloc.change_batch
     where "position" in (
           select "position"
             from (select "position", committed_at
                     from centiloc.change_batch
                    order by "position"
                    limit 1000) oldest
            where committed_at < now() - interval '1 day')
), share as materialized (
    select greatest($2 / greatest(count(*), 1), 20) as events
      from tag
), earlier as materialized (
    select tag.tenant, tag.uid, tag.since, s.board_sn, s.entered_at, s.entered_id, s.left_at,
           s.product_reference, s.loc_reference
      from tag
     cross join lateral (
           select board_sn, entered_at, entered_id, left_at, product_reference, loc_reference
             from centiloc.stay
            where tenant = tag.tenant
              and uid = tag.uid
              and entered_at < tag.since
            order by entered_at desc, entered_id desc
            limit 1) s
), new_event as materialized (
    select tag.is_batch, e.*
      from tag
     cross join lateral (
           select tenant, uid, coalesce(board_sn, '') as board_sn, momentum, event_id, is_in,
                  product_reference, loc_reference, shelf_sn, furniture_sn
             from centiloc.item_event
            where uid = tag.uid
              and tenant = tag.tenant
              and momentum >= tag.since
              and (momentum <= received_at + interval '24 hours'
                   -- One that was dated too far ahead when it was stored is in no state. It counts only
                   -- after a later event of the tag on that board.
                   or centiloc.is_plausible(momentum, received_at)
                      and exists (
                          select
                            from centiloc.item_state s
                           where s.uid = item_event.uid
                             and s.tenant = item_event.tenant
                             and s.board_sn = coalesce(item_event.board_sn, '')
                             and (s.momentum, s.event_id)
                                 >= (item_event.momentum, item_event.event_id)))
            order by momentum
            fetch first (select events from share) rows with ties) e
), seen as materialized (
    select tenant, uid, max(momentum) as until, count(*) >= (select events from share) as goes_on
      from new_event
     group by tenant, uid
), rest as (
    insert into centiloc.stay_pending (committed_at, tenants, uids, momenta)
    select (select min(committed_at) from taken), array_agg(tenant), array_agg(uid), array_agg(since)
      from ((select tenant, uid, since
               from pending_tag
              order by tenant, uid
             offset greatest($2 / 50, 50))
             union all
            select tenant, uid, until + interval '1 microsecond'
              from seen
             where goes_on) left_over
    having count(*) > 0
), event as (
    select tenant, uid, board_sn, momentum, event_id, is_in, product_reference, loc_reference
      from new_event
     union all
    select tenant, uid, board_sn, entered_at, entered_id, true, product_reference, loc_reference
      from earlier
     union all
    select tenant, uid, board_sn, left_at, 'ffffffff-ffff-ffff-ffff-ffffffffffff', false, null, null
      from earlier
     where left_at < since
), step as (
    select *,
           lag(is_in) over same_board as was_in,
           case when not lead(is_in) over same_board then lead(momentum) over same_board end as out_at
      from event
    -- Bytewise order is faster than that of a language.
    window same_board as (
           partition by tenant collate "C", uid collate "C", board_sn collate "C"
               order by momentum, event_id)
), arrival as (
    select tenant, uid, board_sn, momentum, event_id, product_reference, loc_reference,
           was_in is true and lag(board_sn) over same_tag = board_sn as stays,
           least(out_at,
                 case when lead(board_sn) over same_tag <> board_sn
                      then lead(momentum) over same_tag end) as left_at
      from step
     where is_in
    window same_tag as (
           partition by tenant collate "C", uid collate "C"
               order by momentum, event_id)
), numbered as (
    select *, count(*) filter (where not stays) over same_tag as number
      from arrival
    window same_tag as (
           partition by tenant collate "C", uid collate "C"
               order by momentum, event_id)
), computed as materialized (
    select tenant, uid, number, min(board_sn) as board_sn, min(momentum) as entered_at,
           (array_agg(event_id) filter (where not stays))[1] as entered_id,
           min(product_reference) filter (where not stays) as product_reference,
           min(loc_reference) filter (where not stays) as loc_reference,
           max(left_at) as left_at
      from numbered
     group by tenant, uid, number
), known_stay as materialized (
    select s.*
      from tag
      left join seen using (tenant, uid)
     cross join lateral (
           select ctid as row_at, tenant, uid, board_sn, entered_at, entered_id, left_at,
                  product_reference, loc_reference
             from centiloc.stay
            where tenant = tag.tenant
              and uid = tag.uid
              and entered_at >= tag.since
              and (seen.goes_on is not true or entered_at <= seen.until)
           offset 0) s
), removed as (
    delete from centiloc.stay
     where ctid = any (array(
           select row_at
             from known_stay k
             left join computed c using (tenant, uid, entered_at, entered_id)
            where c.number is null))
), written as (
    insert into centiloc.stay as s (
        tenant, uid, board_sn, entered_at, entered_id, left_at, product_reference, loc_reference
    )
    select tenant, uid, board_sn, entered_at, entered_id, left_at, product_reference, loc_reference
      from computed
    on conflict (tenant, uid, entered_at, entered_id) do update set
        board_sn = excluded.board_sn,
        left_at = excluded.left_at,
        product_reference = excluded.product_reference,
        loc_reference = excluded.loc_reference
     where (s.board_sn, s.left_at, s.product_reference, s.loc_reference)
           is distinct from (excluded.board_sn, excluded.left_at, excluded.product_reference,
                             excluded.loc_reference)
), changed as (
    -- When a stay changed: while it lasted, or between its former and its present end.
    select distinct
           date_bin('1 hour', greatest(since, '2015-01-01', kept), timestamptz '2000-01-01 00:00+00')
               as first,
           date_bin('1 hour', until, timestamptz '2000-01-01 00:00+00') as last
      from (select case when (c.board_sn, c.product_reference, c.loc_reference)
                             is distinct from (k.board_sn, k.product_reference, k.loc_reference)
                        then entered_at
                        else least(c.left_at, k.left_at) end as since,
                   least(greatest(case when is_there then coalesce(c.left_at, 'infinity') end,
                                  case when was_there then coalesce(k.left_at, 'infinity') end),
                         now()) as until
              from (select tenant, uid, entered_at, entered_id, board_sn, left_at, product_reference,
                           loc_reference, true as is_there
                      from computed) c
              full join (
                   select tenant, uid, entered_at, entered_id, board_sn, left_at, product_reference,
                          loc_reference, true as was_there
                     from known_stay
                    union all
                   select tenant, uid, entered_at, entered_id, board_sn, left_at, product_reference,
                          loc_reference, true
                     from earlier) k using (tenant, uid, entered_at, entered_id)
             where (is_there, c.board_sn, c.left_at, c.product_reference, c.loc_reference)
                   is distinct from (was_there, k.board_sn, k.left_at, k.product_reference,
                                     k.loc_reference)) stay
     cross join centiloc.rollup_floor
     where since < now()
       and until >= greatest(kept, '2015-01-01')
), new_hour as (
    select distinct date_bin('1 hour', momentum, timestamptz '2000-01-01 00:00+00') as hour
      from (select unnest(momenta) as momentum
              from taken
             where is_batch
             union all
            select momentum
              from new_event
             where not is_batch) event
     where momentum >= greatest('2015-01-01', (select kept from centiloc.rollup_floor))
       and momentum < now()
), dirty_hour as materialized (
    select hour
      from new_hour
     union
    select hour
      from (select range_agg(tstzrange(first, last, '[]')) as spans from changed) merged
     cross join lateral unnest(spans) as span
     cross join lateral generate_series(lower(span), upper(span), interval '1 hour') as hour
), dirty as (
    insert into centiloc.rollup_pending (width, start)
    select interval '1 hour', hour
      from dirty_hour
     union all
    select distinct interval '1 day', date_bin('1 day', hour, timestamptz '2000-01-01 00:00+00')
      from dirty_hour
    -- Others insert in the same order, so that none waits for another in a circle.
     order by 1, 2
    on conflict (width, start) do nothing
), place as materialized (
    select tag.tenant, tag.uid, coalesce(newest.board_sn, known.board_sn) as board_sn
      from tag
      left join (
           select distinct on (tenant, uid) tenant, uid, board_sn
             from computed
            order by tenant, uid, number desc) newest using (tenant, uid)
      left join lateral (
           select s.board_sn
             from centiloc.item_state s
            where newest.board_sn is null
              and s.tenant = tag.tenant
              and s.uid = tag.uid
              and centiloc.is_plausible(s.momentum, s.received_at)
            order by s.last_in_at desc nulls last, s.last_in_id desc, s.momentum desc, s.event_id desc
            limit 1) known on true
), placed as (
    insert into centiloc.item_board as b (tenant, uid, board_sn)
    select tenant, uid, board_sn
      from place
     where board_sn is not null
    on conflict (tenant, uid) do update set board_sn = excluded.board_sn
     where b.board_sn <> excluded.board_sn
), gone as (
    delete from centiloc.item_board
     where ctid = any (array(
           select b.row_at
             from place
            cross join lateral (
                  select ctid as row_at
                    from centiloc.item_board
                   where tenant = place.tenant
                     and uid = place.uid
                  offset 0) b
            where place.board_sn is null))
), board as (
    insert into centiloc.board_activity as b (tenant, board_sn, last_item_at)
    select tenant, board_sn, max(momentum)
      from new_event
     where board_sn <> ''
     group by tenant, board_sn
     order by tenant, board_sn
    on conflict (tenant, board_sn) do update set last_item_at = excluded.last_item_at
     where b.last_item_at < excluded.last_item_at
), value as materialized (
    select e.tenant, v.kind, v.value, max(e.momentum) as last_seen_at
      from (select tenant, product_reference, loc_reference, shelf_sn, furniture_sn,
                   max(momentum) as momentum
              from new_event
             group by tenant, product_reference, loc_reference, shelf_sn, furniture_sn) e
     cross join lateral (
           values ('product', e.product_reference), ('location', e.loc_reference),
                  ('shelf', e.shelf_sn), ('furniture', e.furniture_sn)) as v (kind, value)
     where v.value is not null
     group by e.tenant, v.kind, v.value
), known as (
    insert into centiloc.known_value as k (tenant, kind, value, last_seen_at)
    select tenant, kind, value, last_seen_at
      from value
     where not exists (
           select
             from centiloc.known_value
            where known_value.tenant = value.tenant
              and known_value.kind = value.kind
              and known_value.value = value.value
              and known_value.last_seen_at >= value.last_seen_at - interval '1 hour')
    on conflict (tenant, kind, value) do update set last_seen_at = excluded.last_seen_at
)
select count(*),
       (select pg_notify('centiloc_change', max("position")::text)
          from change
        having $3 and count(*) > 0)
  from tag
