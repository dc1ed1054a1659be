//! `erase` removes a trace from the spool too, of a stopped service and of a running one.

use super::{OTHER, TAG, erase, erased, number};
use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::postgres::Postgres;
use crate::support::process::ScratchFolder;
use crate::support::proxy::TcpProxy;
use crate::support::publisher::TestPublisher;
use crate::support::rig::{Rig, counter};
use crate::support::wait::{SOON, until_eq};

/// A bridge with a spool whose link to the database can be broken.
struct SpoolingBridge {
    rig: Rig,
    link: TcpProxy,
    folder: ScratchFolder,
}

impl SpoolingBridge {
    async fn new() -> Self {
        let postgres = Postgres::shared().await;
        let (rig, link) = (Rig::on(postgres).await, TcpProxy::to(postgres.port()).await);
        Self { rig, link, folder: ScratchFolder::new("erase") }
    }

    /// Returns a configuration with the link for the service, or with the database itself for the
    /// command.
    fn config(&self, url: String) -> Config {
        let dir = self.folder.join("spool");
        self.rig.config().set("database.url", url).set("spool.dir", dir.to_str().unwrap())
    }

    fn service(&self) -> Config {
        self.config(self.rig.database.url_at(self.link.port()))
    }

    fn command(&self) -> Config {
        self.config(self.rig.database.url())
    }

    /// Puts events of the tag and of another one into the spool of a bridge without a database.
    async fn spooled(&self) -> Bridge {
        let bridge = Bridge::ready(&self.service()).await;
        self.link.refuse().await;
        let now = time::OffsetDateTime::now_utc();
        let event = |uid, seconds| {
            ItemEvent::new(TENANT, uid, "B-1", now - time::Duration::seconds(seconds))
        };
        let events = [event(TAG, 3), event(OTHER, 2), event(TAG, 1)];
        let publisher = TestPublisher::connect(&self.rig.broker).await;
        publisher.publish_json(&events).await;
        until_eq("the spooled events", SOON, Some(3), || {
            bridge.count("centiloc_bridge_spool_events", "")
        })
        .await;
        bridge
    }
}

#[tokio::test]
async fn erases_spool_of_stopped_service() {
    let spooling = SpoolingBridge::new().await;
    let mut bridge = spooling.spooled().await;
    assert_eq!(bridge.terminate().await, 0);
    let config = spooling.command();
    let dry = erased(&config, &["--uid", TAG, "--dry-run"]).await;
    assert_eq!(number(&dry, "spool"), 2);
    let report = erased(&config, &["--uid", TAG]).await;
    assert_eq!(number(&report, "spool"), 2);
    for name in ["spool.db", "spool.db-wal"] {
        let bytes = std::fs::read(spooling.folder.join("spool").join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(TAG), "{name} still holds the tag");
        assert!(name != "spool.db" || text.contains(OTHER));
    }
    spooling.link.pass().await;
    bridge.start_again();
    spooling.rig.until_rows("item_event", 1).await;
    let stored = "select uid from centiloc.item_event";
    assert_eq!(spooling.rig.database.column::<String>(stored).await, [OTHER]);
    until_eq("the empty spool", SOON, Some(0.0), || {
        bridge.metric("centiloc_bridge_spool_events", "")
    })
    .await;
    assert_eq!(spooling.rig.database.count("centiloc.gap").await, 0);
}

#[tokio::test]
async fn waits_for_spool_of_running_service() {
    let spooling = SpoolingBridge::new().await;
    let mut bridge = spooling.spooled().await;
    let config = spooling.command();
    let stuck = erase(&config, &["--uid", TAG]).await;
    assert_eq!(stuck.status.code(), Some(1), "{stuck:?}");
    let error = String::from_utf8_lossy(&stuck.stderr);
    for part in ["running service", "3 messages", "stop the service"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let back = async {
        let runs = || spooling.rig.database.count("centiloc.erasure");
        until_eq("the second run to begin", SOON, 2, runs).await;
        spooling.link.pass().await;
    };
    let (report, ()) = tokio::join!(erased(&config, &["--uid", TAG]), back);
    assert_eq!((number(&report, "item_event"), number(&report, "item_state")), (2, 1), "{report}");
    let stored = "select uid from centiloc.item_event";
    assert_eq!(spooling.rig.database.column::<String>(stored).await, [OTHER]);
    // An event that the platform sends again is treated like any other.
    let again = ItemEvent::new(TENANT, TAG, "B-1", time::OffsetDateTime::now_utc());
    TestPublisher::connect(&spooling.rig.broker).await.publish_json(&[again]).await;
    spooling.rig.until_rows("item_state", 2).await;
    let committed = || async { counter(&bridge, "committed_total", "kind=\"item\"").await >= 4.0 };
    until_eq("four commits", SOON, true, committed).await;
    bridge.assert_running();
}
