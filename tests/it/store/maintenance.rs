//! Maintenance as a task: it detects outages while the stream is idle, and maintains partitions
//! once the schema exists.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::event::BoardEvent;
use centiloc_bridge::store::database_status::StatusSource;
use centiloc_bridge::store::maintenance::members::GroupMembership;
use centiloc_bridge::store::maintenance::{self, MaintenanceParts};
use centiloc_bridge::store::{DatabaseStatus, Store};
use centiloc_bridge::stream::connection_event::ConnectionEvent;
use centiloc_bridge::telemetry::{Health, Metrics};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::support::proxy::TcpProxy;
use crate::support::store::{
    EXPIRY, Process, StoreFixture, arrives, at, board, config, item, of_board,
};
use crate::support::wait::{SOON, until, until_true};

fn parts(store: Store) -> (MaintenanceParts, Arc<Health>) {
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
    let condition = DatabaseStatus::new(Arc::clone(&health), Arc::clone(&metrics));
    // The writer has found its tables, and has had nothing to do since.
    condition.answered(StatusSource::Writer);
    let parts = MaintenanceParts {
        store: Arc::new(store),
        keep_events: tokio::sync::watch::channel(Some(Duration::from_secs(30 * 86_400))).1,
        archives: false,
        keep_payloads: tokio::sync::watch::channel(None).1,
        condition: Arc::new(condition),
        metrics,
        health: Arc::clone(&health),
        members: GroupMembership {
            client_id: "T-bridge".into(),
            filters: vec![],
            session_expiry: EXPIRY,
        },
        stop: CancellationToken::new(),
    };
    (parts, health)
}

#[tokio::test]
async fn startup_maintenance_creates_and_expires_partitions() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[crate::support::store::arrives("U", "A", 1)]).await;
    let store = fixture.another_store(PartitionSpan::Month);
    store.prepare_schema(true).await.unwrap();
    let connection = Process::new().connection(1);
    let opened = ConnectionEvent::Opened {
        connection: connection.clone(),
        at: OffsetDateTime::now_utc() - time::Duration::hours(1),
        session_present: true,
        filters: vec![],
        spool_dir: None,
    };
    store.note(EXPIRY, None, &opened).await.unwrap();
    let (parts, health) = parts(store);
    health.update(|snapshot| snapshot.session.connection = Some(connection));
    let stop = parts.stop.clone();
    let script = async {
        until("maintenance to finish", SOON, || async {
            let names: Vec<String> = fixture
                .db
                .column(
                    "select inhrelid::regclass::text from pg_inherits
                      where inhparent = 'centiloc.item_event'::regclass order by 1",
                )
                .await;
            let past = names.iter().any(|name| name.ends_with("y2025m03"));
            if names.len() == 4 && !past { Ok(()) } else { Err(names) }
        })
        .await;
        let lately = "select last_seen_at > now() - interval '1 minute' from centiloc.connection";
        assert!(fixture.db.value::<bool>(lately).await);
        let database = health.snapshot().database;
        assert!(database.up && database.clock_skew_seconds.is_some_and(|s| s.abs() < 5.0));
        stop.cancel();
    };
    tokio::join!(maintenance::run(parts), script);
}

#[tokio::test]
async fn outage_is_detected_while_idle() {
    let fixture = StoreFixture::new().await;
    let proxy = TcpProxy::to(crate::support::postgres::Postgres::shared().await.port()).await;
    let url = fixture.db.url_at(proxy.port());
    let (parts, health) = parts(Store::new(&config(&url), PartitionSpan::Month).unwrap());
    let stop = parts.stop.clone();
    let script = async {
        until_true("the first answer", SOON, || {
            health.snapshot().database.clock_skew_seconds.is_some()
        })
        .await;
        proxy.refuse().await;
        // The heartbeat is every 10 s, and acquiring a connection may take as long.
        let patience = SOON * 2;
        until_true("the outage", patience, || {
            let database = health.snapshot().database;
            !database.up && database.problem.is_some_and(|p| p.contains("could not reach"))
        })
        .await;
        proxy.pass().await;
        until_true("its end", patience, || health.snapshot().database.up).await;
        stop.cancel();
    };
    tokio::join!(maintenance::run(parts), script);
}

