//! Sums by hour and day, and `movement_rate` over them.

use centiloc_bridge::store::rollups::DueRollups;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::{AssertSqlSafe, Executor as _};

use crate::support::database::Database;
use crate::support::store::{StoreFixture, at, item};

/// Computes the sums of a table by their definition, from all events and stays.
pub(super) fn by_definition(key: &str, event_key: &str, start: &str, width: &str) -> String {
    let floor = |time: &str| format!("date_bin('{width}', {time}, '2000-01-01 00:00+00')");
    format!(
        "with bucket as (
             select generate_series({}, {}, interval '{width}') as start from centiloc.item_event
         ), seen as (
             select start, tenant, {event_key} as key, uid, 1 as movements, is_in::int as ins,
                    (not is_in)::int as outs, 0 as arrivals, 0 as departures, interval '0' as occupied,
                    0 as lasting
               from centiloc.item_event
               join bucket on momentum >= start and momentum < start + interval '{width}'
              union all
             select start, tenant, {key}, uid, 0, 0, 0,
                    (entered_at >= start)::int,
                    (left_at is not null and left_at < start + interval '{width}')::int,
                    least(left_at, start + interval '{width}') - greatest(entered_at, start),
                    (entered_at < start)::int
               from centiloc.stay
               join bucket on entered_at < start + interval '{width}'
                          and (left_at is null or left_at >= start)
         )
         select start as {start}, tenant, key as {key}, sum(movements) as movements, sum(ins) as in_events,
                sum(outs) as out_events, sum(arrivals) as arrivals, sum(departures) as departures,
                count(distinct uid) as items, sum(occupied) as occupied,
                sum(lasting) as items_at_start
           from seen
          where key is not null
          group by start, tenant, key",
        floor("min(momentum)"),
        floor("now()"),
    )
}

/// Returns the rows of a table that differ from its definition.
pub(super) async fn differences(
    db: &Database,
    table: &str,
    definition: &str,
    ended: &str,
) -> Vec<String> {
    let computed = format!("select * from centiloc.{table}");
    let expected = format!("select {} from ({definition}) d where {ended} <= now()", "*");
    let sql = format!(
        "select to_jsonb(x)::text from ((({computed}) except all ({expected}))
                                        union all (({expected}) except all ({computed}))) x"
    );
    db.column(&sql).await
}

fn random_event(rng: &mut StdRng) -> centiloc_bridge::event::ItemEvent {
    let uid = format!("U{}", rng.random_range(0..5));
    let board = ["A", "B", ""][rng.random_range(0..3)];
    let hour = time::OffsetDateTime::now_utc().truncate_to_hour();
    // Often exactly at the start of an hour.
    let second = if rng.random_bool(0.3) { 0 } else { rng.random_range(0..3600) };
    let momentum = hour - time::Duration::seconds(rng.random_range(1..90) * 3600 - second);
    let mut event = item(&uid, board, momentum, rng.random_bool(0.6));
    if board.is_empty() {
        event.board_sn = None;
    }
    event.event_id = uuid::Uuid::from_u128(rng.random());
    event.product_reference = Some(format!("P{}", rng.random_range(0..2)));
    event.loc_reference = rng.random_bool(0.7).then(|| format!("L{}", rng.random_range(0..2)));
    event
}

