//! Sums by hour and day, and `movement_rate` over them.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::support::database::Database;
use crate::support::store::{StoreFixture, at, item};

/// Computes the sums of a table by their definition, from all events and stays.
fn by_definition(key: &str, event_key: &str, start: &str, width: &str) -> String {
    let floor = |time: &str| format!("date_bin('{width}', {time}, '2000-01-01 00:00+00')");
    format!(
        "with bucket as (
             select generate_series({}, {}, interval '{width}') as start from centiloc.item_event
         ), seen as (
             select start, tenant, {event_key} as key, uid, 1 as movements, is_in::int as ins,
                    (not is_in)::int as outs, 0 as arrivals, 0 as departures, interval '0' as occupied
               from centiloc.item_event
               join bucket on momentum >= start and momentum < start + interval '{width}'
              union all
             select start, tenant, {key}, uid, 0, 0, 0,
                    (entered_at >= start)::int,
                    (left_at is not null and left_at < start + interval '{width}')::int,
                    least(left_at, start + interval '{width}') - greatest(entered_at, start)
               from centiloc.stay
               join bucket on entered_at < start + interval '{width}'
                          and (left_at is null or left_at >= start)
         )
         select start as {start}, tenant, key as {key}, sum(movements) as movements, sum(ins) as in_events,
                sum(outs) as out_events, sum(arrivals) as arrivals, sum(departures) as departures,
                count(distinct uid) as items, sum(occupied) as occupied
           from seen
          where key is not null
          group by start, tenant, key",
        floor("min(momentum)"),
        floor("now()"),
    )
}

/// Returns the rows of a table that differ from its definition.
async fn differences(db: &Database, table: &str, definition: &str, ended: &str) -> Vec<String> {
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
    let hours_ago = rng.random_range(1..90);
    let ago = time::Duration::seconds(hours_ago * 3600 + rng.random_range(0..3600));
    let mut event = item(&uid, board, time::OffsetDateTime::now_utc() - ago, rng.random_bool(0.6));
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
            fixture.store.compute_stays(1_000).await.unwrap();
            fixture.store.compute_rollups().await.unwrap();
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
    }
    assert!(fixture.db.count("centiloc.board_hour").await > 50);
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
