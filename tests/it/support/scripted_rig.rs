//! A bridge connected to a scripted broker.

use sqlx::{Connection, PgConnection};

use super::bridge::Bridge;
use super::config::Config;
use super::database::Database;
use super::duplex::DuplexConnection;
use super::event::ItemEvent;
use super::expect::{ITEMS, until_count};
use super::mosquitto::Mosquitto;
use super::postgres::Postgres;
use super::rig::until_settled_in;
use super::scripted_broker::{ScriptedBroker, ScriptedConnection, ScriptedPublish};
use super::wait::{SOON, until_eq};

/// A bridge, its database, and the scripted broker.
pub struct ScriptedRig {
    /// Listens for the next connection.
    pub peer: ScriptedBroker,
    pub database: Database,
    /// The bridge, ready.
    pub bridge: Bridge,
}

impl ScriptedRig {
    /// Starts a bridge with the usual configuration.
    pub async fn new() -> (Self, ScriptedConnection) {
        Self::with(|config| config, |conversation| conversation).await
    }

    /// Starts a bridge with the usual configuration changed by `adapt`, and a broker that answers
    /// PINGREQs from the start.
    pub async fn duplex(adapt: impl FnOnce(Config) -> Config) -> (Self, DuplexConnection) {
        Self::with(adapt, ScriptedConnection::duplex).await
    }

    async fn with<C>(
        adapt: impl FnOnce(Config) -> Config,
        hold: impl FnOnce(ScriptedConnection) -> C,
    ) -> (Self, C) {
        let broker = Mosquitto::start().await;
        let database = Postgres::shared().await.database().await;
        let peer = ScriptedBroker::listen().await;
        let config = adapt(Config::new(&broker, &database).plain(peer.port()));
        let mut bridge = Bridge::start(&config);
        let conversation = hold(peer.subscribed(false).await);
        bridge.until_ready().await;
        until_settled_in(&database).await;
        (Self { peer, database, bridge }, conversation)
    }

    /// Blocks every commit of events, until [`let_go`].
    pub async fn hold_commits(&self) -> PgConnection {
        let mut connection = self.database.connect().await.unwrap();
        sqlx::raw_sql("begin; lock table centiloc.item_event in share mode")
            .execute(&mut connection)
            .await
            .unwrap();
        connection
    }

    /// Waits until a commit is blocked by a lock.
    pub async fn until_held(&self) {
        let waiting = "pg_locks where not granted and database = \
                       (select oid from pg_database where datname = current_database())";
        until_eq("a commit to be held", SOON, 1, || self.database.count(waiting)).await;
    }

    /// Waits until that many messages were received.
    pub async fn until_received(&self, messages: usize) {
        until_count(&self.bridge, "centiloc_bridge_received_total", "", messages).await;
    }

    /// True if an event of this tag is stored exactly once.
    pub async fn stored(&self, event: &ItemEvent) -> bool {
        let of = format!("{ITEMS} where uid = '{}'", event.uid);
        self.database.count(&of).await == 1
    }
}

/// Lets commits proceed.
pub async fn let_go(hold: PgConnection) {
    hold.close().await.unwrap();
}

/// Delivers an event in its JSON form.
pub async fn deliver(
    to: &mut ScriptedConnection,
    qos: u8,
    packet_id: u16,
    dup: bool,
    event: &ItemEvent,
) {
    let (topic, payload) = (event.json_topic(), event.json().to_string());
    let payload = payload.as_bytes();
    to.publish(ScriptedPublish { qos, packet_id, dup, topic: &topic, payload }).await;
}
