//! Power cuts at any moment, on a disk whose syncs fail now and then: every acknowledged message is
//! there, and every start succeeds.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::power_cut_disk::{DiskCounters, FailingSyncs, PowerCutDisk, UnsyncedFate};
use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::expect::until_count;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::run_command;
use crate::support::proxy::TcpProxy;
use crate::support::rig::Rig;
use crate::support::subscriber::forget_session;
use crate::support::wait::{SOON, until_true};

/// Failure rate in tests with failing syncs: one in this many.
const ONE_IN: u64 = 12;

/// Runs a shell command in the folder of the disk.
fn sh(disk: &PowerCutDisk, script: &str) {
    let mut command = Command::new("sh");
    disk.govern(&mut command);
    let root = disk.root();
    run_command(command.args(["-c", &format!("set -e; cd {0}; D={0}; {script}", root.display())]));
}

fn content(disk: &PowerCutDisk, name: &str) -> Option<String> {
    std::fs::read_to_string(disk.root().join(name)).ok()
}

#[tokio::test]
async fn power_cut_keeps_only_synced_content() {
    let disk = PowerCutDisk::new(0, 1).await;
    sh(
        &disk,
        "echo one > $D/synced; echo one > $D/unsynced; mkdir $D/folder; echo one > $D/folder/file",
    );
    sh(&disk, "sync $D/synced $D/unsynced $D");
    sh(
        &disk,
        "echo two > $D/synced; sync $D/synced; echo two > $D/unsynced; echo one > $D/nameless",
    );
    sh(&disk, "sync $D/nameless $D/folder/file");
    disk.cut(UnsyncedFate::Lost);
    assert_eq!(content(&disk, "synced").as_deref(), Some("two\n"));
    assert_eq!(content(&disk, "unsynced").as_deref(), Some("one\n"));
    assert_eq!(content(&disk, "nameless"), None, "its folder was not synced after it was made");
    assert_eq!(content(&disk, "folder/file"), None);
    assert!(disk.root().join("folder").is_dir());
}

#[tokio::test]
async fn power_cut_undoes_unsynced_names() {
    let disk = PowerCutDisk::new(0, 1).await;
    sh(&disk, "echo old > $D/a; echo new > $D/b; echo it > $D/c; sync $D/a $D/b $D/c $D");
    sh(&disk, "mv -f $D/b $D/a; rm $D/c");
    disk.cut(UnsyncedFate::Lost);
    let all =
        |disk: &PowerCutDisk| ["a", "b", "c"].map(|name| content(disk, name).unwrap_or_default());
    assert_eq!(all(&disk), ["old\n", "new\n", "it\n"]);
    sh(&disk, "mv -f $D/b $D/a; rm $D/c; sync $D");
    disk.cut(UnsyncedFate::Lost);
    assert_eq!(all(&disk), ["new\n", "", ""]);
}

#[tokio::test]
async fn failed_sync_loses_its_pending_writes() {
    let disk = PowerCutDisk::new(0, 1).await;
    sh(&disk, "echo one > $D/a; echo one > $D/b; sync $D/a $D/b $D");
    disk.fail(FailingSyncs::All);
    sh(&disk, "echo two > $D/a; ! sync $D/a; echo two > $D/b; ! sync $D/b");
    disk.fail(FailingSyncs::AsUsual);
    sh(&disk, "sync $D/a; echo two > $D/b; sync $D/b");
    let both = |disk: &PowerCutDisk| ["a", "b"].map(|name| content(disk, name).unwrap_or_default());
    assert_eq!(both(&disk), ["two\n"; 2], "it can be read while the power is there");
    disk.cut(UnsyncedFate::Lost);
    assert_eq!(both(&disk), ["one\n", "two\n"], "only the data written again is there");
    assert_eq!(disk.figures().failed, 2);
}

