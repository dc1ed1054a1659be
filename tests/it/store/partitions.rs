//! Partitions: created when needed, found again after someone dropped them, filled from the default
//! one, dropped by retention.

use std::time::Duration;

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::event::EventKind;
use centiloc_bridge::store::Store;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::support::postgres::Database;
use crate::support::store::{StoreFixture, arrives, at, board, item, of_board, of_item};
use crate::support::wait::all;

const SIXTY_DAYS: Duration = Duration::from_secs(60 * 86_400);

async fn partitions(db: &Database) -> Vec<String> {
    db.column(
        "select inhrelid::regclass::text from pg_inherits
          where inhparent = 'centiloc.item_event'::regclass order by 1",
    )
    .await
}

async fn default_rows(db: &Database) -> i64 {
    db.count("centiloc.item_event_default").await
}

#[tokio::test]
async fn missing_partitions_are_created_before_writing() {
    let fixture = StoreFixture::new().await;
    let events = [
        item("U", "A", datetime!(2024-12-31 23:59:59.999999 UTC), true),
        item("U", "A", datetime!(2025-01-01 00:00 UTC), true),
        item("U", "A", datetime!(2015-01-01 00:00 UTC), true),
    ];
    let outcome = fixture.items(&events).await;
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (3, 0));
    assert_eq!(
        partitions(&fixture.db).await,
        [
            "centiloc.item_event_default",
            "centiloc.item_event_y2015m01",
            "centiloc.item_event_y2024m12",
            "centiloc.item_event_y2025m01"
        ]
    );
}

#[tokio::test]
async fn only_implausible_momenta_use_default_partition() {
    let fixture = StoreFixture::new().await;
    let now = OffsetDateTime::now_utc();
    let events = [
        item("U", "A", datetime!(2014-12-31 23:59:59 UTC), true),
        item("U", "A", now + time::Duration::days(400), true),
        item("U", "A", now + time::Duration::hours(20), true),
    ];
    let outcome = fixture.items(&events).await;
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (3, 2));
    assert_eq!(default_rows(&fixture.db).await, 2);
}

#[tokio::test]
async fn dropped_partition_is_recreated_with_its_rows() {
    let fixture = StoreFixture::with_span(PartitionSpan::Day).await;
    fixture.items(&[arrives("U", "A", 1)]).await;
    fixture.db.execute("drop table centiloc.item_event_y2025m03d10").await;
    // The first batch after it goes to the default partition, which shows the loss.
    assert_eq!(fixture.items(&[arrives("U", "A", 2)]).await.default_partition_rows, 1);
    // The writer moves no rows, and creates no partition whose rows are in the default one.
    assert_eq!(fixture.items(&[arrives("U", "A", 3)]).await.default_partition_rows, 1);
    fixture.store.make_partitions_ahead(OffsetDateTime::now_utc()).await.unwrap();
    assert_eq!(fixture.items(&[arrives("U", "A", 4)]).await.default_partition_rows, 0);
    assert_eq!(default_rows(&fixture.db).await, 0);
    assert_eq!(fixture.db.count("centiloc.item_event_y2025m03d10").await, 3);
    // A redelivery of the row that moved is still a duplicate.
    assert_eq!(fixture.items(&[arrives("U", "A", 2)]).await.of(EventKind::Item).duplicates, 1);
}

#[tokio::test]
async fn missing_partition_without_default_rejects_no_row() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 1)]).await;
    fixture
        .db
        .execute("drop table centiloc.item_event_y2025m03, centiloc.item_event_default")
        .await;
    let old = item("U", "A", datetime!(1999-01-01 00:00 UTC), true);
    let outcome = fixture.items(&[arrives("U", "A", 2), old]).await;
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (2, 1));
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 0);
    assert_eq!(fixture.db.count("centiloc.item_event_y2025m03").await, 1);
}

#[tokio::test]
async fn maintenance_creates_partitions_and_moves_misplaced_rows() {
    let fixture = StoreFixture::new().await;
    // As if written while partitions could not be created.
    fixture
        .db
        .execute(
            "insert into centiloc.item_event_default (momentum, event_id, received_at, tenant, uid, is_in)
             select t, gen_random_uuid(), t, 'T', 'U', true
               from unnest(array['2025-02-03', '2025-02-04', '2025-05-06', '1990-01-01']::timestamptz[]) t",
        )
        .await;
    let now = datetime!(2025-06-15 12:00 UTC);
    fixture.store.make_partitions_ahead(now).await.unwrap();
    let names = partitions(&fixture.db).await;
    for month in ["2025m02", "2025m05", "2025m06", "2025m07", "2025m08"] {
        let name = format!("centiloc.item_event_y{month}");
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert_eq!(names.len(), 6);
    assert_eq!(default_rows(&fixture.db).await, 1);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 4);
}

