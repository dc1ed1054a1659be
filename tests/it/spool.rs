//! Store-and-forward on disk: what is acknowledged is there, whatever happens to the database, the
//! process or the disk.

use std::path::{Path, PathBuf};

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::expect::until_count;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::Scratch;
use crate::support::proxy::Proxy;
use crate::support::rig::{Rig, counter};
use crate::support::small_disk::SmallDisk;
use crate::support::subscriber::forget_session;
use crate::support::tap::Packet;
use crate::support::wait::{SOON, until, until_eq, until_true};

/// A bridge with a spool, and a link to its database that can be broken.
struct Bench {
    rig: Rig,
    link: Proxy,
    dir: PathBuf,
    queue_grace: &'static str,
    _folder: Scratch,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Mosquitto::builder().max_queued_messages(0)).await
    }

    async fn with(broker: crate::support::mosquitto::Builder) -> Self {
        let postgres = Postgres::shared().await;
        let rig = Rig::with(broker, postgres).await;
        let link = Proxy::to(postgres.port()).await;
        let folder = Scratch::new("spool");
        let dir = folder.join("spool");
        Self { rig, link, dir, queue_grace: "10s", _folder: folder }
    }

    fn config(&self) -> Config {
        self.rig
            .config()
            .set("database.url", self.rig.database.url_at(self.link.port()))
            .set("spool.dir", self.dir.to_str().unwrap())
            .set("mqtt.queue_grace", self.queue_grace)
    }

    /// Ready, and then without its database.
    async fn without_database(&self) -> Bridge {
        let bridge = Bridge::ready(&self.config()).await;
        self.rig.until_rows("connection", 1).await;
        self.link.refuse().await;
        bridge
    }
}

async fn until_spooled(bridge: &Bridge, messages: usize) {
    until_count(bridge, "centiloc_bridge_spool_events", "", messages).await;
}

#[tokio::test]
async fn a_database_that_is_away_costs_no_acknowledgement_and_gets_everything_later() {
    let bench = Bench::new().await;
    let bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 3000);
    bench.rig.platform().await.publish_protobuf(&events).await;
    bench.rig.until_acked(3000).await;
    until_spooled(&bridge, 3000).await;
    assert_eq!(bench.rig.database.count("centiloc.item_event").await, 0);
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "no dashboard sees what comes: {body}");
    let (_, body) = bridge.get("/api/status").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["spool"]["events"], 3000, "{body}");
    assert!(status["spool"]["bytes"].as_u64().unwrap() > 100_000, "{body}");
    assert!(status["spool"]["oldest_at"].is_string(), "{body}");
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 3000).await;
    until_spooled(&bridge, 0).await;
    until_count(&bridge, "centiloc_bridge_spool_bytes", "", 0).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    until_count(&bridge, "centiloc_bridge_duplicates_total", "", 0).await;
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn memory_does_not_grow_with_what_is_spooled() {
    const EVENTS: usize = 30_000;
    const PADDING: usize = 4096;
    const MIB: usize = 1024 * 1024;
    /// What is read ahead (16 MiB), as messages and as decoded rows, and room for groups and buffers;
    /// half of what is spooled.
    const ROOM: usize = 64 * MIB;
    let bench = Bench::new().await;
    let bridge = bench.without_database().await;
    let before = bridge.peak_memory().unwrap();
    let events = ItemEvent::series(TENANT, EVENTS);
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(PADDING)));
    assert_eq!(bench.rig.platform().await.publish_all(messages).await, EVENTS);
    until_eq("everything to be spooled", 4 * SOON, Some(EVENTS), || {
        bridge.count("centiloc_bridge_spool_events", "")
    })
    .await;
    let peak = bridge.peak_memory().unwrap();
    let spooled = bridge.count("centiloc_bridge_spool_bytes", "").await.unwrap() / MIB;
    println!("{spooled} MiB spooled: {} MiB before, {} MiB at the peak", before / MIB, peak / MIB);
    assert!(spooled > 2 * ROOM / MIB, "{spooled} MiB");
    assert!(peak < before + ROOM, "{before} bytes before, {peak} at the peak");
}

