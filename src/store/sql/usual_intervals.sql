-- Learns how long boards are usually silent, for at most $1 boards, those first that were not learned for
-- longest. Returns the number of boards.
--
-- The longest interval between two arrivals is taken for each day, and of these the one that nine of
-- ten days do not exceed. So nights and weekends are usual, and a rare outage is not.
with due as (
    select b.tenant, b.board_sn
      from centiloc.board_activity b
      left join centiloc.board_usual_interval u using (tenant, board_sn)
     where b.board_sn <> ''
       and (u.learned_at is null or u.learned_at < now() - interval '1 hour')
     order by u.learned_at nulls first, b.tenant, b.board_sn
     limit $1
), learned as (
    insert into centiloc.board_usual_interval as u (tenant, board_sn, usual_interval, learned_at)
    select due.tenant, due.board_sn,
           case when usual.days >= 3 then greatest(usual.longest, interval '15 minutes') end, now()
      from due
     cross join lateral (
           select percentile_disc(0.9) within group (order by longest) as longest, count(*) as days
             from (select max(silent_for) as longest
                     from (select entered_at,
                                  entered_at - lag(entered_at) over (order by entered_at)
                                      as silent_for
                             from centiloc.stays_since(
                                      due.tenant, due.board_sn, now() - interval '30 days')
                            where entered_at >= now() - interval '30 days'
                              and entered_at <= now()) arrival
                    where silent_for is not null
                    group by date_bin('1 day', entered_at, now())) day) usual
     order by due.tenant, due.board_sn
    on conflict (tenant, board_sn) do update set
        usual_interval = coalesce(excluded.usual_interval, u.usual_interval),
        learned_at = excluded.learned_at
    returning 1
)
select count(*) from learned
