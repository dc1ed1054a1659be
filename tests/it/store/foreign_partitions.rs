//! Partitions that were created, detached or given other bounds by hand, and settings of the
//! server, the database and the role. The store's list of partitions does not depend on them.

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::event::EventKind;
use centiloc_bridge::store::Store;
use centiloc_bridge::stream::connection_event::ConnectionEvent;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::support::postgres::Database;
use crate::support::store::{EXPIRY, Process, StoreFixture, arrives, at, config, item, of_item};

async fn partitions(db: &Database) -> Vec<String> {
    db.column(
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
          where i.inhparent = 'centiloc.item_event'::regclass order by 1",
    )
    .await
}

async fn make(db: &Database, name: &str, from: &str, to: &str) {
    let sql = format!(
        "create table centiloc.{name} partition of centiloc.item_event
            for values from ({from}) to ({to});
         alter table centiloc.{name} owner to bridge"
    );
    db.execute(&sql).await;
}

#[tokio::test]
async fn bounds_beyond_calendar_are_listed() {
    let bounds = [
        ("MINVALUE", "'1990-01-01'"),
        ("'-infinity'", "'1990-01-01'"),
        ("'4713-01-01 BC'", "'4000-01-01 BC'"),
        ("'2040-01-01'", "'infinity'"),
        ("'2040-01-01'", "MAXVALUE"),
        ("'20000-01-01'", "'290000-01-01'"),
        ("'infinity'", "MAXVALUE"),
    ];
    for (from, to) in bounds {
        let fixture = StoreFixture::new().await;
        make(&fixture.db, "by_hand", from, to).await;
        let outcome = fixture.items(&[arrives("U", "A", 1)]).await;
        assert_eq!(
            (outcome.of(EventKind::Item).inserted, outcome.default_partition_rows),
            (1, 0),
            "{from} {to}"
        );
        fixture.store.make_partitions_ahead(datetime!(2025-03-20 0:00 UTC)).await.unwrap();
        assert_eq!(partitions(&fixture.db).await.len(), 5, "{from} {to}");
        let year = std::time::Duration::from_secs(365 * 86_400);
        let deleted =
            fixture.store.delete_expired(Some(year), datetime!(2025-06-01 0:00 UTC)).await;
        assert!(deleted.unwrap().problems.is_empty(), "{from} {to}");
    }
}

#[tokio::test]
async fn manually_created_partition_receives_its_events() {
    let fixture = StoreFixture::new().await;
    make(&fixture.db, "by_hand", "'2020-01-01'", "MAXVALUE").await;
    let outcome = fixture.items(&[arrives("U", "A", 1)]).await;
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (1, 0));
    fixture.store.make_partitions_ahead(OffsetDateTime::now_utc()).await.unwrap();
    assert_eq!(partitions(&fixture.db).await, ["by_hand", "item_event_default"]);
}

#[tokio::test]
async fn remaining_range_of_a_day_is_created() {
    let fixture = StoreFixture::new().await;
    make(&fixture.db, "by_hand", "'2025-03-10 06:00+00'", "'2025-03-10 18:30+00'").await;
    make(&fixture.db, "second", "'2025-03-10 20:00+00'", "'2025-05-01'").await;
    let events = [arrives("U", "A", 1), arrives("U", "A", 68_400), arrives("U", "A", 43_200)];
    let outcome = fixture.items(&events).await;
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (3, 0));
    let names = partitions(&fixture.db).await;
    for name in ["item_event_y2025m03d10", "item_event_y2025m03d10_2"] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
}

#[tokio::test]
async fn detached_partition_is_recreated() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 1)]).await;
    let detach = "alter table centiloc.item_event detach partition centiloc.item_event_y2025m03";
    fixture.db.execute(detach).await;
    fixture.items(&[arrives("U", "A", 2)]).await;
    fixture.store.make_partitions_ahead(at(0)).await.unwrap();
    assert_eq!(fixture.db.count("centiloc.item_event_y2025m03_2").await, 1);
    assert_eq!(fixture.db.count("centiloc.item_event_y2025m03").await, 1);
    assert_eq!(fixture.items(&[arrives("U", "A", 3)]).await.default_partition_rows, 0);
}