#[tokio::test]
async fn overdue_retention_is_reported_until_reader_ends() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[crate::support::store::arrives("U", "A", 1)]).await;
    let mut reader = fixture.db.connect().await.unwrap();
    let hold = "begin; select count(*) from centiloc.item_event";
    sqlx::raw_sql(hold).execute(&mut reader).await.unwrap();
    let store = fixture.another_store(PartitionSpan::Month);
    store.prepare_schema(true).await.unwrap();
    let (parts, health) = parts(store);
    let metrics = Arc::clone(&parts.metrics);
    let stop = parts.stop.clone();
    let overdue = || health.snapshot().database.retention_overdue_seconds;
    let script = async {
        until_true("retention to be overdue", SOON, || overdue() > 0.0).await;
        assert!(metrics.encode_text().contains("centiloc_bridge_retention_overdue_seconds"));
        assert!(metrics.retention_overdue_seconds.get() > 0.0);
        sqlx::raw_sql("rollback").execute(&mut reader).await.unwrap();
        until_true("the partition to be dropped", SOON * 2, || overdue() <= 0.0).await;
        assert!(metrics.retention_overdue_seconds.get() <= 0.0);
        assert_eq!(fixture.db.count("centiloc.item_event").await, 0);
        stop.cancel();
    };
    tokio::join!(maintenance::run(parts), script);
}

#[tokio::test]
async fn payloads_expire_before_their_rows() {
    let fixture = StoreFixture::new().await;
    let cutoff = at(100);
    let mut came_late = item("LATE", "A", at(5), true);
    came_late.received_at = at(200);
    let board_event =
        BoardEvent { payload: Some(Bytes::from_static(b"raw")), ..board("A", 1, "CONNECTED") };
    let mut events: Vec<_> = (0..7).map(|n| arrives(&format!("U{n}"), "A", 10 + n)).collect();
    // More rows of one momentum than a chunk holds.
    events.extend((0..4).map(|n| arrives(&format!("V{n}"), "A", 12)));
    events.extend([came_late, arrives("NEW", "A", 100)]);
    fixture.items(&events).await;
    fixture.commit(&[of_board(board_event)]).await;
    let (mut next, mut cleared, mut chunks) = (None, 0, 0);
    loop {
        let (more, then) = fixture.store.clear_payloads(next, cutoff, 3).await.unwrap();
        (cleared, next, chunks) = (cleared + more, then, chunks + 1);
        if next.is_none() {
            break;
        }
        assert!(chunks < 20, "it does not come to an end");
    }
    assert_eq!((cleared, chunks > 2), (12, true));
    let kept = "select uid from centiloc.item_event where payload is not null order by 1";
    assert_eq!(fixture.db.column::<String>(kept).await, ["LATE", "NEW"]);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 13);
    assert_eq!(fixture.db.count("centiloc.board_event where payload is null").await, 1);
}

#[tokio::test]
async fn shorter_payload_retention_applies_immediately() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 1)]).await;
    fixture.db.execute("update centiloc.item_event set received_at = momentum").await;
    let store = fixture.another_store(PartitionSpan::Month);
    store.prepare_schema(true).await.unwrap();
    let (mut parts, _health) = parts(store);
    let (keep, kept) = tokio::sync::watch::channel(None);
    (parts.keep_payloads, parts.keep_events) = (kept, tokio::sync::watch::channel(None).1);
    let stop = parts.stop.clone();
    let script = async {
        until("maintenance to run", SOON, || async {
            let partitions =
                fixture.db.count("pg_inherits where inhparent = 'centiloc.item_event'::regclass");
            (partitions.await > 4).then_some(()).ok_or("no partitions yet")
        })
        .await;
        assert_eq!(fixture.db.count("centiloc.item_event where payload is not null").await, 1);
        keep.send(Some(Duration::from_secs(30 * 86_400))).unwrap();
        until("the payload to go", SOON, || async {
            let left = fixture.db.count("centiloc.item_event where payload is not null").await;
            (left == 0).then_some(()).ok_or(left)
        })
        .await;
        stop.cancel();
    };
    tokio::join!(maintenance::run(parts), script);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 1, "the row stays");
}