#[tokio::test]
async fn large_messages_pass_the_spool() {
    const MIB: usize = 1024 * 1024;
    let bench = Bench::new().await;
    let bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 4);
    let sizes = [5 * MIB, 1, 15 * MIB, 20 * MIB];
    let messages = events.iter().zip(sizes).map(|(e, size)| (e.json_topic(), e.padded_json(size)));
    assert_eq!(bench.rig.platform().await.publish_all(messages).await, 4);
    until_spooled(&bridge, 4).await;
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 3).await;
    // Larger than mqtt.max_packet_size, and kept whole all the same.
    let whole = format!("dead_letter where length(payload) > {}", 20 * MIB);
    bench.rig.until_rows(&whole, 1).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn killed_while_the_database_is_away_it_has_everything_that_it_acknowledged() {
    let bench = Bench::new().await;
    let mut bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 900);
    let platform = bench.rig.platform().await;
    for (round, events) in events.chunks(300).enumerate() {
        let publish = platform.publish_protobuf(events);
        let kill = async {
            let enough = round * 300 + 100;
            until_true("a third to be acknowledged", SOON, || bench.rig.tap.pubacks() > enough)
                .await;
            bridge.kill();
            bridge.start_again();
        };
        tokio::join!(publish, kill);
        until_eq("nothing unacknowledged", SOON, (Some(0), true), || async {
            let unacked = bridge.count("centiloc_bridge_unacked", "").await;
            (unacked, bench.rig.tap.pubacks() >= (round + 1) * 300)
        })
        .await;
    }
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 900).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    // Three processes that died, each with its connection, and the one that lives.
    let ends = "select coalesce(reason, 'stands') from centiloc.connection order by id";
    let died = "ended without notice";
    assert_eq!(bench.rig.database.column::<String>(ends).await, [died, died, died, "stands"]);
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn started_without_a_database_it_spools_from_the_first_message() {
    let bench = Bench::new().await;
    bench.link.refuse().await;
    let bridge = Bridge::start(&bench.config());
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    bench.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 100)).await;
    bench.rig.until_acked(100).await;
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 100).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0, "a first start is no gap");
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn a_stop_without_the_database_acknowledges_what_was_received_and_leaves_the_rest_on_disk() {
    let bench = Bench::new().await;
    let mut bridge = bench.without_database().await;
    bench.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 200)).await;
    bench.rig.until_acked(200).await;
    assert_eq!(bridge.terminate().await, 0, "nothing is lost by it");
    assert!(bench.rig.tap.packets().iter().any(|p| matches!(p, Packet::Disconnect(_))));
    assert!(bridge.log().find(&["left in the spool", "200"]).is_some(), "{}", bridge.log().tail());
    bench.link.pass().await;
    bridge.start_again();
    bench.rig.until_rows("item_event", 200).await;
    until_spooled(&bridge, 0).await;
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn a_full_spool_holds_the_acknowledgements_drops_nothing_and_is_a_gap() {
    const EVENTS: usize = 6000;
    let bench = Bench::new().await;
    let config = bench.config().set("spool.max_size", "1MiB").set("mqtt.queue_grace", "2s");
    let bridge = Bridge::ready(&config).await;
    bench.rig.until_rows("connection", 1).await;
    bench.link.refuse().await;
    let events = ItemEvent::series(TENANT, EVENTS);
    let messages = events.iter().map(|event| (event.json_topic(), event.padded_json(300)));
    assert_eq!(bench.rig.platform().await.publish_all(messages).await, EVENTS);
    bridge.until_logged(&["ERROR", "spool.max_size"]).await;
    bridge.until_logged(&["WARN", "queue may overflow", "spool_full"]).await;
    let acked = bench.rig.tap.pubacks();
    assert!((500..3000).contains(&acked), "{acked} messages fit into 1 MiB");
    let size: u64 = files(&bench.dir).iter().map(|f| f.metadata().unwrap().len()).sum();
    // The file itself, and SQLite's write-ahead log of a few MiB beside it.
    assert!(size < 8 << 20, "{size} bytes in the folder");
    let file = bench.dir.join("spool.db").metadata().unwrap().len();
    assert!(file < 1_300_000, "the file has {file} bytes");
    bench.link.pass().await;
    bench.rig.until_rows("item_event", EVENTS).await;
    bench.rig.until_acked(EVENTS).await;
    until_eq("the gap to be closed", SOON, vec!["spool_full closed".to_owned()], || {
        bench.rig.database.column::<String>(
            "select cause || case when ended_at > started_at then ' closed' else ' open' end
               from centiloc.gap where client_id = 'acme-bridge'",
        )
    })
    .await;
    until_spooled(&bridge, 0).await;
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn a_session_that_was_lost_while_the_database_was_away_is_a_gap_though_the_process_died() {
    let bench = Bench::new().await;
    let mut bridge = bench.without_database().await;
    bridge.kill();
    forget_session(bench.rig.broker.plain_port(), "acme-bridge").await.unwrap();
    bridge.start_again();
    // The broker says that it knows nothing, and then this process dies too.
    bridge.until_subscribed(2).await;
    bench.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 1)).await;
    bench.rig.until_acked(1).await;
    bridge.kill();
    bench.link.pass().await;
    bridge.start_again();
    bench.rig.until_rows("item_event", 1).await;
    bridge.until_ready().await;
    bench.rig.until_rows("gap where cause = 'session_lost'", 1).await;
    bench.rig.until_rows("gap", 1).await;
}