#[tokio::test]
async fn torn_write_leaves_some_whole_sectors() {
    let disk = PowerCutDisk::new(0, 1).await;
    let fill = |letter: char| {
        let bytes = format!("head -c 32768 /dev/zero | tr '\\0' {letter}");
        format!("{bytes} | dd of=$D/a bs=32768 iflag=fullblock conv=notrunc status=none")
    };
    sh(&disk, &format!("touch $D/a; {}; sync $D/a $D; {}", fill('o'), fill('n')));
    disk.cut(UnsyncedFate::Torn);
    let left = content(&disk, "a").unwrap();
    let is_whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
    assert_eq!(left.len(), 32_768);
    assert!(left.as_bytes().chunks(512).all(is_whole));
    assert!(left.contains('o') && left.contains('n'));
}

#[tokio::test]
async fn syncs_fail_at_the_configured_rate() {
    let disk = PowerCutDisk::new(4, 1).await;
    sh(&disk, "for n in $(seq 100); do echo $n > $D/a; sync $D/a 2>&- || true; done");
    let failed = disk.figures().failed;
    assert!((10..40).contains(&failed), "{failed} of 100");
}

/// A bridge with its spool and its state on a disk, and a link to its database.
struct PowerLossFixture {
    rig: Rig,
    link: TcpProxy,
    disk: Arc<PowerCutDisk>,
    random: StdRng,
}

impl PowerLossFixture {
    async fn new(fail_one_in: u64) -> Self {
        let seed: u64 = StdRng::from_os_rng().random();
        println!("seed {seed}");
        let postgres = Postgres::shared().await;
        let rig = Rig::with(Mosquitto::builder().max_queued_messages(0), postgres).await;
        let link = TcpProxy::to(postgres.port()).await;
        let disk = Arc::new(PowerCutDisk::new(fail_one_in, seed).await);
        Self { rig, link, disk, random: StdRng::seed_from_u64(seed) }
    }

    fn config(&self) -> Config {
        let dir = self.disk.root().join("made/spool");
        self.rig
            .config()
            .set("database.url", self.rig.database.url_at(self.link.port()))
            .set("spool.dir", dir.to_str().unwrap())
    }

    fn start(&self) -> Bridge {
        Bridge::start_in(self.disk.surroundings(), &self.config())
    }

    /// Waits for that many PUBACKs, and then a little.
    async fn until_at(&self, pubacks: usize, pause: Duration) {
        let reached = || self.rig.tap.pubacks() >= pubacks;
        until_true("some to be acknowledged", 2 * SOON, reached).await;
        tokio::time::sleep(pause).await;
    }

    /// Cuts the power and starts again on the remaining contents.
    fn cut(&self, bridge: &mut Bridge, unsynced: UnsyncedFate) {
        bridge.kill();
        self.disk.cut(unsynced);
        bridge.start_again();
    }
}

/// Number of power cuts, and of events published between two of them.
const CUTS: usize = 6;
const EVENTS: usize = 250;
/// White space before an event. Two of them fill three pages, so that the write-ahead log is copied
/// into the file now and then.
const PADDING: usize = 5000;

async fn survives(fail_one_in: u64, unsynced: UnsyncedFate) -> DiskCounters {
    let mut fixture = PowerLossFixture::new(fail_one_in).await;
    let mut bridge = fixture.start();
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    let platform = fixture.rig.platform().await;
    let events = ItemEvent::series(TENANT, CUTS * EVENTS);
    for (round, events) in events.chunks(EVENTS).enumerate() {
        // In every other round the database takes as much as it can.
        if round % 2 == 1 {
            fixture.link.pass().await;
        } else {
            fixture.link.refuse().await;
        }
        let before = fixture.rig.tap.pubacks();
        let mut goals = [0; 2].map(|_| before + fixture.random.random_range(1..EVENTS));
        goals.sort_unstable();
        let pauses = [0; 2].map(|_| Duration::from_micros(fixture.random.random_range(0..20_000)));
        let messages = events.iter().map(|e| (e.json_topic(), e.padded_json(PADDING)));
        let cut = async {
            fixture.until_at(goals[0], pauses[0]).await;
            bridge.assert_running();
            // The next process can still read the data that a failed sync lost.
            bridge.kill();
            bridge.start_again();
            fixture.until_at(goals[1], pauses[1]).await;
            bridge.assert_running();
            fixture.cut(&mut bridge, unsynced);
        };
        let (published, ()) = tokio::join!(platform.publish_all(messages), cut);
        assert_eq!(published, EVENTS);
    }
    fixture.link.pass().await;
    fixture.rig.until_kept(&events).await;
    until_count(&bridge, "centiloc_bridge_spool_events", "", 0).await;
    let gaps = "select cause || ': ' || detail from centiloc.gap";
    assert_eq!(fixture.rig.database.column::<String>(gaps).await, [""; 0]);
    let figures = fixture.disk.figures();
    println!("{figures:?}");
    assert!(figures.syncs > 100, "{figures:?}");
    figures
}

