//! The writer stage acknowledges only durable messages, in order, whatever the database does
//! meanwhile.

mod database_trouble;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use centiloc_bridge::clock::WallClock;
use centiloc_bridge::config::{BackoffBounds, PartitionSpan};
use centiloc_bridge::store::schema::MigrationError;
use centiloc_bridge::store::writer::{self, RetryWaits, WriterParts};
use centiloc_bridge::store::{DatabaseStatus, DecodedMessage, Store};
use centiloc_bridge::stream::ack::DeliveryId;
use centiloc_bridge::stream::connection_event::ConnectionEvent;
use centiloc_bridge::stream::message::{DecodedItem, Feedback};
use centiloc_bridge::telemetry::{Health, Metrics};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::store::{
    EXPIRY, Process, StoreFixture, arrives, at, config, malformed, of_item, with_token,
};
use crate::support::wait::{SOON, until_true};

/// The channels and handles around the stage.
struct WriterRig {
    decoded: mpsc::Sender<DecodedItem>,
    feedback: mpsc::Receiver<Feedback>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    abandon: CancellationToken,
}

fn rig(store: Store) -> (WriterParts, WriterRig) {
    let (decoded_tx, decoded) = mpsc::channel(256);
    let (feedback, feedback_rx) = mpsc::channel(256);
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
    let abandon = CancellationToken::new();
    let short = Duration::from_millis(20);
    let parts = WriterParts {
        store: Arc::new(store),
        session_expiry: EXPIRY,
        migrate: true,
        decoded,
        feedback,
        max_events: tokio::sync::watch::channel(50).1,
        waits: RetryWaits { retry: BackoffBounds { min: short, max: short * 10 }, stop: short * 5 },
        condition: Arc::new(DatabaseStatus::new(Arc::clone(&health), Arc::clone(&metrics))),
        metrics: Arc::clone(&metrics),
        health: Arc::clone(&health),
        clock: WallClock::system(),
        rng: StdRng::from_os_rng(),
        abandon: abandon.clone(),
    };
    (parts, WriterRig { decoded: decoded_tx, feedback: feedback_rx, health, metrics, abandon })
}

/// Asserts at compile time that the supervisor can move the stage between threads.
fn movable<T: Send>(stage: T) -> T {
    stage
}

impl WriterRig {
    async fn send(&self, entry: DecodedMessage) {
        self.decoded.send(DecodedItem::Message(entry.0, entry.1)).await.unwrap();
    }

    async fn news(&self, news: ConnectionEvent) {
        self.decoded.send(DecodedItem::Connection(news, None)).await.unwrap();
    }

    /// Waits until these are acknowledged. Panics if one is acknowledged twice.
    async fn acknowledged(&mut self, sequences: std::ops::Range<u64>) {
        let mut left: BTreeSet<u64> = sequences.collect();
        while !left.is_empty() {
            match tokio::time::timeout(SOON, self.feedback.recv()).await {
                Ok(Some(Feedback::Committed(committed))) => {
                    for DeliveryId { sequence, .. } in committed.deliveries() {
                        assert!(left.remove(&sequence), "{sequence} was not to be acknowledged");
                    }
                }
                Ok(Some(Feedback::Persisted(_))) => {}
                other => panic!("{other:?} while waiting for {left:?}"),
            }
        }
    }
}

fn event(n: u64) -> DecodedMessage {
    with_token(of_item(arrives("U", "A", i64::try_from(n).unwrap())), n)
}

fn opened(session_present: bool, filters: &[&str], seconds: i64) -> ConnectionEvent {
    ConnectionEvent::Opened {
        connection: Process::new().connection(1),
        at: at(seconds),
        session_present,
        filters: filters.iter().map(|f| (*f).to_owned()).collect(),
        spool_dir: None,
    }
}

async fn rows(fixture: &StoreFixture) -> i64 {
    fixture.db.count("centiloc.item_event").await
}

