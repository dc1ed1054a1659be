//! Store-and-forward on disk: every acknowledged message is there, despite failures of the
//! database, the process or the disk.

mod damage;
mod disabled;
mod full_disk;
mod power_cut_disk;
mod power_loss;
mod store_and_forward;

use std::path::{Path, PathBuf};

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::expect::until_count;
use crate::support::mosquitto::{BrokerBuilder, Mosquitto};
use crate::support::postgres::Postgres;
use crate::support::process::ScratchFolder;
use crate::support::proxy::TcpProxy;
use crate::support::rig::Rig;

/// A bridge with a spool, and a link to its database that can be broken.
struct SpoolFixture {
    rig: Rig,
    link: TcpProxy,
    dir: PathBuf,
    queue_grace: &'static str,
    _folder: ScratchFolder,
}

impl SpoolFixture {
    async fn new() -> Self {
        Self::with(Mosquitto::builder().max_queued_messages(0)).await
    }

    async fn with(broker: BrokerBuilder) -> Self {
        let postgres = Postgres::shared().await;
        let rig = Rig::with(broker, postgres).await;
        let link = TcpProxy::to(postgres.port()).await;
        let folder = ScratchFolder::new("spool");
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

    /// Starts a bridge, and cuts it off from its database once it is ready.
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

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}