#[tokio::test]
async fn power_cuts_lose_no_acknowledged_message() {
    assert_eq!(survives(0, UnsyncedFate::Lost).await.failed, 0);
}

#[tokio::test]
async fn torn_writes_lose_no_acknowledged_message() {
    assert_eq!(survives(0, UnsyncedFate::Torn).await.failed, 0);
}

#[tokio::test]
async fn failing_syncs_lose_no_acknowledged_message() {
    let figures = survives(ONE_IN, UnsyncedFate::Lost).await;
    assert!(figures.failed > 5 && figures.lost_sectors > 0, "{figures:?}");
}

#[tokio::test]
async fn failing_syncs_and_torn_writes_lose_nothing() {
    let figures = survives(ONE_IN, UnsyncedFate::Torn).await;
    assert!(figures.failed > 5 && figures.lost_sectors > 0, "{figures:?}");
}

#[tokio::test]
async fn failed_commit_sync_loses_no_other_commit() {
    let fixture = PowerLossFixture::new(0).await;
    fixture.link.refuse().await;
    let mut bridge = fixture.start();
    let platform = fixture.rig.platform().await;
    let events = ItemEvent::series(TENANT, 60);
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    platform.publish_json(&events[..20]).await;
    fixture.rig.until_acked(20).await;
    fixture.disk.fail(FailingSyncs::All);
    platform.publish_json(&events[20..40]).await;
    bridge.until_logged(&["ERROR", "the spool cannot write messages"]).await;
    assert_eq!(fixture.rig.tap.pubacks(), 20, "nothing that is not durable is acknowledged");
    // The next process can read the commit in the write-ahead log, but it is not on disk.
    bridge.kill();
    fixture.disk.fail(FailingSyncs::AsUsual);
    bridge.start_again();
    platform.publish_json(&events[40..]).await;
    fixture.rig.until_acked(60).await;
    fixture.cut(&mut bridge, UnsyncedFate::Lost);
    fixture.link.pass().await;
    fixture.rig.until_kept(&events).await;
}

#[tokio::test]
async fn unsynced_folder_acknowledges_nothing() {
    let fixture = PowerLossFixture::new(0).await;
    fixture.link.refuse().await;
    let mut bridge = fixture.start();
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    let events = ItemEvent::series(TENANT, 40);
    let platform = fixture.rig.platform().await;
    platform.publish_json(&events[..20]).await;
    fixture.rig.until_acked(20).await;
    // The write-ahead log is removed at the end and created again.
    assert_eq!(bridge.terminate().await, 0);
    fixture.disk.fail(FailingSyncs::Of("made/spool"));
    bridge.start_again();
    platform.publish_json(&events[20..]).await;
    bridge.until_logged(&["ERROR", "the spool cannot write messages"]).await;
    assert_eq!(fixture.rig.tap.pubacks(), 20);
    fixture.disk.fail(FailingSyncs::AsUsual);
    fixture.rig.until_acked(40).await;
    fixture.cut(&mut bridge, UnsyncedFate::Lost);
    fixture.link.pass().await;
    fixture.rig.until_kept(&events).await;
}