#[tokio::test]
async fn a_state_directory_alone_outlasts_a_database_restart() {
    let bench = Bench::new().await;
    let config = bench.config().without("spool").set("mqtt.queue_grace", "1s");
    let bridge = Bridge::ready(&config).await;
    bench.rig.until_rows("connection", 1).await;
    bench.link.refuse().await;
    bench.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 50)).await;
    // Without a spool nothing would be acknowledged now.
    bench.rig.until_acked(50).await;
    assert!(config.folder().join("spool/spool.db").exists());
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 50).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn switched_off_it_first_drains_what_the_last_run_left() {
    let bench = Bench::new().await;
    let mut bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 300);
    bench.rig.platform().await.publish_json(&events[..250]).await;
    bench.rig.until_acked(250).await;
    assert_eq!(bridge.terminate().await, 0);
    bench.rig.platform().await.publish_json(&events[250..]).await;
    bench.link.pass().await;
    let bridge = Bridge::ready(&bench.rig.config()).await;
    bench.rig.until_rows("item_event", 300).await;
    bridge.until_logged(&["earlier run is drained"]).await;
    assert!(!bench.dir.join("spool.db").exists());
    until_eq("no duplicates", SOON, 0.0, || counter(&bridge, "duplicates_total", "")).await;
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    let ended = "centiloc.connection where disconnected_at is null";
    assert_eq!(bench.rig.database.count(ended).await, 1);
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn switched_off_after_a_kill_its_absence_counts_from_the_last_sign_of_life_on_disk() {
    let bench = Bench::new().await;
    let expiry = |config: Config| config.set("mqtt.session_expiry", "3s");
    let mut bridge = Bridge::ready(&expiry(bench.config())).await;
    bench.rig.until_rows("connection", 1).await;
    bench.link.refuse().await;
    let since = std::time::Instant::now();
    let events = ItemEvent::series(TENANT, 2);
    let platform = bench.rig.platform().await;
    platform.publish_json(&events[..1]).await;
    until_true("the session's expiry to pass", SOON, || since.elapsed().as_secs() > 3).await;
    platform.publish_json(&events[1..]).await;
    bench.rig.until_acked(2).await;
    bridge.kill();
    bench.link.pass().await;
    let bridge = Bridge::ready(&expiry(bench.rig.config())).await;
    bench.rig.until_rows("item_event", 2).await;
    bridge.until_logged(&["earlier run is drained"]).await;
    bench.rig.until_rows("connection", 2).await;
    let gaps = "select cause || ': ' || detail from centiloc.gap";
    assert_eq!(bench.rig.database.column::<String>(gaps).await, [""; 0]);
}

/// The bridge of this bench spools to the disk instead.
fn on_disk(bench: &mut Bench, disk: &SmallDisk) {
    bench.dir = disk.path().join("spool");
}

#[tokio::test]
async fn with_its_disk_full_and_the_database_well_everything_goes_on_as_without_a_spool() {
    let Some(disk) = SmallDisk::mount(8) else { return };
    let mut bench = Bench::new().await;
    on_disk(&mut bench, &disk);
    let mut bridge = Bridge::ready(&bench.config()).await;
    bench.rig.until_rows("connection", 1).await;
    let events = ItemEvent::series(TENANT, 900);
    let platform = bench.rig.platform().await;
    platform.publish_json(&events[..300]).await;
    bench.rig.until_rows("item_event", 300).await;
    disk.fill();
    let large =
        events[300..600].iter().map(|event| (event.json_topic(), event.padded_json(30_000)));
    assert_eq!(platform.publish_all(large).await, 300);
    bench.rig.until_acked(600).await;
    bench.rig.until_rows("item_event", 600).await;
    bridge.until_logged(&["ERROR", "no space is left on the disk of spool.dir"]).await;
    // Not even the file can be opened now.
    assert_eq!(bridge.terminate().await, 0);
    bridge.start_again();
    platform.publish_json(&events[600..700]).await;
    bench.rig.until_acked(700).await;
    bench.rig.until_rows("item_event", 700).await;
    disk.free();
    platform.publish_json(&events[700..]).await;
    bench.rig.until_rows("item_event", 900).await;
    bridge.until_logged(&["the spool takes messages again"]).await;
    bench.rig.until_acked(900).await;
    until_spooled(&bridge, 0).await;
    assert_eq!(bridge.terminate().await, 0);
    assert_eq!(bench.rig.database.count("centiloc.gap").await, 0);
    bench.rig.assert_promises_kept().await;
}

