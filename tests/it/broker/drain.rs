//! Backlogs of more messages than MQTT has packet ids, from Debian's Mosquitto, which ignores its
//! window once a session is resumed. With back-pressure the drain takes one connection and one
//! delivery.
//!
//! The backlogs are published once. All tests share the broker, each with a session of its own.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::task::JoinHandle;

use crate::support::backlog::{BacklogSession, DrainResult, PACKET_IDS, debian_broker, publish};
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::expect::{assert_accounted_for, until_count};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::background;
use crate::support::rig::TableLock;
use crate::support::slow_database;
use crate::support::wait::{SOON, all, until};

/// Number of messages waiting in each session.
const EVENTS: usize = 250_000;

/// Slowdown factor of the slow database.
const SLOWER: u32 = 10;

/// `mqtt.keep_alive` in the setups where half of the room, or none, is free within it.
const SHORT: Option<&str> = Some("5s");

/// Duration of a blocked commit before the next try: three times the keep-alive.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);

/// Deadline for several such tries.
const PATIENCE: Duration = Duration::from_secs(180);

/// The setup of a bridge.
#[derive(Debug, Clone, Copy)]
struct BridgeSetup {
    /// Part of the client id.
    name: &'static str,
    tls: bool,
    spool: bool,
    slow: bool,
    keep_alive: Option<&'static str>,
    max_unacked: Option<&'static str>,
}

impl BridgeSetup {
    const fn new(name: &'static str) -> Self {
        let (keep_alive, max_unacked) = (None, None);
        Self { name, tls: false, spool: false, slow: false, keep_alive, max_unacked }
    }

    fn config(self, broker: &Mosquitto, database: &Database) -> Config {
        let mut config = Config::new(broker, database)
            .set("mqtt.client_id", format!("{TENANT}-{}", self.name))
            .set("mqtt.items", "protobuf")
            .set("mqtt.boards", "off");
        if !self.tls {
            config = config.plain(broker.plain_port());
        }
        if self.spool {
            let folder = config.folder().join("spool");
            config = config.set("spool.dir", folder.to_str().unwrap());
        }
        if let Some(keep_alive) = self.keep_alive {
            // One commit must take far less than this, on a busy machine too.
            config = config.set("mqtt.keep_alive", keep_alive).set("batch.max_events", 500);
        }
        if let Some(max_unacked) = self.max_unacked {
            config = config.set("mqtt.max_unacked", max_unacked);
        }
        config
    }
}

const PLAIN: BridgeSetup = BridgeSetup::new("plain");
const TLS: BridgeSetup = BridgeSetup { tls: true, ..BridgeSetup::new("tls") };
const SPOOL: BridgeSetup = BridgeSetup { spool: true, ..BridgeSetup::new("spool") };
const TLS_SPOOL: BridgeSetup =
    BridgeSetup { tls: true, spool: true, ..BridgeSetup::new("tls-spool") };
/// A short keep-alive, which is more demanding than a long one.
const SLOW: BridgeSetup = BridgeSetup { slow: true, keep_alive: SHORT, ..BridgeSetup::new("slow") };
const SLOW_SPOOL: BridgeSetup =
    BridgeSetup { slow: true, spool: true, ..BridgeSetup::new("slow-spool") };
/// Room for so few messages that it is full at any time, whatever part of the backlog the broker
/// sends beyond its window.
const BLOCKED: BridgeSetup =
    BridgeSetup { keep_alive: SHORT, max_unacked: Some("1MiB"), ..BridgeSetup::new("blocked") };

/// Every session whose backlog is published.
const SETUPS: [BridgeSetup; 7] = [PLAIN, TLS, SPOOL, TLS_SPOOL, SLOW, SLOW_SPOOL, BLOCKED];

/// The backlogs that the tests share.
struct SharedBacklogs {
    _broker: Mosquitto,
    _postgres: Postgres,
    waiting: Mutex<HashMap<&'static str, BacklogSession>>,
    /// Drains with a slow database, which mostly sleep. They run concurrently with the others from
    /// the start.
    draining: Mutex<HashMap<&'static str, JoinHandle<(BacklogSession, DrainResult)>>>,
}

impl SharedBacklogs {
    async fn published() -> &'static Self {
        static PUBLISHED: OnceCell<SharedBacklogs> = OnceCell::const_new();
        PUBLISHED.get_or_init(Self::publish).await
    }

    async fn publish() -> Self {
        let (broker, postgres) = tokio::join!(debian_broker(), Postgres::own());
        let leaving = SETUPS.iter().map(|setup| left_behind(*setup, &broker, &postgres));
        let sessions = all(leaving).await;
        publish(&broker, "protobuf", EVENTS).await;
        let (mut waiting, mut draining) = (HashMap::new(), HashMap::new());
        for (setup, session) in sessions {
            if setup.slow {
                draining.insert(setup.name, background().spawn(drained(session)));
            } else {
                waiting.insert(setup.name, session);
            }
        }
        Self {
            _broker: broker,
            _postgres: postgres,
            waiting: Mutex::new(waiting),
            draining: Mutex::new(draining),
        }
    }
}

async fn left_behind(
    setup: BridgeSetup,
    broker: &Mosquitto,
    postgres: &Postgres,
) -> (BridgeSetup, BacklogSession) {
    let database = postgres.database().await;
    let config = setup.config(broker, &database);
    let session = BacklogSession::leave_behind(&config, database).await;
    if setup.slow {
        slow_database::prepare(&session.database).await;
        slow_database::slow_down(&session.database, SLOWER).await;
    }
    (setup, session)
}

