//! `simulate` reports exactly the messages that the broker has, and the decoder accepts all of
//! them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use centiloc_bridge::config;
use centiloc_bridge::decode::{ClockTrust, Decoder};
use centiloc_bridge::event::Event;
use centiloc_bridge::simulate::encode::FormatChoice;
use centiloc_bridge::simulate::source::{MessageSource, MomentumClock, SourceSettings};
use centiloc_bridge::simulate::world::WorldSettings;
use serde_json::Value;
use time::OffsetDateTime;

use crate::support::bridge::{self, Bridge};
use crate::support::config::Config;
use crate::support::mosquitto::{
    Mosquitto, PASSWORD, PLATFORM, PLATFORM_PASSWORD, TENANT, USERNAME,
};
use crate::support::postgres::Postgres;
use crate::support::process::{Log, Process, ScratchFolder};
use crate::support::rig::Rig;
use crate::support::subscriber::TestSubscriber;
use crate::support::wait::{SOON, until, until_eq};

/// The last line of `simulate`, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SimulateReport {
    published: u64,
    acknowledged: u64,
    messages: u64,
}

fn report(line: &str) -> Option<SimulateReport> {
    let mut values = ["published=", "acknowledged=", "messages="]
        .into_iter()
        .zip(line.split(' '))
        .map(|(key, word)| word.strip_prefix(key)?.parse().ok());
    let mut next = || values.next()?;
    Some(SimulateReport { published: next()?, acknowledged: next()?, messages: next()? })
}

/// Publishes as the platform, over the plain listener.
fn simulate(broker: &Mosquitto, folder: &ScratchFolder, more: &[&str]) -> Command {
    let password = folder.write("platform-password", PLATFORM_PASSWORD);
    let port = broker.plain_port().to_string();
    let mut command = bridge::command(["simulate", "--tenant", TENANT, "--port", &port]);
    command.args(["--username", PLATFORM, "--password-file"]).arg(password).args(more);
    command
}

/// Creates a session that keeps all topics of the tenant. Nothing is received yet.
async fn session(broker: &Mosquitto) -> TestSubscriber {
    let mut subscriber = TestSubscriber::connect(broker.plain_port(), "acme-watch").await.unwrap();
    subscriber.subscribe(&format!("centiloc/{TENANT}/#")).await.unwrap();
    subscriber
}

async fn receive(subscriber: &mut TestSubscriber, messages: u64) -> Vec<(String, Bytes)> {
    let mut received = Vec::new();
    for _ in 0..messages {
        let publish = subscriber.receive_and_ack().await.unwrap();
        received.push((publish.topic, publish.payload));
    }
    received
}

fn decoder() -> Decoder {
    let keep_payload = config::KeepPayload::Never;
    Decoder::new(&config::DecodeConfig::new(None, keep_payload), TENANT).unwrap()
}

/// Decodes a message as of now, because the decoder rejects a momentum more than a day ahead.
fn decode(decoder: &Decoder, topic: &str, payload: &Bytes) -> Event {
    let now = OffsetDateTime::now_utc();
    let result = decoder.decode(topic, payload, now, ClockTrust::Agree(now));
    result.unwrap_or_else(|reject| panic!("{topic}: {reject}\n{payload:?}"))
}

/// Returns the columns that must be the same in both formats. Protobuf cannot tell zero from masked.
fn comparable(event: &Event) -> Value {
    let mut columns = serde_json::to_value(event).unwrap();
    columns["received_at"] = Value::Null;
    for column in columns.as_object_mut().unwrap().values_mut() {
        if *column == 0 || *column == 0.0 || *column == false || *column == "00:00:00" {
            *column = Value::Null;
        }
    }
    columns
}

#[test]
fn every_simulated_event_decodes_to_one_row() {
    let decoder = decoder();
    let source = MessageSource::new(SourceSettings {
        tenant: TENANT.into(),
        world: WorldSettings { boards: 40, items: 300, seed: 11, board_events: true },
        format: FormatChoice::Both,
        count: Some(20_000),
        duplicates: 0.01,
        clock: MomentumClock::Wall,
    });
    let mut rows: HashMap<u64, Value> = HashMap::new();
    let mut boards = 0;
    for message in source {
        let event = decode(&decoder, &message.topic, &message.payload);
        boards += usize::from(matches!(event, Event::Board(_)));
        let event = comparable(&event);
        if let Some(first) = rows.get(&message.event) {
            assert_eq!(*first, event);
        } else {
            rows.insert(message.event, event);
        }
    }
    let ids: HashSet<_> = rows.values().map(|row| row["event_id"].to_string()).collect();
    assert_eq!((rows.len(), ids.len()), (20_000, 20_000));
    assert!(boards > 100, "only {boards} board messages");
}