#[tokio::test]
async fn sums_follow_events_in_any_order() {
    let fixture = StoreFixture::new().await;
    let mut rng = StdRng::seed_from_u64(5);
    for round in 0..6 {
        for _ in 0..4 {
            let events: Vec<_> =
                (0..rng.random_range(1..15)).map(|_| random_event(&mut rng)).collect();
            fixture.items(&events).await;
            assert_rates_match(&fixture.db).await;
            fixture.store.compute_stays(rng.random_range(1..1_000)).await.unwrap();
            let due = if rng.random_bool(0.5) { DueRollups::All } else { DueRollups::Settled };
            fixture.store.compute_rollups(due).await.unwrap();
            assert_rates_match(&fixture.db).await;
        }
        fixture.store.compute_all_stays().await.unwrap();
        fixture.store.compute_all_rollups().await.unwrap();
        for (table, key, event_key, start, width) in [
            ("board_hour", "board_sn", "coalesce(board_sn, '')", "hour", "1 hour"),
            ("location_hour", "loc_reference", "loc_reference", "hour", "1 hour"),
            ("product_day", "product_reference", "product_reference", "day", "24 hours"),
        ] {
            let definition = by_definition(key, event_key, start, width);
            let ended = format!("{start} + interval '{width}'");
            let wrong = differences(&fixture.db, table, &definition, &ended).await;
            assert!(wrong.is_empty(), "round {round}, {table}: {wrong:#?}");
        }
        assert_rates_match(&fixture.db).await;
        for (name, different) in DIFFERENCES_OF_FUNCTIONS {
            let sql = format!("select to_jsonb(d)::text from ({different}) d");
            let wrong: Vec<String> = fixture.db.column(&sql).await;
            assert!(wrong.is_empty(), "round {round}, {name}: {wrong:#?}");
        }
    }
    assert!(fixture.db.count("centiloc.board_hour").await > 50);
    assert!(fixture.db.count("centiloc.dwell_day").await > 10);
}

/// For each question, the rows that differ from its answer by stays alone.
const DIFFERENCES_OF_FUNCTIONS: [(&str, &str); 4] = [
    (
        "occupancy",
        "select *
           from centiloc.occupancy('2 hours', now() - interval '80 hours') o
          cross join lateral (
                select count(*) filter (where entered_at < o.bucket_start) as items,
                       coalesce(sum(extract(epoch from
                           least(left_at, o.bucket_start + interval '2 hours')
                           - greatest(entered_at, o.bucket_start))), 0) / 7200 as mean
                  from centiloc.stay s
                 where s.tenant = o.tenant
                   and s.board_sn = o.board_sn
                   and s.entered_at < o.bucket_start + interval '2 hours'
                   and (s.left_at >= o.bucket_start or s.left_at is null)) s
          where o.bucket_start + interval '2 hours' <= now()
            and (o.items_at_start <> s.items or abs(o.mean_items - s.mean) > 1e-6)",
    ),
    (
        "dwell",
        "select *
           from (values ('board'), ('product'), ('location')) as b (by)
          cross join (values (interval '82 hours 11 minutes', interval '3 hours'),
                             (interval '5 days', interval '-1 day')) as p (since, until)
          cross join lateral (
                select s.stays, d.stays as answer, s.longest, d.p50, d.p90, d.p95, d.max
                  from (select tenant,
                               coalesce(case b.by when 'board' then board_sn
                                                  when 'product' then product_reference
                                                  else loc_reference end, '') as key,
                               count(*) as stays, max(left_at - entered_at) as longest
                          from centiloc.stay
                         where left_at >= now() - p.since
                           and left_at < now() - p.until
                         group by 1, 2) s
                  full join (
                       select tenant, coalesce(key, '') as key, stays, p50, p90, p95, max
                         from centiloc.dwell(now() - p.since, now() - p.until, b.by)) d
                       using (tenant, key)
                 where b.by <> 'board' or key <> '') s
          where s.answer is distinct from s.stays
             or abs(extract(epoch from s.max - s.longest)) > 1e-3
             or s.p50 > s.p90
             or s.p90 > s.p95
             or extract(epoch from s.p95 - s.max) > 1e-3",
    ),
    (
        "dwell_day",
        "select *
           from centiloc.dwell_day d
          cross join lateral (
                select count(*) as ended, max(left_at - entered_at) as longest,
                       sum(left_at - entered_at) as total
                  from centiloc.stay s
                 where s.tenant = d.tenant
                   and d.key = coalesce(case d.by when 'board' then s.board_sn
                                                  when 'product' then s.product_reference
                                                  else s.loc_reference end, '')
                   and s.left_at >= d.day
                   and s.left_at < d.day + interval '1 day') s
          where d.stays <> s.ended
             or abs(extract(epoch from d.longest - s.longest)) > 1e-3
             or abs(extract(epoch from d.total - s.total)) > 1e-3
             or d.stays <> (select sum(n) from unnest(d.counts) as n)
             or cardinality(d.buckets) <> cardinality(d.counts)",
    ),
    (
        "week_against_week",
        "select *
           from centiloc.week_against_week(3) w
          cross join lateral (
                select count(*) filter (where entered_at >= w.week_start
                                          and entered_at < w.week_start + interval '7 days') as arrivals,
                       count(*) filter (where left_at >= w.week_start
                                          and left_at < w.week_start + interval '7 days') as departures
                  from centiloc.stay s
                 where s.tenant = w.tenant
                   and s.board_sn = w.board_sn) s
          where w.arrivals <> s.arrivals
             or w.departures <> s.departures",
    ),
];

