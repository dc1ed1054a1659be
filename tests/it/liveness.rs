//! A file system that does not answer and a task that keeps failing: the service stays alive, says
//! so, and recovers. A FIFO without a writer stands for a file on a dead NFS mount.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::mosquitto::{Mosquitto, PASSWORD};
use crate::support::postgres::Postgres;
use crate::support::process::run;
use crate::support::wait::{SOON, until, until_true};

/// Far more than a process needs to end, far less than any wait for a file.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A runtime that one blocked thread would stop.
const ONE_WORKER: (&str, &str) = ("TOKIO_WORKER_THREADS", "1");

async fn with_password_file() -> (Mosquitto, Config, PathBuf) {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database).without("mqtt.password");
    let file = config.file("password", PASSWORD);
    (broker, config.set("mqtt.password_file", file.to_str().unwrap()), file)
}

fn replace_by_fifo(path: &Path) {
    let fifo = path.with_extension("fifo");
    run("mkfifo", [&fifo]);
    std::fs::rename(fifo, path).unwrap();
}

fn replace_by_file(path: &Path, content: &str) {
    let file = path.with_extension("new");
    std::fs::write(&file, content).unwrap();
    std::fs::rename(file, path).unwrap();
}

async fn until_alive(bridge: &Bridge) {
    until("/livez to answer 200", SOON, || async {
        match bridge.get("/livez").await {
            Ok((200, _)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

async fn stops_at_once(mut bridge: Bridge) {
    let started = Instant::now();
    assert_eq!(bridge.terminate().await, 0);
    assert!(started.elapsed() < AT_ONCE, "stopping took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_silent_password_file_at_start_blocks_nothing() {
    let (_broker, config, file) = with_password_file().await;
    replace_by_fifo(&file);
    let bridge = Bridge::start_with(&config, &[ONE_WORKER]);
    until_alive(&bridge).await;
    bridge
        .until_logged(&[
            "no connection to the broker",
            "mqtt.password_file",
            file.to_str().unwrap(),
        ])
        .await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn a_password_file_that_answers_again_is_used() {
    let (_broker, config, file) = with_password_file().await;
    replace_by_fifo(&file);
    let mut bridge = Bridge::start_with(&config, &[ONE_WORKER]);
    until_alive(&bridge).await;
    replace_by_file(&file, PASSWORD);
    bridge.until_ready().await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn a_password_file_gone_silent_leaves_earlier_credentials() {
    let (_broker, config, file) = with_password_file().await;
    let mut bridge = Bridge::start_with(&config, &[ONE_WORKER]);
    bridge.until_ready().await;
    replace_by_fifo(&file);
    let path = file.to_str().unwrap();
    bridge.until_logged(&["a credential file does not answer", "mqtt.password_file", path]).await;
    config.set("log.level", "debug").write();
    bridge.signal("HUP");
    bridge.until_logged(&["the configuration was reloaded", "log.level"]).await;
    assert_eq!(bridge.get("/livez").await.unwrap().0, 200);
    assert_eq!(bridge.get("/readyz").await.unwrap().0, 200);
    assert_eq!(bridge.log().count("the broker accepted the connection"), 1);
    bridge.signal("HUP");
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn a_task_that_keeps_failing_waits_longer_each_time() {
    const FAILED: &str = "a background task failed";
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database);
    let socket = config.folder().join("notify");
    let service_manager =
        [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "60000000")];
    let bridge = Bridge::start_with(&config, &service_manager);
    let log = bridge.log().clone();
    until_true("four failures", SOON, || log.count(FAILED) >= 4).await;
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert!(status == 503 && body.contains("the task watchdog failed"), "{body}");
    let metric = "centiloc_bridge_stage_restarts_total";
    let counted = bridge.count(metric, "stage=\"watchdog\"").await.unwrap();
    assert!((4..=8).contains(&counted), "{counted}");
    assert_eq!(bridge.count(metric, "stage=\"lock\"").await, Some(0));
    let failures: Vec<_> = log.lines().into_iter().filter(|line| line.contains(FAILED)).collect();
    assert!(failures.len() <= counted + 1, "one line each: {failures:#?}");
    let waits = failures.iter().map(|line| retry_in(line)).collect::<Vec<_>>();
    assert!(waits.is_sorted() && waits[0] < waits[3], "{waits:?}");

    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_nonblocking(true).unwrap();
    until_true("the watchdog to be fed", SOON, || {
        let mut datagram = [0; 64];
        manager
            .recv(&mut datagram)
            .is_ok_and(|length| datagram[..length].starts_with(b"WATCHDOG=1"))
    })
    .await;
    let mut bridge = bridge;
    bridge.until_ready().await;
}

fn retry_in(line: &str) -> f64 {
    let (_, rest) = line.split_once("retry_in=").unwrap();
    let wait = rest.trim_start_matches('"').split_once('s').unwrap().0;
    wait.parse().unwrap()
}

#[tokio::test]
async fn a_watchdog_that_is_off_restarts_nothing() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database);
    let mut bridge = Bridge::start_with(&config, &[("WATCHDOG_USEC", "0")]);
    bridge.until_ready().await;
    assert_eq!(bridge.count("centiloc_bridge_stage_restarts_total", "").await, Some(0));
}