#[tokio::test]
async fn mutual_tls_subscriber_receives_the_reported_count() {
    let broker = Mosquitto::builder().max_queued_messages(0).start().await;
    let mut subscriber = session(&broker).await;
    let folder = ScratchFolder::new("simulate");
    let (cert, key) = broker.client().write(&folder, "client");
    let password = folder.write("password", PASSWORD);
    let (port, ca) = (broker.port().to_string(), broker.ca_file());
    let mut command = bridge::command(["simulate", "--host", "localhost", "--port", &port]);
    for (flag, file) in [("--ca", &*ca), ("--cert", &cert), ("--key", &key)] {
        command.arg(flag).arg::<&Path>(file);
    }
    command.args(["--username", USERNAME, "--password-file"]).arg(password).args([
        "--tenant",
        TENANT,
        "--count",
        "300",
        "--format",
        "both",
        "--rate",
        "0",
        "--duplicates",
        "0.1",
        "--board-events",
    ]);
    let output = bridge::finish(command).await;
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert_eq!(out.lines().count(), 1, "{out}");
    let report = report(out.trim_end()).unwrap_or_else(|| panic!("{out}"));
    assert_eq!((report.published, report.acknowledged), (300, 300));

    let received = receive(&mut subscriber, report.messages).await;
    let distinct: HashSet<_> = received.iter().collect();
    assert_eq!(distinct.len(), 600, "each event once in each format, copies aside");
    assert!(received.len() > 600, "a tenth was to be sent twice");
    let decoder = decoder();
    let ids: HashSet<_> = received.iter().map(|(t, p)| decode(&decoder, t, p).event_id()).collect();
    assert_eq!(ids.len(), 300);
}

#[tokio::test]
async fn unlimited_rate_publishes_each_event_once() {
    // Nagle's algorithm, Mosquitto's default, makes the broker's PUBACKs arrive in clumps.
    let broker = Mosquitto::builder().line("set_tcp_nodelay false").start().await;
    let folder = ScratchFolder::new("simulate");
    let command = simulate(&broker, &folder, &["--rate", "0", "--count", "20000"]);
    let output = bridge::finish(command).await;
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(out, "published=20000 acknowledged=20000 messages=20000\n");
}

#[tokio::test]
async fn restarted_broker_gets_every_event() {
    let mut broker = Mosquitto::builder().max_queued_messages(0).start().await;
    let mut subscriber = session(&broker).await;
    let folder = ScratchFolder::new("simulate");
    let mut command = simulate(&broker, &folder, &["--rate", "500", "--count", "1500"]);
    let log = Log::default();
    let mut process = Process::start_logging("simulate", &mut command, "KILL", log.clone());
    for _ in 0..2 {
        // Some messages of every stretch arrive, so that each restart is in the middle of one.
        receive(&mut subscriber, 100).await;
        broker.stop().await;
        broker.start_again().await;
        subscriber = TestSubscriber::connect(broker.plain_port(), "acme-watch").await.unwrap();
        assert!(subscriber.session_present());
    }
    let status = until("the simulation to end", SOON * 2, || {
        let status = process.status();
        async move { status.ok_or("still running") }
    });
    assert!(status.await.success(), "{:?}", log.lines());
    let last = log.lines().iter().rev().find_map(|line| report(line));
    let expected = SimulateReport { published: 1500, acknowledged: 1500, messages: 1500 };
    assert_eq!(last, Some(expected), "{:?}", log.lines());
}

#[tokio::test]
async fn interrupt_ends_with_everything_acknowledged() {
    let broker = Mosquitto::builder().max_queued_messages(0).start().await;
    let mut subscriber = session(&broker).await;
    let folder = ScratchFolder::new("simulate");
    let mut command = simulate(&broker, &folder, &["--rate", "1000", "--duplicates", "0.5"]);
    let log = Log::default();
    let mut process = Process::start_logging("simulate", &mut command, "KILL", log.clone());
    receive(&mut subscriber, 50).await;
    process.signal("INT");
    let status = until("the simulation to end", SOON, || {
        let status = process.status();
        async move { status.ok_or("still running") }
    });
    assert!(status.await.success(), "{:?}", log.lines());
    let lines = log.lines();
    let report = lines.iter().rev().find_map(|line| report(line)).expect("the last line");
    assert!(report.published >= 30, "{lines:?}");
    assert_eq!(report.published, report.acknowledged, "{lines:?}");
    receive(&mut subscriber, report.messages - 50).await;
    assert!(lines.iter().any(|line| line.starts_with("stopping")), "{lines:?}");
}

