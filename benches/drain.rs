//! Measures how fast a backlog drains: the time until messages waiting in the broker's session are
//! rows.
//!
//! The broker keeps Mosquitto's default of 20 messages in flight, so a drain is bound by round
//! trips: throughput = window / time to commit. The baseline is `baseline.py`, a careful script
//! that does the same work (without the state tables) against the same broker and database in the
//! same run. EVENTS sets the size of the backlog, ROUNDS the number of drains of each.
//!
//! With the argument `backlog` it counts connections and deliveries instead: see [`backlog`].

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot go on says so")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people, far below 2^52"
)]

#[path = "drain/backlog.rs"]
mod backlog;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::backlog::{debian_broker, publish};
use support::bridge::Bridge;
use support::config::Config;
use support::database::Database;
use support::mosquitto::{PASSWORD, TENANT, USERNAME};
use support::postgres::Postgres;
use support::subscriber::TestSubscriber;
use support::wait::until;

/// Longer than any drain on any machine worth measuring.
const DEADLINE: Duration = Duration::from_secs(600);
const SCRIPT_CLIENT: &str = "acme-baseline";

struct DrainFigures {
    name: &'static str,
    seconds: f64,
    cpu_seconds: Option<f64>,
    peak_kib: Option<u64>,
}

fn main() {
    // `cargo test --benches` only checks that it builds and starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().any(|argument| argument == "backlog") {
        let only = std::env::var("VARIANT").ok().filter(|name| !name.is_empty());
        runtime.block_on(backlog::run(count(setting("EVENTS", 250_000)), only.as_deref()));
    } else {
        runtime.block_on(bench());
    }
}

async fn bench() {
    let events: u64 = setting("EVENTS", 100_000);
    let postgres = Postgres::own().await;
    println!("{events} protobuf item events wait at the broker; 20 in flight, plain TCP, fsync on");
    for round in 1..=setting("ROUNDS", 2) {
        println!("round {round}");
        let mut all = Vec::new();
        if let Some(python) = std::env::var_os("BENCH_PYTHON") {
            all.push(drain_with_script(&postgres, PathBuf::from(python), events).await);
        }
        all.push(drain_with_bridge(&postgres, events, BenchSetup::Plain).await);
        all.push(drain_with_bridge(&postgres, events, BenchSetup::Tls).await);
        all.push(drain_with_bridge(&postgres, events, BenchSetup::Spool).await);
        let yardstick = all[0].seconds;
        for figures in &all {
            figures.print(events, yardstick);
        }
    }
}

/// Creates the bridge's own database on the shared cluster, vacuumed and checkpointed.
async fn database(postgres: &Postgres) -> Database {
    let database = postgres.database().await;
    postgres.execute("checkpoint").await;
    database
}

async fn drain_with_script(postgres: &Postgres, python: PathBuf, events: u64) -> DrainFigures {
    let (broker, database) = (debian_broker().await, database(postgres).await);
    let topic = format!("centiloc/{TENANT}");
    let mut session = TestSubscriber::connect(broker.plain_port(), SCRIPT_CLIENT).await.unwrap();
    session.subscribe(&topic).await.unwrap();
    drop(session);
    publish(&broker, "protobuf", count(events)).await;
    let mut script = std::process::Command::new(python);
    script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/baseline.py"));
    script.args(["127.0.0.1", &broker.plain_port().to_string(), SCRIPT_CLIENT, &topic]);
    script.args([&database.url(), &events.to_string()]);
    script.args([USERNAME, PASSWORD]).stderr(Stdio::inherit());
    let ended = tokio::task::spawn_blocking(move || script.output()).await.unwrap().unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(database.count("baseline_event").await, i64::try_from(events).unwrap());
    let mut numbers = text.split_whitespace().map(|number| number.parse::<f64>().unwrap());
    DrainFigures {
        name: "script (paho, psycopg), no state",
        seconds: numbers.next().unwrap(),
        cpu_seconds: numbers.next(),
        peak_kib: numbers.next().map(|kib| kib as u64),
    }
}

#[derive(Clone, Copy)]
enum BenchSetup {
    Plain,
    Tls,
    /// The bridge over plain TCP, through the spool.
    Spool,
}

async fn drain_with_bridge(postgres: &Postgres, events: u64, setup: BenchSetup) -> DrainFigures {
    let (broker, database) = (debian_broker().await, database(postgres).await);
    let config = Config::new(&broker, &database).set("mqtt.items", "protobuf");
    let spool = config.folder().join("spool");
    let (name, config) = match setup {
        BenchSetup::Plain => ("centiloc-bridge", config.plain(broker.plain_port())),
        BenchSetup::Tls => ("centiloc-bridge, TLS", config),
        BenchSetup::Spool => {
            let config = config.plain(broker.plain_port());
            ("centiloc-bridge, spool", config.set("spool.dir", spool.to_str().unwrap()))
        }
    };
    let mut bridge = Bridge::ready(&config).await;
    assert_eq!(bridge.terminate().await, 0);
    publish(&broker, "protobuf", count(events)).await;
    bridge.start_again();
    let first = wait_committed(&bridge, 1).await;
    let started = Instant::now();
    wait_committed(&bridge, events).await;
    let seconds = started.elapsed().as_secs_f64();
    let counted = database.count("centiloc.item_event").await;
    assert_eq!(counted, i64::try_from(events).unwrap());
    let share = (events - first) as f64 / events as f64;
    let figures = DrainFigures {
        name,
        seconds: seconds / share,
        cpu_seconds: Some(cpu_seconds(bridge.pid())),
        peak_kib: peak_kib(bridge.pid()),
    };
    assert_eq!(bridge.terminate().await, 0);
    figures
}

/// Waits until that many events are committed. Returns the number committed by then.
async fn wait_committed(bridge: &Bridge, at_least: u64) -> u64 {
    until("the backlog to drain", DEADLINE, || async {
        let committed = bridge.metric("centiloc_bridge_committed_total", "").await.unwrap_or(0.0);
        if committed as u64 >= at_least { Ok(committed as u64) } else { Err(committed) }
    })
    .await
}

impl DrainFigures {
    fn print(&self, events: u64, yardstick: f64) {
        let rate = events as f64 / self.seconds;
        let cpu = self.cpu_seconds.map_or_else(String::new, |cpu| {
            format!("{:6.1} CPU-s per million", cpu * 1e6 / events as f64)
        });
        let peak =
            self.peak_kib.map_or_else(String::new, |kib| format!("{:5} MiB peak", kib / 1024));
        let ratio = yardstick / self.seconds;
        println!("  {:34} {rate:7.0} events/s  x{ratio:4.2}  {cpu} {peak}", self.name);
    }
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).map(|t| t.parse::<f64>().unwrap()).sum();
    // USER_HZ is 100 on every Linux that Rust's standard library supports.
    ticks / 100.0
}

fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn count(events: u64) -> usize {
    usize::try_from(events).unwrap()
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
