//! Backlogs of more messages than MQTT has packet ids, from Debian's Mosquitto, which ignores its
//! window once a session is resumed. With back-pressure the drain takes one connection and one
//! delivery.
//!
//! The backlogs are published once. All tests share the broker, each with a session of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell};
use tokio::task::JoinHandle;

use crate::support::backlog::{Drain, PACKET_IDS, Session, debian_broker, publish};
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::expect::{assert_accounted_for, until_count};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::background;
use crate::support::rig::TableLock;
use crate::support::slow;
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

/// Interval between two samples of the counters.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The setup of a bridge.
#[derive(Debug, Clone, Copy)]
struct Setup {
    /// Part of the client id.
    name: &'static str,
    tls: bool,
    spool: bool,
    slow: bool,
    keep_alive: Option<&'static str>,
    max_unacked: Option<&'static str>,
}

impl Setup {
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

const PLAIN: Setup = Setup::new("plain");
const TLS: Setup = Setup { tls: true, ..Setup::new("tls") };
const SPOOL: Setup = Setup { spool: true, ..Setup::new("spool") };
const TLS_SPOOL: Setup = Setup { tls: true, spool: true, ..Setup::new("tls-spool") };
/// A short keep-alive, which is more demanding than a long one.
const SLOW: Setup = Setup { slow: true, keep_alive: SHORT, ..Setup::new("slow") };
const SLOW_SPOOL: Setup = Setup { slow: true, spool: true, ..Setup::new("slow-spool") };
/// Room for so few messages that it is full at any time, whatever part of the backlog the broker
/// sends beyond its window.
const BLOCKED: Setup =
    Setup { keep_alive: SHORT, max_unacked: Some("1MiB"), ..Setup::new("blocked") };

/// Every session whose backlog is published.
const SETUPS: [Setup; 7] = [PLAIN, TLS, SPOOL, TLS_SPOOL, SLOW, SLOW_SPOOL, BLOCKED];

/// The backlogs that the tests share.
struct Backlogs {
    _broker: Mosquitto,
    _postgres: Postgres,
    waiting: Mutex<HashMap<&'static str, Session>>,
    /// Drains with a slow database, which mostly sleep. They run concurrently with the others from
    /// the start.
    draining: Mutex<HashMap<&'static str, JoinHandle<(Session, Drain)>>>,
}

impl Backlogs {
    async fn published() -> &'static Self {
        static PUBLISHED: OnceCell<Backlogs> = OnceCell::const_new();
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

async fn left_behind(setup: Setup, broker: &Mosquitto, postgres: &Postgres) -> (Setup, Session) {
    let database = postgres.database().await;
    let config = setup.config(broker, &database);
    let session = Session::leave_behind(&config, database).await;
    if setup.slow {
        slow::prepare(&session.database).await;
        slow::slow_down(&session.database, SLOWER).await;
    }
    (setup, session)
}

/// Returns a session with its backlog, for one test.
async fn waiting(setup: Setup) -> Session {
    let mut waiting = Backlogs::published().await.waiting.lock().await;
    waiting.remove(setup.name).expect("each session is drained once")
}

/// Drains a backlog with a bridge that has just started.
async fn drained(mut session: Session) -> (Session, Drain) {
    session.bridge.start_again();
    // One second delivery decides the outcome, without waiting for all of them.
    let drain = session.watch(EVENTS, |counts| counts.received <= EVENTS).await;
    (session, drain)
}

async fn assert_one_delivery(setup: Setup) {
    let (mut session, drain) = if setup.slow {
        let draining = Backlogs::published().await.draining.lock().await.remove(setup.name);
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
fn report(setup: Setup, drain: &Drain) {
    let (seconds, rate) = (drain.seconds(), drain.rate());
    println!("{}: {seconds:.1} s, {rate:.0} events/s, {drain:?}", setup.name);
}

/// Asserts that everything is stored, however often it was delivered.
async fn assert_everything_stored(session: &mut Session, drain: &Drain) {
    assert!(drain.complete, "nothing moves any more: {drain:?}");
    assert_eq!(session.rows().await, EVENTS);
    let twice = "(select event_id from centiloc.item_event group by 1 having count(*) > 1) t";
    assert_eq!(session.database.count(twice).await, 0, "an event is stored twice");
    assert!(drain.most_unacked <= PACKET_IDS, "more than can be told apart: {drain:?}");
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
async fn block(session: &Session) {
    let count = |name: &'static str, labels: &'static str| async move {
        session.bridge.count(name, labels).await.unwrap_or(0)
    };
    let committed = || count("centiloc_bridge_committed_total", "");
    let refused = || count("centiloc_bridge_deliveries_total", "outcome=\"refused\"");
    until("refused messages", PATIENCE, || async {
        let before = committed().await;
        until("further commits", SOON, || async {
            let committed = committed().await;
            if committed > before { Ok(()) } else { Err(committed) }
        })
        .await;
        let lock = TableLock::take(&session.database, "item_event").await;
        let deadline = Instant::now() + REFUSED_WITHIN;
        while refused().await == 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        lock.release().await;
        let refused = refused().await;
        if refused > 0 { Ok(()) } else { Err(refused) }
    })
    .await;
    slow::slow_down(&session.database, 1).await;
}

#[tokio::test]
async fn pause_beyond_keepalive_loses_and_doubles_nothing() {
    let mut session = waiting(BLOCKED).await;
    // The broker runs far ahead of a slow database, and the room fills.
    slow::prepare(&session.database).await;
    slow::slow_down(&session.database, SLOWER).await;
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