#[tokio::test]
async fn with_its_disk_full_and_the_database_away_it_holds_everything_and_says_so() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let mut bench = Bench::new().await;
    on_disk(&mut bench, &disk);
    bench.queue_grace = "500ms";
    let bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, 600);
    let platform = bench.rig.platform().await;
    platform.publish_json(&events[..300]).await;
    bench.rig.until_acked(300).await;
    disk.fill();
    // More than finds room in the write-ahead log as it is.
    let large = events[300..].iter().map(|event| (event.json_topic(), event.padded_json(30_000)));
    assert_eq!(platform.publish_all(large).await, 300);
    bridge.until_logged(&["ERROR", "no space is left on the disk of spool.dir"]).await;
    bridge.until_logged(&["queue may overflow", "spool_full", "no space"]).await;
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("no space is left"), "{body}");
    disk.free();
    bench.rig.until_acked(600).await;
    bench.link.pass().await;
    bench.rig.until_rows("item_event", 600).await;
    bench.rig.until_rows("gap where cause = 'spool_full'", 1).await;
    until_spooled(&bridge, 0).await;
    bench.rig.assert_promises_kept().await;
}

/// Leaves a spool of so many messages behind.
async fn leave_spool(bench: &Bench, messages: usize) -> (Bridge, Vec<ItemEvent>) {
    let mut bridge = bench.without_database().await;
    let events = ItemEvent::series(TENANT, messages);
    bench.rig.platform().await.publish_json(&events).await;
    bench.rig.until_acked(messages).await;
    assert_eq!(bridge.terminate().await, 0);
    bench.link.pass().await;
    (bridge, events)
}

async fn until_damage_is_told(bench: &Bench, bridge: &mut Bridge) -> String {
    bridge.start_again();
    bridge.until_logged(&["ERROR", "spool was damaged"]).await;
    bench.rig.until_rows("gap where cause = 'spool_damaged'", 1).await;
    bench.rig.platform().await.publish_json(&ItemEvent::series("acme", 1)).await;
    assert!(files(&bench.dir).iter().any(|f| f.to_str().unwrap().contains("spool.db.damaged-")));
    bench.rig.database.value("select detail from centiloc.gap").await
}

#[tokio::test]
async fn a_page_of_garbage_in_the_file_costs_only_what_was_on_it_and_is_told() {
    let bench = Bench::new().await;
    let (mut bridge, events) = leave_spool(&bench, 2000).await;
    overwrite(&bench.dir.join("spool.db"), |length| length / 2 / 4096 * 4096, &[0xAA; 4096]);
    let detail = until_damage_is_told(&bench, &mut bridge).await;
    let stored = format!("{} rows of it could be read", rows_in(&detail));
    assert!(detail.contains(&stored), "{detail}");
    let least = i64::try_from(events.len()).unwrap() - 20;
    until("the readable rows", SOON, || async {
        let rows = bench.rig.database.count("centiloc.item_event").await;
        if rows > least { Ok(()) } else { Err((rows, detail.clone())) }
    })
    .await;
    until_spooled(&bridge, 0).await;
    bench.rig.assert_promises_kept().await;
}

fn rows_in(detail: &str) -> u64 {
    let words: Vec<&str> = detail.split(' ').collect();
    let place = words.iter().position(|word| *word == "rows").unwrap();
    words[place - 1].parse().unwrap()
}

#[tokio::test]
async fn a_flipped_bit_in_a_message_is_noticed_and_costs_that_message_alone() {
    let bench = Bench::new().await;
    let (mut bridge, events) = leave_spool(&bench, 500).await;
    let path = bench.dir.join("spool.db");
    let content = std::fs::read(&path).unwrap();
    let uid = events[250].uid.as_bytes();
    let place = content.windows(uid.len()).position(|bytes| bytes == uid).unwrap();
    overwrite(&path, |_| u64::try_from(place).unwrap(), b"F");
    let detail = until_damage_is_told(&bench, &mut bridge).await;
    assert!(detail.contains("checksum") && detail.contains(", 1 not"), "{detail}");
    bench.rig.until_rows("item_event", 500).await;
    bench.rig.until_rows("dead_letter", 0).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_any_more_is_set_aside_and_the_service_goes_on() {
    let bench = Bench::new().await;
    let (mut bridge, _) = leave_spool(&bench, 100).await;
    overwrite(&bench.dir.join("spool.db"), |_| 0, &[0x55; 8192]);
    let detail = until_damage_is_told(&bench, &mut bridge).await;
    assert!(detail.contains("nothing of it could be read"), "{detail}");
    bench.rig.until_rows("item_event", 1).await;
    bridge.assert_running();
}

fn overwrite(path: &Path, place: impl FnOnce(u64) -> u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(bytes, place(length)).unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}
