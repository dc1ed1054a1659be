//! Counts the connections and deliveries that it takes to drain a backlog larger than the number of
//! MQTT packet ids. Prints one line a variant, for another build too: see `make drain`.

use super::support::backlog::{BacklogSession, DrainResult, debian_broker, publish};
use super::support::config::Config;
use super::support::mosquitto::Mosquitto;
use super::support::postgres::Postgres;
use super::support::slow_database;

/// Slowdown factor of the slow database.
const SLOWER: u32 = 10;

/// A variant: the setup of a bridge.
#[derive(Debug, Clone, Copy)]
struct DrainVariant {
    name: &'static str,
    tls: bool,
    spool: bool,
    slow: bool,
}

const fn variant(name: &'static str, tls: bool, spool: bool, slow: bool) -> DrainVariant {
    DrainVariant { name, tls, spool, slow }
}

const VARIANTS: [DrainVariant; 6] = [
    variant("plain", false, false, false),
    variant("tls", true, false, false),
    variant("spool", false, true, false),
    variant("tls-spool", true, true, false),
    variant("slow", false, false, true),
    variant("slow-spool", false, true, true),
];

/// Drains `events` events with each variant, or with the named one, and prints the result.
pub async fn run(events: usize, only: Option<&str>) {
    let chosen = |variant: &DrainVariant| only.is_none_or(|name| name == variant.name);
    assert!(VARIANTS.iter().any(chosen), "VARIANT={only:?} is none of {VARIANTS:?}");
    let postgres = Postgres::own().await;
    println!(
        "{events} protobuf item events wait at Mosquitto with max_inflight_messages 20; fsync on; \
         slow: inserts take {SLOWER} times as long"
    );
    println!(
        "{:10} {:>11} {:>10} {:>7} {:>7} {:>7} {:>8} {:>12} {:>4} {:>11} {:>8}  outcome",
        "variant",
        "connections",
        "deliveries",
        "rows",
        "acks",
        "seconds",
        "events/s",
        "most unacked",
        "gaps",
        "unaccounted",
        "peak MiB",
    );
    for variant in VARIANTS.into_iter().filter(chosen) {
        drain(&postgres, variant, events).await;
    }
}

async fn drain(postgres: &Postgres, variant: DrainVariant, events: usize) {
    let broker = debian_broker().await;
    let mut session = session(&broker, postgres, variant).await;
    publish(&broker, "protobuf", events).await;
    postgres.execute("checkpoint").await;
    session.bridge.start_again();
    let drain = session.watch(events, |_| true).await;
    print(variant, &session, &drain).await;
    session.bridge.kill();
}

async fn session(broker: &Mosquitto, postgres: &Postgres, variant: DrainVariant) -> BacklogSession {
    let database = postgres.database().await;
    let mut config = Config::new(broker, &database).set("mqtt.items", "protobuf");
    if !variant.tls {
        config = config.plain(broker.plain_port());
    }
    if variant.spool {
        let folder = config.folder().join("spool");
        config = config.set("spool.dir", folder.to_str().unwrap());
    }
    let session = BacklogSession::leave_behind(&config, database).await;
    if variant.slow {
        slow_database::prepare(&session.database).await;
        slow_database::slow_down(&session.database, SLOWER).await;
    }
    session
}

async fn print(variant: DrainVariant, session: &BacklogSession, drain: &DrainResult) {
    let counts = drain.counts;
    let unaccounted = counts.unaccounted.map_or_else(|| "no metric".to_owned(), |n| n.to_string());
    let outcome = if drain.complete {
        "drained".to_owned()
    } else {
        format!("STALLED, un-acked {}", counts.unacked)
    };
    println!(
        "{:10} {:11} {:10} {:7} {:7} {:7.1} {:8.0} {:12} {:4} {:>11} {:8}  {outcome}",
        variant.name,
        session.connections().await,
        counts.received,
        session.rows().await,
        counts.acks,
        drain.seconds(),
        drain.rate(),
        drain.most_unacked,
        session.database.count("centiloc.gap").await,
        unaccounted,
        drain.peak_memory / (1024 * 1024),
    );
}