#[tokio::test]
async fn daily_partitions_complete_a_partial_month() {
    let fixture = StoreFixture::with_span(PartitionSpan::Day).await;
    fixture.items(&[arrives("U", "A", 1)]).await;
    let monthly = fixture.another_store(PartitionSpan::Month);
    let events = [
        of_item(item("U", "A", datetime!(2025-03-11 01:00 UTC), true)),
        of_item(item("U", "A", datetime!(2025-04-11 01:00 UTC), true)),
    ];
    assert_eq!(monthly.commit(&events).await.unwrap().default_partition_rows, 0);
    assert_eq!(
        partitions(&fixture.db).await,
        [
            "centiloc.item_event_default",
            "centiloc.item_event_y2025m03d10",
            "centiloc.item_event_y2025m03d11",
            "centiloc.item_event_y2025m04"
        ]
    );
}

#[tokio::test]
async fn concurrent_partition_creation_does_not_collide() {
    let fixture = StoreFixture::with_span(PartitionSpan::Day).await;
    let stores: Vec<Store> = (0..4).map(|_| fixture.another_store(PartitionSpan::Day)).collect();
    let writes = stores.iter().enumerate().map(|(n, store)| async move {
        let batch: Vec<_> =
            (0..10).map(|day| of_item(arrives(&format!("U{n}"), "A", day * 86_400))).collect();
        store.commit(&batch).await
    });
    let inserted: u64 =
        all(writes).await.into_iter().map(|o| o.unwrap().of(EventKind::Item).inserted).sum();
    assert_eq!(inserted, 40);
    // One that waited too long for another left its rows to maintenance.
    fixture.store.make_partitions_ahead(at(10 * 86_400)).await.unwrap();
    assert_eq!(default_rows(&fixture.db).await, 0);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 40);
    let names = partitions(&fixture.db).await;
    let march = |day: u32| format!("centiloc.item_event_y2025m03d{day}");
    assert!((10..=22).all(|day| names.contains(&march(day))) && names.len() == 14, "{names:?}");
}

#[tokio::test]
async fn role_without_create_stores_every_event() {
    let fixture = StoreFixture::new().await;
    fixture.store.make_partitions_ahead(OffsetDateTime::now_utc()).await.unwrap();
    fixture
        .db
        .execute(
            "alter table centiloc.item_event owner to postgres;
             grant select, insert, update, delete on all tables in schema centiloc to bridge",
        )
        .await;
    let outcome = fixture.items(&[arrives("U", "A", 1)]).await;
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (1, 1));
    let now = item("U", "A", OffsetDateTime::now_utc(), true);
    assert_eq!(fixture.items(&[now]).await.default_partition_rows, 0);
}

#[tokio::test]
async fn reader_of_default_partition_blocks_no_commit() {
    let fixture = StoreFixture::new().await;
    let mut reader = fixture.db.connect().await.unwrap();
    sqlx::raw_sql("begin; lock table centiloc.item_event_default in access share mode")
        .execute(&mut reader)
        .await
        .unwrap();
    let outcome = fixture.items(&[arrives("U", "A", 1)]).await;
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (1, 1));
    sqlx::raw_sql("rollback").execute(&mut reader).await.unwrap();
}

#[tokio::test]
async fn retention_drops_only_expired_partitions() {
    let fixture = StoreFixture::with_span(PartitionSpan::Month).await;
    let now = datetime!(2025-06-15 12:00 UTC);
    let events = [
        item("U", "A", datetime!(2025-03-31 23:00 UTC), true),
        item("U", "A", datetime!(2025-04-20 00:00 UTC), true),
        item("U", "A", datetime!(2001-01-01 00:00 UTC), false),
    ];
    fixture.items(&events).await;
    fixture.commit(&[of_board(board("A", 1, "CONNECTED"))]).await;
    // A stray momentum is kept for as long as a true one.
    let mut stray = item("V", "A", datetime!(2002-01-01 00:00 UTC), false);
    stray.received_at = now - time::Duration::days(1);
    fixture.items(&[stray]).await;
    let deleted = fixture.store.delete_expired(Some(SIXTY_DAYS), now).await;
    let deleted = deleted.unwrap();
    assert_eq!((deleted.partitions, deleted.events), (1, 2));
    let left: Vec<String> =
        fixture.db.column("select momentum::date::text from centiloc.item_event order by 1").await;
    assert_eq!(left, ["2002-01-01", "2025-04-20"]);
    // A dropped partition is created again when needed. Its rows do not go to the default
    // partition.
    assert_eq!(fixture.items(&[arrives("W", "A", 5)]).await.default_partition_rows, 0);
    let kept = fixture.store.delete_expired(None, now).await.unwrap();
    assert_eq!((kept.partitions, kept.events), (0, 0));
}