#[tokio::test]
async fn received_messages_are_committed_acknowledged_and_drained() {
    let fixture = StoreFixture::new().await;
    let (parts, mut rig) = rig(fixture.another_store(PartitionSpan::Month));
    let script = async {
        for n in 0..200 {
            rig.send(event(n)).await;
        }
        rig.acknowledged(0..200).await;
        rig.send(with_token(malformed(b"x"), 200)).await;
        rig.send(of_item(arrives("qos 0", "A", 1))).await;
        drop(rig.decoded);
        (rig.feedback, rig.health, rig.metrics)
    };
    let (result, (mut feedback, health, metrics)) =
        tokio::join!(movable(writer::run(parts)), script);
    result.unwrap();
    // Everything still open was durable before the stage ended.
    assert!(matches!(feedback.recv().await, Some(Feedback::Committed(c)) if c.len() == 1));
    assert!(feedback.recv().await.is_none());
    assert_eq!(rows(&fixture).await, 201);
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 1);
    let database = health.snapshot().database;
    assert!(database.up && database.last_commit_at.is_some());
    assert_eq!(database.last_event_at, Some(at(199)));
    let text = metrics.encode_text();
    for line in [
        "centiloc_bridge_committed_total{kind=\"item\"} 201",
        "centiloc_bridge_dead_letters_total{reason=\"malformed\"} 1",
        "centiloc_bridge_event_to_commit_seconds_count 201",
        "centiloc_bridge_database_up 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn gap_is_durable_before_next_acknowledgement() {
    let fixture = StoreFixture::new().await;
    fixture.store.note(EXPIRY, None, &opened(false, &["a", "old"], 0)).await.unwrap();
    fixture.db.execute("alter table centiloc.gap rename to gap_hidden").await;
    let (parts, mut rig) = rig(fixture.another_store(PartitionSpan::Month));
    let script = async {
        rig.send(event(0)).await;
        rig.news(opened(false, &["a"], 100)).await;
        rig.send(event(1)).await;
        rig.acknowledged(0..1).await;
        until_true("the stage to be held", SOON, || !rig.health.snapshot().database.up).await;
        assert_eq!(rows(&fixture).await, 1);
        fixture.db.execute("alter table centiloc.gap_hidden rename to gap").await;
        rig.acknowledged(1..2).await;
        assert_eq!(fixture.db.count("centiloc.gap").await, 1);
        assert_eq!(rig.metrics.gaps.total(), 1);
        let text = rig.metrics.encode_text();
        assert!(text.contains("commit_failures_total{class=\"stop\"} 1"), "{text}");
        drop(rig.decoded);
    };
    tokio::join!(writer::run(parts), script).0.unwrap();
}

#[tokio::test]
async fn stale_filters_are_returned_for_unsubscribe() {
    let fixture = StoreFixture::new().await;
    fixture.store.note(EXPIRY, None, &opened(false, &["a", "old"], 0)).await.unwrap();
    let (parts, mut rig) = rig(fixture.another_store(PartitionSpan::Month));
    let script = async {
        rig.news(opened(true, &["a"], 100)).await;
        let feedback = tokio::time::timeout(SOON, rig.feedback.recv()).await.unwrap();
        assert!(matches!(feedback, Some(Feedback::Unsubscribe(f)) if f == ["old"]));
        drop(rig.decoded);
    };
    tokio::join!(writer::run(parts), script).0.unwrap();
}

#[tokio::test]
async fn newer_schema_ends_the_stage() {
    let fixture = StoreFixture::new().await;
    fixture
        .db
        .execute(
            "insert into centiloc._sqlx_migrations
                    (version, description, success, checksum, execution_time)
             values (9999, 'future', true, '\\x00', 0)",
        )
        .await;
    let (parts, _rig) = rig(fixture.another_store(PartitionSpan::Month));
    assert!(matches!(writer::run(parts).await, Err(MigrationError::Newer { .. })));
}

#[tokio::test]
async fn forbidden_migrations_hold_stream_until_applied() {
    let db = crate::support::postgres::Postgres::shared().await.database().await;
    let store = || Store::new(&config(&db.socket_url()), PartitionSpan::Month).unwrap();
    let (mut parts, mut rig) = rig(store());
    parts.migrate = false;
    let script = async {
        rig.send(event(0)).await;
        until_true("the stream to be held", SOON, || {
            let problem = rig.health.snapshot().database.problem;
            problem.is_some_and(|p| p.contains("centiloc-bridge migrate"))
        })
        .await;
        store().migrate().await.unwrap();
        rig.acknowledged(0..1).await;
        drop(rig.decoded);
    };
    tokio::join!(writer::run(parts), script).0.unwrap();
}