#[tokio::test]
async fn power_cuts_during_recovery_lose_nothing() {
    const EVENTS: usize = 200;
    /// Maximum number of rows on the damaged page.
    const LOST: i64 = 12;
    let mut fixture = PowerLossFixture::new(0).await;
    fixture.link.refuse().await;
    let mut bridge = fixture.start();
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    fixture.rig.platform().await.publish_json(&ItemEvent::series(TENANT, EVENTS)).await;
    fixture.rig.until_acked(EVENTS).await;
    assert_eq!(bridge.terminate().await, 0);
    fixture.disk.damage("made/spool/spool.db", |content| {
        let leaf = content.chunks(4096).rposition(|page| page[0] == 0x0d).unwrap();
        content[leaf * 4096..][..4096].fill(0xa5);
    });
    bridge.start_again();
    for cut in 0..8 {
        let pause = Duration::from_millis(fixture.random.random_range(0..100));
        tokio::time::sleep(pause).await;
        bridge.assert_running();
        fixture
            .cut(&mut bridge, if cut % 2 == 0 { UnsyncedFate::Torn } else { UnsyncedFate::Lost });
    }
    fixture.link.pass().await;
    fixture.rig.until_rows("gap where cause = 'spool_damaged'", 1).await;
    until_count(&bridge, "centiloc_bridge_spool_events", "", 0).await;
    let kept = fixture.rig.database.count("centiloc.item_event").await;
    assert!(kept >= i64::try_from(EVENTS).unwrap() - LOST, "{kept} rows");
    fixture.rig.until_rows("gap", 1).await;
}

#[tokio::test]
async fn lost_session_gap_outlasts_power_cut() {
    let fixture = PowerLossFixture::new(0).await;
    // The state directory alone, without a spool.
    let config = fixture.config().set("spool.dir", "");
    let mut bridge = Bridge::start_in(fixture.disk.surroundings(), &config);
    bridge.until_ready().await;
    fixture.rig.until_rows("connection", 1).await;
    bridge.kill();
    fixture.link.refuse().await;
    forget_session(fixture.rig.broker.plain_port(), "acme-bridge").await.unwrap();
    fixture.disk.cut(UnsyncedFate::Lost);
    bridge.start_again();
    // Only this process learns that the session is gone.
    bridge.until_subscribed(2).await;
    fixture.cut(&mut bridge, UnsyncedFate::Lost);
    fixture.link.pass().await;
    fixture.rig.until_rows("gap where cause = 'session_lost'", 1).await;
    bridge.until_ready().await;
    fixture.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 1)).await;
    fixture.rig.until_acked(1).await;
    // Messages in the database are never delivered again.
    fixture.cut(&mut bridge, UnsyncedFate::Lost);
    bridge.until_ready().await;
    fixture.rig.until_rows("gap", 1).await;
}

#[tokio::test]
async fn spooled_session_loss_outlasts_power_cuts() {
    let fixture = PowerLossFixture::new(ONE_IN).await;
    let mut bridge = fixture.start();
    bridge.until_ready().await;
    fixture.rig.until_rows("connection", 1).await;
    bridge.kill();
    fixture.link.refuse().await;
    forget_session(fixture.rig.broker.plain_port(), "acme-bridge").await.unwrap();
    fixture.disk.cut(UnsyncedFate::Torn);
    bridge.start_again();
    bridge.until_subscribed(2).await;
    fixture.rig.platform().await.publish_json(&ItemEvent::series(TENANT, 1)).await;
    fixture.rig.until_acked(1).await;
    fixture.cut(&mut bridge, UnsyncedFate::Torn);
    fixture.link.pass().await;
    fixture.rig.until_rows("item_event", 1).await;
    bridge.until_ready().await;
    fixture.rig.until_rows("gap where cause = 'session_lost'", 1).await;
    fixture.rig.until_rows("gap", 1).await;
}
