//! Name lookups that hang. No program can interrupt one, and none waits for it at its end.

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::support::bridge::{Bridge, CommandSetup, command, finish};
use crate::support::config::Config;
use crate::support::mosquitto::Mosquitto;
use crate::support::postgres::Postgres;
use crate::support::preload::compile;
use crate::support::process::{Process, ScratchFolder};
use crate::support::wait::{SOON, until_true};

/// Far more than a loaded machine needs to end a process, far less than a lookup takes.
const AT_ONCE: Duration = Duration::from_secs(30);

const NAME: &str = "host.unanswered.test";

fn preload(command: &mut Command) {
    static LIBRARY: OnceLock<ScratchFolder> = OnceLock::new();
    let folder = LIBRARY.get_or_init(|| compile("hang", include_str!("hang.c")));
    command.env("LD_PRELOAD", folder.join("hang.so"));
}

fn surroundings() -> CommandSetup {
    Arc::new(preload)
}

/// Returns a configuration whose broker, database, or both have a name that is never resolved.
async fn config(broker_hangs: bool, database_hangs: bool) -> (Mosquitto, Config) {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let mut config = Config::new(&broker, &database);
    if broker_hangs {
        config = config.set("mqtt.host", NAME);
    }
    if database_hangs {
        config = config.set("database.url", format!("postgres://u:p@{NAME}/db?sslmode=disable"));
    }
    (broker, config)
}

async fn stops_during(config: &Config, logged: &[&str]) {
    let mut bridge = Bridge::start_in(surroundings(), config);
    bridge.until_logged(logged).await;
    let started = Instant::now();
    bridge.signal("TERM");
    assert_eq!(bridge.exit_code(AT_ONCE).await, 0);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    let last = bridge.log().lines().pop().unwrap();
    assert!(last.contains("stopped: everything received"), "its last line: {last}");
}

#[tokio::test]
async fn broker_lookup_delays_no_shutdown() {
    let (_broker, config) = config(true, false).await;
    stops_during(&config, &["connecting to the broker", NAME]).await;
}

#[tokio::test]
async fn database_lookup_delays_no_shutdown() {
    let (_broker, config) = config(false, true).await;
    stops_during(&config, &["subscribed at QoS 1"]).await;
}

#[tokio::test]
async fn hanging_lookup_does_not_block_check() {
    let (_broker, config) = config(true, true).await;
    let config = config.set("mqtt.connect_timeout", "1s");
    let file = config.write();
    let mut check = command(["check", "-c", file.to_str().unwrap()]);
    preload(&mut check);
    // Panics if it takes two minutes.
    let output = finish(check).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains(NAME));
}

#[tokio::test]
async fn simulation_ends_at_second_signal() {
    let mut simulate = command(["simulate", "--host", NAME]);
    preload(&mut simulate);
    let mut process = Process::start("simulate", &mut simulate, "KILL");
    let log = process.log().clone();
    until_true("the start", SOON, || log.find(&["publishing to"]).is_some()).await;
    process.signal("TERM");
    until_true("the end to begin", SOON, || {
        process.status().is_some() || log.find(&["stopping"]).is_some()
    })
    .await;
    process.signal("TERM");
    let status = tokio::task::spawn_blocking(move || process.wait(AT_ONCE)).await.unwrap();
    assert!(matches!(status.code(), Some(0 | 1 | 143)), "{status:?}");
}
