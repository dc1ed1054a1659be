//! One process at a time holds the session, even if the process dies, its database connection is
//! lost, or a foreign client uses the client id.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::service::leadership::Leadership;
use centiloc_bridge::store::Store;
use centiloc_bridge::store::lock::{self, LockParts};
use rumqttc::{AsyncClient, EventLoop, MqttOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, PASSWORD, TENANT, USERNAME};
use crate::support::postgres::Postgres;
use crate::support::proxy::{Direction, TcpProxy, TrafficObserver};
use crate::support::publisher::TestPublisher;
use crate::support::store;
use crate::support::wait::{SOON, until, until_eq, until_true};

/// The state in `/readyz` of a bridge on standby.
const STANDS_BY: &str = "standing by: centiloc-bridge on ";

/// The client id derived from the tenant.
const CLIENT_ID: &str = "acme-bridge";

async fn services() -> (Mosquitto, Database) {
    tokio::join!(Mosquitto::start(), async { Postgres::shared().await.database().await })
}

async fn until_rows(database: &Database, rows: usize) {
    let rows = i64::try_from(rows).unwrap();
    until_eq("every event in a row", SOON, rows, || database.count("centiloc.item_event")).await;
}

async fn until_standing_by(bridge: &Bridge) {
    until("the bridge to be on standby", SOON, || async {
        match bridge.get("/readyz").await {
            Ok((503, text)) if text.contains(STANDS_BY) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(bridge.metric("centiloc_bridge_standby", "").await, Some(1.0));
}

#[tokio::test]
async fn standby_takes_over_after_a_kill() {
    let (broker, database) = services().await;
    let (one, two) = (Config::new(&broker, &database), Config::new(&broker, &database));
    let mut first = Bridge::ready(&one).await;
    let mut second = Bridge::start(&two);
    until_standing_by(&second).await;
    second.until_logged(&["another process holds the client id", "holder=centiloc-bridge"]).await;

    let platform = TestPublisher::connect(&broker).await;
    let events = ItemEvent::series(TENANT, 60);
    platform.publish_json(&events[..20]).await;
    until_rows(&database, 20).await;
    assert_eq!(second.log().count("another process holds"), 1, "logged once");

    first.kill();
    let killed = Instant::now();
    platform.publish_json(&events[20..40]).await;
    second.until_ready().await;
    assert!(killed.elapsed() < Duration::from_secs(10), "it took {:?}", killed.elapsed());
    until_rows(&database, 40).await;
    assert_eq!(second.metric("centiloc_bridge_session_present", "").await, Some(1.0));
    assert_eq!(second.metric("centiloc_bridge_standby", "").await, Some(0.0));

    // The first comes back and finds the lock taken.
    first.start_again();
    until_standing_by(&first).await;
    platform.publish_json(&events[40..]).await;
    until_rows(&database, 60).await;
    assert_eq!(database.count("centiloc.gap").await, 0);
    assert_eq!(first.terminate().await, 0, "a standby shuts down like any other");
}

#[tokio::test]
async fn holder_keeps_session_and_retakes_lost_lock() {
    let (broker, database) = services().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    let config = Config::new(&broker, &database).set("database.url", database.url_at(proxy.port()));
    let bridge = Bridge::ready(&config).await;
    bridge.until_logged(&["holds the single-writer lock"]).await;
    proxy.cut().await;
    bridge.until_logged(&["the connection that holds the single-writer lock broke"]).await;
    let log = bridge.log();
    until_true("the lock again", SOON, || log.count("this process holds the single-writer") == 2)
        .await;
    let platform = TestPublisher::connect(&broker).await;
    platform.publish_json(&ItemEvent::series(TENANT, 10)).await;
    until_rows(&database, 10).await;
    assert_eq!(log.count("the broker accepted the connection"), 1, "the session was kept");
}

#[tokio::test]
async fn lock_taken_during_outage_yields_session() {
    let (broker, database) = services().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    let cut_off =
        Config::new(&broker, &database).set("database.url", database.url_at(proxy.port()));
    let first = Bridge::ready(&cut_off).await;
    let other = Config::new(&broker, &database);
    let mut second = Bridge::start(&other);
    until_standing_by(&second).await;
    proxy.refuse().await;
    second.until_logged(&["this process holds the single-writer lock"]).await;
    proxy.pass().await;
    until_standing_by(&first).await;
    second.until_ready().await;
    let platform = TestPublisher::connect(&broker).await;
    platform.publish_json(&ItemEvent::series(TENANT, 10)).await;
    until_rows(&database, 10).await;
}

#[tokio::test]
async fn session_opens_without_a_database() {
    let (broker, database) = services().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    proxy.refuse().await;
    let config = Config::new(&broker, &database).set("database.url", database.url_at(proxy.port()));
    let bridge = Bridge::start(&config);
    bridge
        .until_logged(&["cannot check the single-writer lock; connecting to the broker without it"])
        .await;
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    proxy.pass().await;
    bridge.until_logged(&["this process holds the single-writer lock"]).await;
    assert_eq!(bridge.log().count("the broker accepted the connection"), 1);
}

/// A lock task in this process, which the test polls or not.
fn lock_task(
    database: &Database,
    instance: Uuid,
) -> (impl Future<Output = ()> + use<>, watch::Receiver<Leadership>) {
    lock_task_at(&database.url(), instance)
}

fn lock_task_at(
    url: &str,
    instance: Uuid,
) -> (impl Future<Output = ()> + use<>, watch::Receiver<Leadership>) {
    let config = store::config(url);
    let store = Store::new(&config, PartitionSpan::Month).unwrap();
    let (leadership, word) = watch::channel(Leadership::default());
    let parts = LockParts {
        store: Arc::new(store),
        client_id: CLIENT_ID.to_owned(),
        instance,
        leadership,
        stop: CancellationToken::new(),
    };
    (lock::run(parts), word)
}

/// Polls the task until it returns the expected state.
async fn poll_until(
    task: &mut (impl Future<Output = ()> + Unpin),
    word: &mut watch::Receiver<Leadership>,
    wanted: impl FnMut(&Leadership) -> bool,
) {
    tokio::select! {
        () = task => panic!("the task ended"),
        found = tokio::time::timeout(SOON, word.wait_for(wanted)) => { found.unwrap().unwrap(); }
    }
}

#[tokio::test]
async fn own_stale_lock_connection_is_terminated() {
    let database = Postgres::shared().await.database().await;
    let instance = Uuid::new_v4();
    let (old, mut old_word) = lock_task(&database, instance);
    let mut old = Box::pin(old);
    poll_until(&mut old, &mut old_word, |word| *word == Leadership::Held).await;
    // Without polling, it holds the lock and sends nothing, as after a cut that the server has not
    // detected.
    let (new, mut new_word) = lock_task(&database, instance);
    poll_until(&mut Box::pin(new), &mut new_word, |word| *word == Leadership::Held).await;
}

#[tokio::test]
async fn other_process_is_named_and_never_terminated() {
    let database = Postgres::shared().await.database().await;
    let (holder, mut holder_word) = lock_task(&database, Uuid::new_v4());
    let mut holder = Box::pin(holder);
    poll_until(&mut holder, &mut holder_word, |word| *word == Leadership::Held).await;
    let (standby, mut word) = lock_task(&database, Uuid::new_v4());
    let mut standby = Box::pin(standby);
    poll_until(&mut standby, &mut word, |word| word.holder().is_some()).await;
    let named = word.borrow().holder().unwrap().to_string();
    assert!(named.contains("centiloc-bridge") && named.contains("127.0.0.1"), "{named}");
    drop(holder);
    poll_until(&mut standby, &mut word, |word| *word == Leadership::Held).await;
}

/// Records the bytes that the client sends.
#[derive(Default)]
struct SentBytes(Mutex<Vec<u8>>);

impl TrafficObserver for SentBytes {
    fn bytes<'a>(
        &'a self,
        _connection: u64,
        direction: Direction,
        bytes: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if direction == Direction::Up {
                self.0.lock().unwrap().extend_from_slice(bytes);
            }
        })
    }
}

