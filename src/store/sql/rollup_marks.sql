-- Marks the hours and days that have begun since the last time as to be computed.
with begun as materialized (
    select date_bin('1 hour', now(), timestamptz '2000-01-01 00:00+00') as hour
), unmarked as materialized (
    select case when isfinite(marked) then greatest(marked, kept) end as since
      from centiloc.rollup_floor, begun
     where marked < begun.hour
), moved as (
    update centiloc.rollup_floor
       set marked = begun.hour
      from begun
     where marked < begun.hour
)
insert into centiloc.rollup_pending (width, start)
select w.width, start
  from unmarked
 cross join (values (interval '1 hour'), (interval '1 day')) as w (width)
 cross join lateral generate_series(
           date_bin(w.width, unmarked.since, timestamptz '2000-01-01 00:00+00'), now(),
           make_interval(secs => extract(epoch from w.width))) as start
    on conflict (width, start) do nothing