#[tokio::test]
async fn quiet_hours_have_sums() {
    let fixture = StoreFixture::new().await;
    let ago = |hours| time::OffsetDateTime::now_utc() - time::Duration::hours(hours);
    fixture.items(&[item("U", "A", ago(9), true)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
    let sums = "select jsonb_agg(h order by hour)::text from centiloc.board_hour h";
    let before: String = fixture.db.value(sums).await;
    // As if the bridge had last computed before these hours, which saw no event.
    for statement in [
        "delete from centiloc.board_hour where hour >= now() - interval '5 hours'",
        "delete from centiloc.rollup_pending",
        "update centiloc.rollup_floor
            set marked = date_bin('1 hour', now() - interval '5 hours', '2000-01-01 00:00+00')",
    ] {
        fixture.db.execute(statement).await;
    }
    fixture.store.compute_all_rollups().await.unwrap();
    assert_eq!(fixture.db.value::<String>(sums).await, before);
}

/// Percentiles of a long period come from histograms.
#[tokio::test]
async fn percentiles_of_histograms_are_close() {
    let fixture = StoreFixture::new().await;
    let mut rng = StdRng::seed_from_u64(11);
    let mut events = Vec::new();
    for visit in 0..600 {
        let uid = format!("U{visit}");
        let entered =
            time::OffsetDateTime::now_utc() - time::Duration::hours(rng.random_range(50..200));
        let seconds = 10f64.powf(rng.random_range(0.5..4.5));
        let stay = time::Duration::seconds_f64(seconds);
        events.push(item(&uid, "A", entered, true));
        events.push(item(&uid, "A", entered + stay, false));
    }
    fixture.items(&events).await;
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
    let errors = "select max(abs(extract(epoch from h) / e - 1))::float8
                    from centiloc.dwell(now() - interval '12 days') d
                   cross join (select percentile_cont(array[0.5, 0.9, 0.95]) within group (
                                          order by extract(epoch from duration)) as exact
                                 from centiloc.item_stay) s
                   cross join lateral unnest(array[d.p50, d.p90, d.p95], s.exact) as x (h, e)";
    let error: f64 = fixture.db.value(errors).await;
    assert!(error < 0.1, "{error}");
}

/// Compares `movement_rate` with counts of all events, for ranges that begin and end anywhere.
async fn assert_rates_match(db: &Database) {
    for (bucket, since, until) in [
        ("1 hour", "-infinity", "infinity"),
        (
            "1 hour",
            "now() - interval '50 hours 10 minutes'",
            "now() - interval '3 hours 7 minutes'",
        ),
        ("1 hour", "now() - interval '61 minutes'", "now() - interval '59 minutes'"),
        ("6 hours", "now() - interval '3 days'", "now()"),
        ("1 day", "-infinity", "now() - interval '1 day'"),
        ("15 minutes", "now() - interval '20 hours'", "now()"),
        ("90 minutes", "now() - interval '20 hours'", "infinity"),
    ] {
        let time = |text: &str| match text.strip_prefix("now()") {
            Some(_) => text.to_owned(),
            None => format!("timestamptz '{text}'"),
        };
        let (since, until) = (time(since), time(until));
        let rate = format!("centiloc.movement_rate('{bucket}', {since}, {until})");
        let counted = format!(
            "select date_bin('{bucket}', momentum, '2000-01-01 00:00+00'), tenant, board_sn, count(*),
                    count(*) filter (where is_in), count(*) filter (where not is_in)
               from centiloc.item_event where momentum >= {since} and momentum < {until}
              group by 1, 2, 3"
        );
        let different = format!(
            "((select * from {rate} except all {counted}) union all
              ({counted} except all select * from {rate})) d"
        );
        assert_eq!(db.count(&different).await, 0, "{rate}");
    }
}

#[tokio::test]
async fn sums_outlive_their_events() {
    let fixture = StoreFixture::new().await;
    let day = |number: i64| at(number * 86_400 + 1_800);
    fixture
        .items(&[
            item("U", "A", day(0), true),
            item("U", "A", day(1), false),
            item("V", "A", day(9), true),
        ])
        .await;
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
    let kept = "select jsonb_agg(b order by hour)::text from centiloc.board_hour b
                 where hour < '2025-03-12'";
    let before: String = fixture.db.value(kept).await;
    assert_eq!(
        fixture.db.count("(select from centiloc.board_hour where hour < '2025-03-12') h").await,
        25
    );
    // Keeps three days as of the eighth.
    let kept_for = Some(std::time::Duration::from_secs(3 * 86_400));
    fixture.store.delete_expired(kept_for, at(8 * 86_400)).await.unwrap();
    fixture.db.execute("delete from centiloc.item_event where momentum < '2025-03-12'").await;
    // A late event of a day that is final changes nothing.
    fixture.items(&[item("W", "A", day(0), true)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
    assert_eq!(fixture.db.value::<String>(kept).await, before);
    let moved = "select sum(movements)::bigint from centiloc.movement_rate('1 hour')
                  where bucket_start < '2025-03-12'";
    assert_eq!(fixture.db.value::<i64>(moved).await, 2);
}

#[tokio::test]
async fn days_have_24_hours_in_every_zone() {
    const ROWS: &str = "centiloc.occupancy('1 day', now() - interval '390 days')";
    let fixture = StoreFixture::new().await;
    let ago = |days| time::OffsetDateTime::now_utc() - time::Duration::days(days);
    fixture.items(&[item("U", "A", ago(400), true), item("U", "A", ago(3), false)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    for is_computed in [false, true] {
        if is_computed {
            fixture.store.compute_all_rollups().await.unwrap();
        }
        let expected = fixture.db.count(ROWS).await;
        let mut session = fixture.db.connect().await.unwrap();
        session.execute("set timezone = 'Europe/Paris'").await.unwrap();
        let starts = format!(
            "select count(*), count(*) filter (where date_part('epoch', bucket_start)::bigint % 86400 <> 0)
               from {ROWS}"
        );
        let found: (i64, i64) =
            sqlx::query_as(AssertSqlSafe(starts)).fetch_one(&mut session).await.unwrap();
        assert_eq!(found, (expected, 0), "computed: {is_computed}");
    }
}

/// Hours whose events are deleted are answered from their sums.
#[tokio::test]
async fn waiting_old_event_hides_no_sums() {
    let fixture = StoreFixture::new().await;
    let ago = |hours| time::OffsetDateTime::now_utc() - time::Duration::hours(hours);
    fixture.items(&[item("U", "A", ago(30), true)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
    let keep = "delete from centiloc.item_event;
                update centiloc.rollup_floor set kept = now() - interval '10 hours'";
    fixture.db.execute(keep).await;
    fixture.items(&[item("V", "B", ago(40), true)]).await;
    let moved = "select sum(movements)::bigint from centiloc.movement_rate('1 hour')
                  where board_sn = 'A'";
    assert_eq!(fixture.db.value::<i64>(moved).await, 1);
}
