//! A file system that does not answer and a task that keeps failing: the service stays alive,
//! reports it, and recovers. A FIFO without a writer acts as a file on a dead NFS mount.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, PASSWORD, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::{loopback, run};
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until, until_true};

/// Far more than a process needs to end, far less than any wait for a file.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Adjusts a runtime so that one blocked thread would stop it.
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
async fn hanging_password_file_at_start_blocks_nothing() {
    let (_broker, config, file) = with_password_file().await;
    replace_by_fifo(&file);
    let bridge = Bridge::start_with(&config, &[ONE_WORKER]);
    until_alive(&bridge).await;
    bridge
        .until_logged(&["broker connection failed", "mqtt.password_file", file.to_str().unwrap()])
        .await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn recovered_password_file_is_used() {
    let (_broker, config, file) = with_password_file().await;
    replace_by_fifo(&file);
    let mut bridge = Bridge::start_with(&config, &[ONE_WORKER]);
    until_alive(&bridge).await;
    replace_by_file(&file, PASSWORD);
    bridge.until_ready().await;
    stops_at_once(bridge).await;
}

#[tokio::test]
async fn hanging_password_file_leaves_earlier_credentials() {
    let (_broker, config, file) = with_password_file().await;
    let mut bridge = Bridge::start_with(&config, &[ONE_WORKER]);
    bridge.until_ready().await;
    replace_by_fifo(&file);
    let path = file.to_str().unwrap();
    bridge.until_logged(&["reading a credential file timed out", "mqtt.password_file", path]).await;
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
async fn occupied_admin_port_stops_no_events() {
    const FAILED: &str = "a background task failed";
    let rig = Rig::new().await;
    let config = rig.config().set("log.level", "debug");
    let port = config.admin_port();
    let holder = TcpListener::bind(loopback(port)).unwrap();
    let mut bridge = Bridge::start(&config);
    bridge.until_subscribed(1).await;
    rig.platform().await.publish_json(&ItemEvent::series(TENANT, 5)).await;
    rig.until_rows("item_event", 5).await;
    let log = bridge.log().clone();
    until_true("four failures", SOON, || log.count(FAILED) >= 4).await;
    let failures: Vec<_> = log.lines().into_iter().filter(|line| line.contains(FAILED)).collect();
    let errors: Vec<_> = failures.iter().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "reported once: {failures:#?}");
    for part in ["task=\"admin\"", &format!(":{port}"), "set admin.listen to a free port"] {
        assert!(errors[0].contains(part), "{errors:?}");
    }
    let waits = failures.iter().map(|line| retry_in(line)).collect::<Vec<_>>();
    assert!(waits.is_sorted() && waits[0] < waits[3], "{waits:?}");

    drop(holder);
    bridge.until_ready().await;
    let metric = "centiloc_bridge_stage_restarts_total";
    let counted = bridge.count(metric, "stage=\"admin\"").await.unwrap();
    assert!(counted >= failures.len(), "{counted}");
    assert_eq!(bridge.count(metric, "stage=\"lock\"").await, Some(0));
    stops_at_once(bridge).await;
}

/// Returns a name for an abstract socket that no other test uses.
fn abstract_name(config: &Config) -> String {
    config.folder().join("notify").to_string_lossy().replace('/', "-")
}

#[tokio::test]
async fn unreachable_service_manager_is_logged_once() {
    const UNREACHABLE: &str = "cannot notify the service manager at NOTIFY_SOCKET";
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database);
    let name = abstract_name(&config);
    let socket = format!("@{name}");
    let environment = [("NOTIFY_SOCKET", &*socket), ("WATCHDOG_USEC", "30000")];
    let mut bridge = Bridge::start_with(&config, &environment);
    bridge.until_ready().await;
    bridge.signal("HUP");
    bridge.until_logged(&["the configuration was reloaded"]).await;
    assert_eq!(bridge.count("centiloc_bridge_stage_restarts_total", "").await, Some(0));
    assert_eq!(bridge.log().count(UNREACHABLE), 1);
    assert!(bridge.log().find(&[UNREACHABLE, &socket]).is_some());

    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    manager.set_nonblocking(true).unwrap();
    let mut sent = String::new();
    until_true("READY and the watchdog to be sent", SOON, || {
        let mut datagram = [0; 64];
        while let Ok(length) = manager.recv(&mut datagram) {
            sent.push_str(std::str::from_utf8(&datagram[..length]).unwrap());
        }
        sent.contains("READY=1\n") && sent.contains("WATCHDOG=1\n")
    })
    .await;
    bridge.until_logged(&["the service manager can be notified again"]).await;
    stops_at_once(bridge).await;
}

fn retry_in(line: &str) -> f64 {
    let (_, rest) = line.split_once("retry_in=").unwrap();
    let wait = rest.trim_start_matches('"').split_once('s').unwrap().0;
    wait.parse().unwrap()
}

#[tokio::test]
async fn disabled_watchdog_restarts_nothing() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database);
    let mut bridge = Bridge::start_with(&config, &[("WATCHDOG_USEC", "0")]);
    bridge.until_ready().await;
    assert_eq!(bridge.count("centiloc_bridge_stage_restarts_total", "").await, Some(0));
}