#[tokio::test]
async fn default_partition_of_other_name_is_used() {
    let fixture = StoreFixture::new().await;
    fixture
        .db
        .execute(
            "alter table centiloc.item_event detach partition centiloc.item_event_default;
             create table centiloc.\"Rest of it\" (like centiloc.item_event including all);
             alter table centiloc.\"Rest of it\" owner to bridge;
             alter table centiloc.item_event attach partition centiloc.\"Rest of it\" default",
        )
        .await;
    let old = item("U", "A", datetime!(1999-01-01 0:00 UTC), false);
    assert_eq!(fixture.items(&[old]).await.default_partition_rows, 1);
    fixture.store.make_partitions_ahead(at(0)).await.unwrap();
    let kept = std::time::Duration::from_secs(86_400);
    let deleted = fixture.store.delete_expired(Some(kept), at(0)).await.unwrap();
    assert_eq!((deleted.events, deleted.problems.len()), (1, 0));
}

#[tokio::test]
async fn detached_default_partition_is_recreated() {
    let fixture = StoreFixture::new().await;
    let detach = "alter table centiloc.item_event detach partition centiloc.item_event_default";
    fixture.db.execute(detach).await;
    let old = item("U", "A", datetime!(1999-01-01 0:00 UTC), false);
    let outcome = fixture.items(&[old, arrives("U", "A", 1)]).await;
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (2, 1));
    assert_eq!(fixture.db.count("centiloc.item_event_default_2").await, 1);
}

#[tokio::test]
async fn session_settings_do_not_change_listing() {
    let fixture = StoreFixture::new().await;
    for setting in [
        "standard_conforming_strings = off",
        "escape_string_warning = off",
        "quote_all_identifiers = on",
        "datestyle = 'SQL, DMY'",
        "timezone = 'Asia/Kolkata'",
        "intervalstyle = 'sql_standard'",
        "transform_null_equals = on",
        "extra_float_digits = -15",
    ] {
        for of in ["database", "role bridge in database"] {
            fixture.db.execute(&format!("alter {of} {} set {setting}", fixture.db.name())).await;
        }
    }
    fixture.items(&[arrives("U", "A", 1)]).await;
    let store: Store = fixture.another_store(PartitionSpan::Month);
    let outcome = store.commit(&[of_item(arrives("U", "A", 2))]).await.unwrap();
    assert_eq!((outcome.of(EventKind::Item).inserted, outcome.default_partition_rows), (1, 0));
    store.make_partitions_ahead(at(0)).await.unwrap();
    let expected =
        ["item_event_default", "item_event_y2025m03", "item_event_y2025m04", "item_event_y2025m05"];
    assert_eq!(partitions(&fixture.db).await, expected);
    let kept = std::time::Duration::from_secs(86_400);
    let now = datetime!(2025-05-02 0:00 UTC);
    assert_eq!(store.delete_expired(Some(kept), now).await.unwrap().partitions, 2);
}

#[tokio::test]
async fn times_beyond_calendar_stop_no_connection() {
    let fixture = StoreFixture::new().await;
    fixture.db.execute("update centiloc._sqlx_migrations set installed_on = 'infinity'").await;
    let store = Store::new(&config(&fixture.db.socket_url()), PartitionSpan::Month).unwrap();
    store.prepare_schema(false).await.unwrap();
    for (id, seen) in [(1, "infinity"), (2, "-infinity"), (3, "200000-01-01")] {
        let opened = ConnectionEvent::Opened {
            connection: Process::new().connection(id),
            at: at(100),
            session_present: false,
            filters: vec!["a".into()],
            spool_dir: None,
        };
        store.note(EXPIRY, None, &opened).await.unwrap();
        fixture
            .db
            .execute(&format!("update centiloc.connection set last_seen_at = '{seen}'"))
            .await;
    }
    assert_eq!(fixture.db.count("centiloc.connection").await, 3);
}
