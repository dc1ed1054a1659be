//! Standard error that nobody reads, or that is closed: the service does its work, and no command
//! fails because of it.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crate::support::bridge::{Bridge, command};
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until_true};

/// Returns a stream that accepts not one byte more, and its other end.
fn full_stream() -> (UnixStream, UnixStream) {
    let (mut writer, reader) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    while match writer.write(b"x") {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    } {}
    writer.set_nonblocking(false).unwrap();
    (writer, reader)
}

async fn dropped(bridge: &Bridge) -> usize {
    bridge.count("centiloc_bridge_log_lines_dropped_total", "").await.expect("the bridge answers")
}

#[tokio::test]
async fn blocked_stderr_stops_neither_events_nor_shutdown() {
    let rig = Rig::new().await;
    let (stderr, _reader) = full_stream();
    let mut bridge = Bridge::start_with_stderr(&rig.config(), OwnedFd::from(stderr));
    bridge.until_ready().await;
    rig.platform().await.publish_json(&ItemEvent::series(TENANT, 100)).await;
    rig.until_rows("item_event", 100).await;
    rig.until_acked(100).await;
    assert_eq!(bridge.get("/livez").await.unwrap().0, 200);
    assert_eq!(dropped(&bridge).await, 0, "a few lines wait for a reader");
    assert_eq!(bridge.terminate().await, 0);
}

/// Reads to the end of a stream, on a thread of its own.
fn read_on(mut stream: UnixStream) -> Arc<Mutex<Vec<u8>>> {
    let text = Arc::new(Mutex::new(Vec::new()));
    let read = Arc::clone(&text);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            read.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
    text
}

#[tokio::test]
async fn dropped_log_lines_are_counted_and_reported() {
    let rig = Rig::new().await;
    let (stderr, reader) = full_stream();
    let config = rig.config();
    let mut bridge = Bridge::start_with_stderr(&config, OwnedFd::from(stderr));
    bridge.until_ready().await;
    // Each unknown key is one log line at each reload.
    let wrong = (0..3000).fold(config, |config, key| config.set(&format!("log.key{key}"), "x"));
    wrong.write();
    let started = Instant::now();
    while dropped(&bridge).await == 0 {
        assert!(started.elapsed() < SOON, "no line was dropped");
        bridge.signal("HUP");
    }
    let log = read_on(reader);
    let logged = |part: &str| String::from_utf8_lossy(&log.lock().unwrap()).contains(part);
    until_true("the report", SOON, || logged("log lines were dropped")).await;
    assert_eq!(bridge.terminate().await, 0);
    let last = "stopped: everything received is committed and acknowledged";
    until_true("the last line", SOON, || logged(last)).await;
}

/// Runs a command whose stdout and stderr have no reader any more.
async fn run_unread(mut command: Command) -> Output {
    for set in [Command::stdout::<Stdio>, Command::stderr::<Stdio>] {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        set(&mut command, OwnedFd::from(writer).into());
    }
    command.stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.spawn()?.wait_with_output());
    tokio::time::timeout(SOON, run).await.expect("the command ends").unwrap().unwrap()
}

#[tokio::test]
async fn closed_output_makes_no_command_panic() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database);
    let file = config.write();
    let file = file.to_str().unwrap();
    let commands: [&[&str]; 9] = [
        &["check", "-c", file],
        &["check", "--offline", "-c", file],
        &["config", "-c", file],
        &["migrate", "-c", file],
        &["status", "-c", file],
        &["dead-letters", "list", "-c", file],
        &["decode", "-c", file],
        &["simulate", "--port", "1", "--count", "1", "--password-file", "/none", "--username", "u"],
        &["no-such-command"],
    ];
    for arguments in commands {
        let code = run_unread(command(arguments)).await.status.code();
        assert!(matches!(code, Some(0 | 1 | 64)), "{arguments:?} ended with {code:?}");
    }
}

#[tokio::test]
async fn first_line_names_version_file_and_peers() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database);
    let spool = config.folder().join("spool");
    let config = config.set("spool.dir", spool.to_str().unwrap());
    let bridge = Bridge::start(&config);
    bridge.until_logged(&["starting centiloc-bridge"]).await;
    let first = bridge.log().lines().swap_remove(0);
    let (file, port) = (config.folder().join("config.toml"), broker.port());
    for part in [
        concat!("version=\"", env!("CARGO_PKG_VERSION")),
        &format!("file={file:?}"),
        &format!("broker=\"127.0.0.1:{port}\""),
        "database=\"postgres",
        &format!("spool={spool:?}"),
    ] {
        assert!(first.contains(part), "no {part} in {first}");
    }
}
