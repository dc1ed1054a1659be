-- Hours that are computed are answered as they are, without adding them up again.

create or replace function centiloc.movement_rate(
    bucket interval,
    since timestamptz default '-infinity',
    until timestamptz default 'infinity'
) returns table (
    bucket_start timestamptz,
    tenant       text,
    board_sn     text,
    movements    bigint,
    in_events    bigint,
    out_events   bigint
) language sql stable parallel safe as $$
    with origin as materialized (
        select timestamptz '2000-01-01 00:00:00+00' as at
    ), span as materialized (
        -- Whole hours before the oldest event that is not computed, if a bucket consists of whole
        -- hours.
        select case when extract(epoch from bucket)::numeric % 3600 = 0
                    then date_bin('1 hour', since + interval '1 hour' - interval '1 microsecond', at)
                    else until end as first,
               case when extract(epoch from bucket)::numeric % 3600 = 0
                    then least(date_bin('1 hour', until, at), date_bin('1 hour', now(), at),
                               (select date_bin('1 hour', min(m), at)
                                  from centiloc.stay_pending
                                 cross join lateral unnest(momenta) as m))
                    else until end as past
          from origin
    ), computed as not materialized (
        select h.hour, h.tenant, nullif(h.board_sn, '') as board_sn, h.movements, h.in_events,
               h.out_events
          from centiloc.board_hour h
         where h.hour >= (select first from span)
           and h.hour < (select past from span)
           and h.movements > 0
           and not exists (
               select
                 from centiloc.rollup_pending p
                where p.width = interval '1 hour'
                  and p.start = h.hour)
    ), piece as materialized (
        select since as since, least(first, until) as until from span where since < first
         union all
        select greatest(past, first, since), until from span where past < until or first >= past
         union all
        select p.start, p.start + interval '1 hour'
          from centiloc.rollup_pending p, span
         where p.width = interval '1 hour'
           and p.start >= first
           and p.start < past
    ), raw as (
        select e.momentum, e.tenant, e.board_sn, 1, e.is_in::integer, (not e.is_in)::integer
          from piece
         cross join lateral (
               select i.momentum, i.tenant, i.board_sn, i.is_in
                 from centiloc.item_event i
                where i.momentum >= piece.since
                  and i.momentum < piece.until
                  and centiloc.is_plausible(i.momentum, i.received_at)
               offset 0) e
    )
    select hour, tenant, board_sn, movements, in_events, out_events
      from computed
     where bucket = interval '1 hour'
     union all
    select date_bin(bucket, moved.at, origin.at), moved.tenant, moved.board_sn,
           sum(moved.movements)::bigint, sum(moved.ins)::bigint, sum(moved.outs)::bigint
      from (select * from computed where bucket <> interval '1 hour'
             union all
            table raw) as moved (at, tenant, board_sn, movements, ins, outs)
     cross join origin
     group by 1, 2, 3
$$;
