//! Changes of partitions while readers and writers are active. The stream goes on despite any lock,
//! and however many rows the default partition holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use centiloc_bridge::config::{self, PartitionSpan};
use centiloc_bridge::event::EventKind;
use centiloc_bridge::store::Store;
use centiloc_bridge::store::dead_letters::DeadLetterFilter;
use centiloc_bridge::store::maintenance::UpkeepOutcome;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::support::postgres::{Database, Postgres};
use crate::support::store::{
    StoreFixture, arrives, at, board, config, malformed, of_board, of_item,
};
use crate::support::wait::{SOON, until, until_eq};

const DAY: Duration = Duration::from_secs(86_400);

/// The lock that every creator of partitions takes.
const MAKER: &str = "select pg_advisory_xact_lock(7161677110969590388)";

/// Inserts rows into the default partition, spread over March 2025, as after a time without new
/// partitions.
async fn fill_default(db: &Database, rows: u32) {
    let sql = format!(
        "insert into centiloc.item_event_default
             (momentum, event_id, received_at, tenant, uid, is_in, payload)
         select '2025-03-01'::timestamptz + n * (interval '31 days' / {rows}), gen_random_uuid(),
                now(), 'T', 'U' || n, true, '\\x00112233445566778899aabbccddeeff'
           from generate_series(0, {rows} - 1) n"
    );
    db.execute(&sql).await;
}

async fn hold(db: &Database, sql: &'static str) -> PgConnection {
    let mut holder = db.connect().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("begin; {sql}"))).execute(&mut holder).await.unwrap();
    holder
}

async fn let_go(mut holder: PgConnection) {
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
}

/// Opens a store with this statement timeout.
fn hasty_store(fixture: &StoreFixture, statement_timeout: Duration) -> Store {
    let config = config::DatabaseConfig { statement_timeout, ..config(&fixture.db.socket_url()) };
    Store::new(&config, PartitionSpan::Month).unwrap()
}

/// Runs maintenance until nothing is left to move.
async fn move_all(store: &Store, now: OffsetDateTime) {
    until("maintenance to end", SOON * 2, || async {
        match store.make_partitions_ahead(now).await {
            Ok(UpkeepOutcome::Done) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

async fn in_transaction(db: &Database) -> i64 {
    db.count(
        "pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
    )
    .await
}

#[tokio::test]
async fn full_default_partition_is_emptied_in_steps() {
    const ROWS: u32 = 30_000;
    let fixture = StoreFixture::new().await;
    fill_default(&fixture.db, ROWS).await;
    let store = hasty_store(&fixture, Duration::from_secs(2));
    // The writer leaves them where they are.
    let outcome = store.commit(&[of_item(arrives("first", "A", 1))]).await.unwrap();
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (1, 1));
    let done = AtomicBool::new(false);
    let moving = async {
        move_all(&store, at(0)).await;
        done.store(true, Ordering::Relaxed);
    };
    let watching = async {
        let mut stored = i64::from(ROWS) + 1;
        let mut seconds = 2;
        while !done.load(Ordering::Relaxed) {
            // Each row is there once at every moment, and a redelivery is recognised wherever its
            // row is.
            assert_eq!(fixture.db.count("centiloc.item_event").await, stored);
            let batch = [of_item(arrives("U", "A", seconds)), of_item(arrives("first", "A", 1))];
            let outcome = fixture.store.commit(&batch).await.unwrap();
            assert_eq!(
                (outcome.of(EventKind::Item).inserted, outcome.of(EventKind::Item).duplicates),
                (1, 1)
            );
            (stored, seconds) = (stored + 1, seconds + 1);
        }
        stored
    };
    let ((), stored) = tokio::join!(moving, watching);
    assert_eq!(fixture.db.count("centiloc.item_event_default").await, 0);
    assert_eq!(fixture.db.count("centiloc.item_event_y2025m03").await, stored);
    let outcome = store.commit(&[of_item(arrives("last", "A", 0))]).await.unwrap();
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (1, 0));
}

#[tokio::test]
async fn rows_of_one_momentum_move_together() {
    let fixture = StoreFixture::new().await;
    fixture
        .db
        .execute(
            "insert into centiloc.item_event_default
                 (momentum, event_id, received_at, tenant, uid, is_in)
             select '2025-03-10'::timestamptz + (n / 6000) * interval '1 us', gen_random_uuid(),
                    now(), 'T', 'U', true
               from generate_series(0, 13000) n",
        )
        .await;
    move_all(&fixture.store, at(0)).await;
    assert_eq!(fixture.db.count("centiloc.item_event_default").await, 0);
    assert_eq!(fixture.db.count("centiloc.item_event_y2025m03").await, 13_001);
}

#[tokio::test]
async fn slow_partition_creation_is_deferred() {
    let fixture = StoreFixture::new().await;
    let store = hasty_store(&fixture, Duration::from_millis(1500));
    store.commit(&[of_item(arrives("U", "A", 1))]).await.unwrap();
    // The statements that create a partition exceed their time limit: 57014.
    fixture
        .db
        .execute(
            "create function public.slow() returns event_trigger language plpgsql
                 as $$ begin perform pg_sleep(5); end $$;
             create event trigger slow on ddl_command_start when tag in ('CREATE TABLE')
                 execute function public.slow()",
        )
        .await;
    for n in 0..3 {
        let mut event = arrives(&format!("V{n}"), "A", 1);
        event.momentum = datetime!(2025-05-01 0:00 UTC) + time::Duration::seconds(n);
        let batch = [of_item(event), of_board(board("A", n, "CONNECTED")), malformed(b"x")];
        let outcome = store.commit(&batch).await.unwrap();
        assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (1, 1));
        assert_eq!(in_transaction(&fixture.db).await, 0);
    }
    fixture.db.execute("drop event trigger slow").await;
    move_all(&store, at(0)).await;
    assert_eq!(fixture.db.count("centiloc.item_event_y2025m05").await, 3);
}

#[tokio::test]
async fn deferred_range_costs_no_further_statement() {
    let postgres = Postgres::own_with(&["log_statement = all"]).await;
    let db = postgres.database().await;
    let store = Store::new(&config(&db.socket_url()), PartitionSpan::Month).unwrap();
    store.migrate().await.unwrap();
    fill_default(&db, 10).await;
    let commit = async |n: i64| {
        let outcome = store.commit(&[of_item(arrives("U", "A", n))]).await.unwrap();
        assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (1, 1));
    };
    let of_bridge = format!("bridge@{} LOG:", db.name());
    let statements = || postgres.log().count(&of_bridge);
    commit(1).await;
    commit(2).await;
    db.execute("select 'first mark'").await;
    until_eq("the mark", SOON, 1, || async { postgres.log().count("first mark") }).await;
    let before = statements();
    for n in 3..8 {
        commit(n).await;
    }
    db.execute("select 'second mark'").await;
    until_eq("the mark", SOON, 1, || async { postgres.log().count("second mark") }).await;
    assert_eq!(statements() - before, 5, "one for each batch\n{}", postgres.log().tail());
}