/// Returns a session with its backlog, for one test.
async fn waiting(setup: BridgeSetup) -> BacklogSession {
    let mut waiting = SharedBacklogs::published().await.waiting.lock().await;
    waiting.remove(setup.name).expect("each session is drained once")
}

/// Drains a backlog with a bridge that has just started.
async fn drained(mut session: BacklogSession) -> (BacklogSession, DrainResult) {
    session.bridge.start_again();
    // One second delivery decides the outcome, without waiting for all of them.
    let drain = session.watch(EVENTS, |counts| counts.received <= EVENTS).await;
    (session, drain)
}

async fn assert_one_delivery(setup: BridgeSetup) {
    let (mut session, drain) = if setup.slow {
        let draining = SharedBacklogs::published().await.draining.lock().await.remove(setup.name);
        draining.expect("each session is drained once").await.expect("the drain failed")
    } else {
        drained(waiting(setup).await).await
    };
    report(setup, &drain);
    assert_eq!(drain.counts.reconnects, 0, "a connection was lost: {drain:?}");
    assert!(drain.counts.received <= EVENTS, "delivered again: {drain:?}");
    assert_everything_stored(&mut session, &drain).await;
    assert_eq!(drain.counts.received, EVENTS, "{drain:?}");
    until_count(&session.bridge, "centiloc_bridge_acks_total", "", EVENTS).await;
    until_count(&session.bridge, "centiloc_bridge_duplicates_total", "", 0).await;
    assert_eq!(session.connections().await, 1);
    assert_eq!(session.database.count("centiloc.gap").await, 0);
}

/// Prints the figures for a run with `--nocapture`.
fn report(setup: BridgeSetup, drain: &DrainResult) {
    let (seconds, rate) = (drain.seconds(), drain.rate());
    println!("{}: {seconds:.1} s, {rate:.0} events/s, {drain:?}", setup.name);
}

/// Asserts that everything is stored, however often it was delivered.
async fn assert_everything_stored(session: &mut BacklogSession, drain: &DrainResult) {
    assert!(drain.complete, "nothing moves any more: {drain:?}");
    assert_eq!(session.rows().await, EVENTS);
    let twice = "(select event_id from centiloc.item_event group by 1 having count(*) > 1) t";
    assert_eq!(session.database.count(twice).await, 0, "an event is stored twice");
    assert!(drain.most_unacked <= PACKET_IDS, "more than there are packet ids: {drain:?}");
    assert!(drain.unaccounted.is_empty(), "unaccounted for: {drain:?}");
    assert_accounted_for(&session.bridge).await;
    session.bridge.until_ready().await;
}

#[tokio::test]
async fn backlog_over_plain_tcp_is_delivered_once() {
    assert_one_delivery(PLAIN).await;
}

#[tokio::test]
async fn backlog_over_tls_is_delivered_once() {
    assert_one_delivery(TLS).await;
}

#[tokio::test]
async fn backlog_into_the_spool_is_delivered_once() {
    assert_one_delivery(SPOOL).await;
}

#[tokio::test]
async fn tls_backlog_into_spool_is_delivered_once() {
    assert_one_delivery(TLS_SPOOL).await;
}

#[tokio::test]
async fn slow_database_causes_no_second_delivery() {
    assert_one_delivery(SLOW).await;
}

#[tokio::test]
async fn spooled_backlog_with_slow_database_delivers_once() {
    assert_one_delivery(SLOW_SPOOL).await;
}

/// Blocks all commits until messages are refused for lack of room.
///
/// Now and then Mosquitto respects its window after all, and the room stays half empty however long
/// commits are blocked. Then some commits pass, and the block is tried again.
async fn block(session: &BacklogSession) {
    let count = |name: &'static str, labels: &'static str| async move {
        session.bridge.count(name, labels).await.unwrap_or(0)
    };
    let committed = || count("centiloc_bridge_committed_total", "");
    let any_refused = || async {
        let refused = count("centiloc_bridge_deliveries_total", "outcome=\"refused\"").await;
        if refused > 0 { Ok(()) } else { Err(refused) }
    };
    until("refused messages", PATIENCE, || async {
        let before = committed().await;
        until("further commits", SOON, || async {
            let committed = committed().await;
            if committed > before { Ok(()) } else { Err(committed) }
        })
        .await;
        let lock = TableLock::take(&session.database, "item_event").await;
        let full =
            tokio::time::timeout(REFUSED_WITHIN, until("a full room", PATIENCE, any_refused));
        let full = full.await;
        lock.release().await;
        full
    })
    .await;
    slow_database::slow_down(&session.database, 1).await;
}

#[tokio::test]
async fn pause_beyond_keepalive_loses_and_doubles_nothing() {
    let mut session = waiting(BLOCKED).await;
    // The broker runs far ahead of a slow database, and the room fills.
    slow_database::prepare(&session.database).await;
    slow_database::slow_down(&session.database, SLOWER).await;
    session.bridge.start_again();
    let (drain, ()) = tokio::join!(session.watch(EVENTS, |_| true), block(&session));
    report(BLOCKED, &drain);
    assert_everything_stored(&mut session, &drain).await;
    until("the end of the connection that was refused messages", SOON, || async {
        // Refused messages use packet ids up: Mosquitto may come round to one that is outstanding.
        let reasons = ["reason=\"overloaded\"", "reason=\"packet_id_reused\""];
        let mut ends = 0;
        for reason in reasons {
            let ended = session.bridge.count("centiloc_bridge_reconnects_total", reason).await;
            ends += ended.unwrap_or(0);
        }
        if ends > 0 { Ok(()) } else { Err(ends) }
    })
    .await;
}