/// No host can be cut off on loopback, so this test checks the settings that the server is asked to
/// use.
#[tokio::test]
async fn server_keepalives_detect_lost_host_in_25_seconds() {
    let postgres = Postgres::shared().await;
    let sent = Arc::new(SentBytes::default());
    let observer: Arc<dyn TrafficObserver> = Arc::<SentBytes>::clone(&sent);
    let proxy = TcpProxy::observed(postgres.port(), Some(observer)).await;
    let database = postgres.database().await;
    let (holder, mut word) = lock_task_at(&database.url_at(proxy.port()), Uuid::new_v4());
    poll_until(&mut Box::pin(holder), &mut word, |word| *word == Leadership::Held).await;
    let sent = String::from_utf8_lossy(&sent.0.lock().unwrap()).into_owned();
    for (name, value) in [
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "25000"),
    ] {
        let wanted = format!("set_config(E'{name}', E'{value}', false)");
        assert!(sent.contains(&wanted), "{name}");
    }
}

/// A foreign client with the client id, which reconnects whenever it is disconnected.
async fn intruder(port: u16) {
    let mut options = MqttOptions::new(CLIENT_ID, "127.0.0.1", port);
    options.set_credentials(USERNAME, PASSWORD).set_clean_session(false);
    options.set_keep_alive(Duration::from_secs(30));
    loop {
        let (_client, mut events): (AsyncClient, EventLoop) = AsyncClient::new(options.clone(), 10);
        while events.poll().await.is_ok() {}
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn foreign_client_with_same_id_is_waited_out() {
    let (broker, database) = services().await;
    let config = Config::new(&broker, &database).set("mqtt.reconnect.max", "2s");
    let mut bridge = Bridge::ready(&config).await;
    {
        let intruder = intruder(broker.plain_port());
        let noticed =
            bridge.until_logged(&["reason=\"takeover\"", "acme-bridge", "retry_in=\"2.0s\""]);
        tokio::select! {
            () = intruder => unreachable!("it never gives up"),
            line = noticed => assert!(line.contains("stop the other client"), "{line}"),
        }
    }
    bridge.until_ready().await;
    let platform = TestPublisher::connect(&broker).await;
    platform.publish_json(&ItemEvent::series(TENANT, 10)).await;
    until_rows(&database, 10).await;
}
