//! Backlogs of more messages than MQTT has packet ids, from Debian's Mosquitto, which does not keep to
//! its window once a session is resumed: back-pressure makes one connection of it, and one delivery.
//!
//! The backlogs are published once. All tests share the broker, each with a session of its own.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};

use crate::support::backlog::{Drain, PACKET_IDS, Session, debian_broker, publish};
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::expect::{assert_accounted_for, until_count};
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::rig::TableLock;
use crate::support::slow;
use crate::support::wait::{SOON, until};

/// Published in protobuf.
const MANY: usize = 250_000;

/// Published in JSON, for what takes longer: still more than there are packet ids.
const FEWER: usize = 80_000;

/// How much slower the slow database is.
const SLOWER: u32 = 10;

/// `mqtt.keep_alive` where a pause is to outlive it.
const SHORT_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Un-acknowledged messages of a full bridge.
const MAX_UNACKED: usize = 32_768;

/// How a bridge is set up.
#[derive(Debug, Clone, Copy)]
struct Setup {
    /// In the client id.
    name: &'static str,
    events: usize,
    tls: bool,
    spool: bool,
    slow: bool,
    keep_alive: Option<Duration>,
}

impl Setup {
    const fn new(name: &'static str, events: usize) -> Self {
        Self { name, events, tls: false, spool: false, slow: false, keep_alive: None }
    }

    fn format(self) -> &'static str {
        if self.events == MANY { "protobuf" } else { "json" }
    }

    fn config(self, broker: &Mosquitto, database: &Database) -> Config {
        let mut config = Config::new(broker, database)
            .set("mqtt.client_id", format!("{TENANT}-{}", self.name))
            .set("mqtt.items", self.format())
            .set("mqtt.boards", "off");
        if !self.tls {
            config = config.plain(broker.plain_port());
        }
        if self.spool {
            let folder = config.folder().join("spool");
            config = config.set("spool.dir", folder.to_str().unwrap());
        }
        if let Some(keep_alive) = self.keep_alive {
            config = config.set("mqtt.keep_alive", format!("{}s", keep_alive.as_secs()));
        }
        config
    }
}

const PLAIN: Setup = Setup::new("plain", MANY);
const TLS: Setup = Setup { tls: true, ..Setup::new("tls", MANY) };
const SPOOL: Setup = Setup { spool: true, ..Setup::new("spool", MANY) };
const TLS_SPOOL: Setup = Setup { tls: true, spool: true, ..Setup::new("tls-spool", MANY) };
const SLOW: Setup = Setup { slow: true, ..Setup::new("slow", FEWER) };
const SLOW_SPOOL: Setup = Setup { slow: true, spool: true, ..Setup::new("slow-spool", FEWER) };
const SHORT: Setup =
    Setup { slow: true, keep_alive: Some(SHORT_KEEP_ALIVE), ..Setup::new("short", FEWER) };

/// Every session whose backlog is published.
const SETUPS: [Setup; 7] = [PLAIN, TLS, SPOOL, TLS_SPOOL, SLOW, SLOW_SPOOL, SHORT];

/// What the tests share.
struct Backlogs {
    _broker: Mosquitto,
    _postgres: Postgres,
    waiting: Mutex<HashMap<&'static str, Session>>,
}

impl Backlogs {
    async fn published() -> &'static Self {
        static PUBLISHED: OnceCell<Backlogs> = OnceCell::const_new();
        PUBLISHED.get_or_init(Self::publish).await
    }

    async fn publish() -> Self {
        let (broker, postgres) = tokio::join!(debian_broker(), Postgres::own());
        let mut waiting = HashMap::new();
        for setup in SETUPS {
            let database = postgres.database().await;
            let config = setup.config(&broker, &database);
            let session = Session::leave_behind(&config, database).await;
            if setup.slow {
                slow::prepare(&session.database).await;
                slow::slow_down(&session.database, SLOWER).await;
            }
            waiting.insert(setup.name, session);
        }
        publish(&broker, PLAIN.format(), MANY).await;
        publish(&broker, SLOW.format(), FEWER).await;
        Self { _broker: broker, _postgres: postgres, waiting: Mutex::new(waiting) }
    }
}

/// A session with its backlog, for one test.
async fn waiting(setup: Setup) -> Session {
    let mut waiting = Backlogs::published().await.waiting.lock().await;
    waiting.remove(setup.name).expect("each session is drained once")
}

/// Drains a backlog with a bridge that has just started.
async fn assert_one_delivery(setup: Setup) {
    let mut session = waiting(setup).await;
    session.bridge.start_again();
    // A second delivery settles it: no need to see all of them.
    let drain = session.watch(setup.events, |counts| counts.received <= setup.events).await;
    report(setup, &drain);
    assert_eq!(drain.counts.reconnects, 0, "a connection was lost: {drain:?}");
    assert!(drain.counts.received <= setup.events, "delivered again: {drain:?}");
    assert_everything_stored(&mut session, &drain, setup.events).await;
    assert_eq!(drain.counts.received, setup.events, "{drain:?}");
    until_count(&session.bridge, "centiloc_bridge_acks_total", "", setup.events).await;
    until_count(&session.bridge, "centiloc_bridge_duplicates_total", "", 0).await;
    assert_eq!(session.connections().await, 1);
    assert_eq!(session.database.count("centiloc.gap").await, 0);
}

/// For who runs with `--nocapture`.
fn report(setup: Setup, drain: &Drain) {
    let (seconds, rate) = (drain.seconds(), drain.rate());
    println!("{}: {seconds:.1} s, {rate:.0} events/s, {drain:?}", setup.name);
}

/// However often it was delivered.
async fn assert_everything_stored(session: &mut Session, drain: &Drain, events: usize) {
    assert!(drain.complete, "nothing moves any more: {drain:?}");
    assert_eq!(session.rows().await, events);
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
async fn backlog_over_tls_into_spool_is_delivered_once() {
    assert_one_delivery(TLS_SPOOL).await;
}

#[tokio::test]
async fn backlog_for_a_slow_database_is_delivered_once() {
    assert_one_delivery(SLOW).await;
}

#[tokio::test]
async fn backlog_spooled_for_slow_database_is_delivered_once() {
    assert_one_delivery(SLOW_SPOOL).await;
}

/// Keeps everything from being committed once the bridge is full, until it refuses messages because
/// its pause would outlive the keep alive.
async fn pause(session: &Session) {
    // Not before: without PUBACKs this broker keeps to its window.
    until("a full bridge", SOON, || async {
        let unacked = session.bridge.count("centiloc_bridge_unacked", "").await;
        if unacked >= Some(MAX_UNACKED) { Ok(()) } else { Err(unacked) }
    })
    .await;
    let lock = TableLock::take(&session.database, "item_event").await;
    session.bridge.until_logged(&["WARN", "keep-alive allows to wait"]).await;
    lock.release().await;
}

#[tokio::test]
async fn pause_beyond_keep_alive_loses_and_doubles_nothing() {
    let mut session = waiting(SHORT).await;
    session.bridge.start_again();
    let (drain, ()) = tokio::join!(session.watch(SHORT.events, |_| true), pause(&session));
    report(SHORT, &drain);
    assert_everything_stored(&mut session, &drain, SHORT.events).await;
    // For the pause without any commit, and for none of those while commits are slow.
    assert_eq!(drain.counts.reconnects, 1, "{drain:?}");
}