#[tokio::test]
async fn concurrent_partition_creation_delays_no_batch() {
    let fixture = StoreFixture::new().await;
    let maker = hold(&fixture.db, MAKER).await;
    let batch: Vec<_> = (0..12).map(|n| of_item(arrives("U", "A", n * 31 * 86_400))).collect();
    let outcome = fixture.commit(&batch).await;
    assert_eq!(outcome.default_partition_rows, 12);
    assert_eq!(in_transaction(&fixture.db).await, 1, "the maker's own");
    let_go(maker).await;
    move_all(&fixture.store, datetime!(2026-06-01 0:00 UTC)).await;
    assert_eq!(fixture.db.count("centiloc.item_event_default").await, 0);
}

#[tokio::test]
async fn abandoned_transaction_ends_with_its_connection() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"x")]).await;
    fixture.items(&[arrives("U", "A", 0)]).await;
    let id = fixture.store.dead_letter_ids(&DeadLetterFilter::default()).await.unwrap()[0];
    let holder = hold(&fixture.db, "select from centiloc.dead_letter for update").await;
    let event = centiloc_bridge::event::Event::Item(arrives("U", "A", 1));
    let replay = fixture.store.replay(id, |_, _, _| Ok(event));
    assert!(tokio::time::timeout(Duration::from_millis(300), replay).await.is_err());
    let_go(holder).await;
    until_eq("no open transaction", SOON, 0, || in_transaction(&fixture.db)).await;
    assert_eq!(fixture.store.dead_letter_ids(&DeadLetterFilter::default()).await.unwrap(), [id]);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 1);
}

#[tokio::test]
async fn long_reader_delays_no_commit() {
    let fixture = StoreFixture::new().await;
    let old = (0..3).map(|n| arrives("U", "A", n * 31 * 86_400));
    fixture.items(&old.collect::<Vec<_>>()).await;
    fixture.commit(&[malformed(b"x")]).await;
    fixture.db.execute("update centiloc.dead_letter set replayed_at = '2020-01-01'").await;
    let reader = hold(&fixture.db, "select count(*) from centiloc.item_event").await;
    let now = OffsetDateTime::now_utc();
    let done = AtomicBool::new(false);
    let maintenance = async {
        let deleted = fixture.store.delete_expired(Some(DAY), now).await.unwrap();
        assert!(deleted.overdue.is_some_and(|overdue| overdue > DAY), "{deleted:?}");
        assert_eq!((deleted.partitions, deleted.problems.len()), (0, 3), "{deleted:?}");
        assert_eq!(deleted.dead_letters, 1, "the other steps are taken");
        fixture.store.make_partitions_ahead(now).await.unwrap_err();
        done.store(true, Ordering::Relaxed);
    };
    let stream = async {
        let (mut commits, mut worst) = (0, Duration::ZERO);
        while !done.load(Ordering::Relaxed) {
            let started = Instant::now();
            let mut event = arrives(&format!("V{commits}"), "A", commits);
            event.momentum = now;
            assert_eq!(fixture.items(&[event]).await.of(EventKind::Item).inserted, 1);
            (commits, worst) = (commits + 1, worst.max(started.elapsed()));
        }
        (commits, worst)
    };
    let ((), (commits, worst)) = tokio::join!(maintenance, stream);
    println!("{commits} commits while a reader held on, the slowest in {worst:?}");
    assert!(worst < Duration::from_secs(2), "a commit waited {worst:?} for a reader");
    let_go(reader).await;
    let deleted = fixture.store.delete_expired(Some(DAY), now).await.unwrap();
    assert_eq!((deleted.partitions, deleted.overdue), (3, Some(Duration::ZERO)), "{deleted:?}");
}
