//! A store over a fresh database, and events to commit to it.

use std::process::Output;
use std::time::Duration;

use bytes::Bytes;
use centiloc_bridge::config::{self, PartitionSpan};
use centiloc_bridge::event::{BoardEvent, Event, ItemEvent, Reject, RejectReason};
use centiloc_bridge::store::{CommitOutcome, DecodedMessage, Store};
use centiloc_bridge::stream::ack::{AckToken, ConnectionId};
use centiloc_bridge::stream::connection_event::ConnectionName;
use centiloc_bridge::stream::message::Message;
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::bridge::{command, finish};
use super::config::database_only;
use super::postgres::{Database, Postgres};

/// Computes stays by window functions over all events: the definition that `item_stay` must match.
pub const STAYS_BY_WINDOWS: &str = include_str!("stays_by_windows.sql");

/// A migrated database of the shared server, and a store on it.
pub struct StoreFixture {
    pub db: Database,
    pub store: Store,
}

impl StoreFixture {
    pub async fn new() -> Self {
        Self::with_span(PartitionSpan::Month).await
    }

    pub async fn with_span(span: PartitionSpan) -> Self {
        let db = Postgres::shared().await.database().await;
        let store = Store::new(&config(&db.socket_url()), span).unwrap();
        store.migrate().await.unwrap();
        Self { db, store }
    }

    /// Opens a second store, as another process on the same database.
    pub fn another_store(&self, span: PartitionSpan) -> Store {
        Store::new(&config(&self.db.socket_url()), span).unwrap()
    }

    /// Runs a command of the program on this database.
    pub async fn run(&self, args: &[&str]) -> Output {
        let folder = database_only(&self.db.socket_url());
        let mut command = command(args);
        command.arg("-c").arg(folder.join("config.toml"));
        finish(command).await
    }

    /// Runs a command with `--json` and asserts its exit code.
    pub async fn run_json(&self, args: &[&str], code: i32) -> Value {
        let output = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"))
    }

    pub async fn commit(&self, batch: &[DecodedMessage]) -> CommitOutcome {
        self.store.commit(batch).await.unwrap()
    }

    /// Commits item events in one batch.
    pub async fn items(&self, events: &[ItemEvent]) -> CommitOutcome {
        let batch: Vec<DecodedMessage> = events.iter().cloned().map(of_item).collect();
        self.commit(&batch).await
    }
}

pub fn config(url: &str) -> config::DatabaseConfig {
    let folder = database_only(url);
    config::load(Some(&folder.path().join("config.toml")), []).unwrap().config.database
}

/// Session expiry of the broker in these tests.
pub const EXPIRY: Duration = Duration::from_secs(7200);

/// A process that names its connections.
#[derive(Debug, Clone)]
pub struct Process(Uuid);

impl Process {
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    pub fn connection(&self, id: u64) -> ConnectionName {
        ConnectionName { client_id: "T-bridge".into(), instance: self.0, id: ConnectionId(id) }
    }
}

/// Returns a time in seconds after a Monday in March 2025.
pub fn at(seconds: i64) -> OffsetDateTime {
    time::macros::datetime!(2025-03-10 00:00 UTC) + time::Duration::seconds(seconds)
}

pub fn arrives(uid: &str, board_sn: &str, seconds: i64) -> ItemEvent {
    item(uid, board_sn, at(seconds), true)
}

pub fn leaves(uid: &str, board_sn: &str, seconds: i64) -> ItemEvent {
    item(uid, board_sn, at(seconds), false)
}

pub fn item(uid: &str, board_sn: &str, momentum: OffsetDateTime, is_in: bool) -> ItemEvent {
    ItemEvent {
        received_at: momentum + time::Duration::seconds(1),
        x_mm: Some(12),
        y_mm: Some(-34),
        floor: Some(2),
        nb_hits: Some(7),
        hold_time_us: Some(1_500_000),
        fill_ratio: Some(0.25),
        product_reference: Some("scalpel".into()),
        item_labels: Some(vec!["a,b".into(), "NULL".into(), "q\"\\{}".into(), " é".into()]),
        is_interpolated: Some(false),
        payload: Some(Bytes::from_static(b"\0\xff raw")),
        ..ItemEvent::bare("T", uid, momentum, board_sn, is_in)
    }
}

pub fn board(board_sn: &str, seconds: i64, status: &str) -> BoardEvent {
    BoardEvent {
        fw_version: Some("1.2".into()),
        last_connection_at: Some(at(0)),
        ..BoardEvent::bare("T", board_sn, at(seconds), status)
    }
}

pub fn of_item(event: ItemEvent) -> DecodedMessage {
    (message("centiloc/T", event.event_id.as_bytes()), Ok(Event::Item(event)))
}

pub fn of_board(event: BoardEvent) -> DecodedMessage {
    let topic = "centiloc/T/proto/board/v1/update";
    (message(topic, event.event_id.as_bytes()), Ok(Event::Board(event)))
}

pub fn malformed(payload: &[u8]) -> DecodedMessage {
    let reject = Reject::new(RejectReason::Malformed, "not a protobuf message");
    (message("centiloc/T", payload), Err(reject))
}

pub fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload),
        received_at: at(0),
        qos: 1,
        retain: false,
        ack: None,
        permit: None,
    }
}

pub fn with_token(mut entry: DecodedMessage, sequence: u64) -> DecodedMessage {
    entry.0.ack = Some(AckToken::new(ConnectionId(1), sequence));
    entry
}

/// Returns all item states as text, for comparing whole states.
pub async fn state(db: &Database) -> Vec<String> {
    db.column("select to_jsonb(s)::text from centiloc.item_state s order by tenant, uid, board_sn")
        .await
}