#[tokio::test]
async fn refusing_broker_is_named_with_remedy() {
    const WRONG: &str = "n0t-the-passw0rd";
    let broker = Mosquitto::start().await;
    let folder = ScratchFolder::new("simulate");
    let password = folder.write("password", WRONG);
    let mut command = bridge::command(["simulate", "--count", "1", "--port"]);
    command.arg(broker.plain_port().to_string());
    command.args(["--username", PLATFORM, "--password-file"]).arg(password);
    let output = bridge::finish(command).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("could not connect to the broker at 127.0.0.1:"), "{text}");
    assert!(text.contains("--password-file"), "{text}");
    assert!(!text.contains(WRONG), "{text}");
}

/// Starts `simulate` with a configuration of the bridge.
fn with_configuration(config: &Config, more: &[&str]) -> Command {
    let mut command = bridge::command(["simulate", "-c"]);
    command.arg(config.write()).args(more);
    command
}

#[tokio::test]
async fn configuration_supplies_broker_user_tls_and_formats() {
    let broker = Mosquitto::builder().max_queued_messages(0).start().await;
    let database = Postgres::shared().await.database().await;
    let mut subscriber = session(&broker).await;
    let config = Config::new(&broker, &database);
    let output = bridge::finish(with_configuration(&config, &["--count", "20"])).await;
    assert!(output.status.success(), "{output:?}");
    let received = receive(&mut subscriber, 40).await;
    let json = received.iter().filter(|(topic, _)| topic.contains("/json/")).count();
    assert_eq!(json, 20, "mqtt.items is both");
}

#[tokio::test]
async fn history_is_spread_over_the_past() {
    let rig =
        Rig::with(Mosquitto::builder().max_queued_messages(0), Postgres::shared().await).await;
    let _bridge = Bridge::ready(&rig.config()).await;
    let folder = ScratchFolder::new("simulate");
    let more = ["--over", "30d", "--count", "6000", "--items", "40", "--boards", "8"];
    let output = bridge::finish(simulate(&rig.broker, &folder, &more)).await;
    assert!(output.status.success(), "{output:?}");
    let events = "((select momentum from centiloc.item_event) union all \
                   (select momentum from centiloc.board_event)) e";
    until_eq("the history", SOON * 2, 6000, || rig.database.count(events)).await;
    let in_range = "select min(momentum) > now() - interval '31 days' and \
                    min(momentum) < now() - interval '28 days' and max(momentum) <= now() and \
                    max(momentum) > now() - interval '3 days' from centiloc.item_event";
    assert!(rig.database.value::<bool>(in_range).await, "not the last 30 days");
    let days = "(select distinct momentum::date from centiloc.item_event) d";
    assert!(rig.database.count(days).await >= 28, "days without events");
    until_eq("all stays", SOON, 0, || rig.database.count("centiloc.stay_pending")).await;
    let stays = "select count(*) filter (where left_at is not null) > 100 and \
                 percentile_cont(0.5) within group (order by extract(epoch from duration)) \
                 between 600 and 10 * 86400 from centiloc.item_stay";
    assert!(rig.database.value::<bool>(stays).await, "no realistic stays");
    let boards = "(select distinct status from centiloc.board_event) s";
    assert!(rig.database.count(boards).await >= 3, "boards do nothing");
    assert_eq!(rig.database.count("centiloc.dead_letter").await, 0);
}

#[tokio::test]
async fn tls_and_plain_port_mismatch_is_reported() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let (plain_port, tls_port) = (broker.plain_port().to_string(), broker.port().to_string());
    let config = Config::new(&broker, &database);
    let tls_to_plain = with_configuration(&config, &["--count", "1", "--port", &plain_port]);
    let plain_to_tls = bridge::command(["simulate", "--count", "1", "--port", &tls_port]);
    let cases = [(tls_to_plain, "speaks plain MQTT"), (plain_to_tls, "speaks TLS")];
    for (command, expected) in cases {
        let output = bridge::finish(command).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(expected) && text.contains("--port"), "{text}");
    }
}
