//! Credentials change while the service runs. Valid ones are adopted and invalid ones rejected, and
//! no event is lost or stored twice.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::bridge::Bridge;
use crate::support::certs::{CertificateValidity, CertifiedKey};
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, PASSWORD, TENANT};
use crate::support::postgres::Postgres;
use crate::support::publisher::TestPublisher;
use crate::support::scripted_broker::{BridgePacket, ScriptedBroker};
use crate::support::wait::{SOON, until, until_eq};

const ACCEPTED: &str = "the broker accepted the connection";
/// Number of events published during the renewal.
const EVENTS: usize = 6_000;
const RENEWED: &str = "reconnecting with renewed credentials";

async fn services() -> (Mosquitto, Database) {
    tokio::join!(Mosquitto::start(), async { Postgres::shared().await.database().await })
}

async fn until_rows(database: &Database, rows: usize) {
    let rows = i64::try_from(rows).unwrap();
    until_eq("every event in a row", SOON, rows, || database.count("centiloc.item_event")).await;
}

/// Replaces a file by renaming another over it, as a careful administrator does.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn replace_pair(config: &Config, identity: &CertifiedKey) {
    replace(&config.folder().join("client.crt"), &identity.cert);
    replace(&config.folder().join("client.key"), &identity.key_sec1);
}

async fn status(bridge: &Bridge) -> Value {
    let (_, text) = bridge.get("/api/status").await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Waits until the status has a text at this place that contains `part`.
async fn until_status(bridge: &Bridge, place: &str, part: &str) {
    until(&format!("{part:?} at {place}"), SOON, || async {
        let status = status(bridge).await;
        let text = status.pointer(place).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text.contains(part) && !text.is_empty() { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

async fn until_no_status(bridge: &Bridge, place: &str) {
    until(&format!("nothing at {place}"), SOON, || async {
        let status = status(bridge).await;
        let value = status.pointer(place).cloned().unwrap_or_default();
        if value.is_null() { Ok(()) } else { Err(value) }
    })
    .await;
}

async fn days_left(bridge: &Bridge) -> f64 {
    bridge.metric("centiloc_bridge_certificate_expiry_seconds", "").await.unwrap() / 86_400.0
}

#[tokio::test]
async fn renewal_under_load_loses_and_doubles_nothing() {
    let (broker, database) = services().await;
    let config = Config::new(&broker, &database);
    let bridge = Bridge::ready(&config).await;
    assert!(days_left(&bridge).await > 300.0);

    let events = ItemEvent::series(TENANT, EVENTS);
    let platform = TestPublisher::connect(&broker).await;
    let load = async {
        // Published in portions, so that the load lasts until well after the second renewal.
        let portions = events.chunks(EVENTS / 60);
        for portion in portions {
            platform.publish_json(portion).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let renewals = async {
        let soon = broker.authority().client_valid(TENANT, CertificateValidity::Days(100));
        replace_pair(&config, &soon);
        until_eq("the first renewal", SOON, 1, || async { bridge.log().count(RENEWED) }).await;
        let later = broker.authority().client_valid(TENANT, CertificateValidity::Days(200));
        // Overwritten in place, one after the other, as a careless script does.
        config.file("client.crt", &later.cert);
        tokio::time::sleep(Duration::from_millis(500)).await;
        config.file("client.key", &later.key_sec1);
        until_eq("the second renewal", SOON, 2, || async { bridge.log().count(RENEWED) }).await;
    };
    tokio::join!(load, renewals);
    until_rows(&database, EVENTS).await;
    let twice = "(select event_id from centiloc.item_event group by 1 having count(*) > 1) t";
    assert_eq!(database.count(twice).await, 0);
    assert_eq!(database.count("centiloc.gap").await, 0, "the session was kept");
    let kept = "centiloc.connection where session_present";
    assert_eq!(database.count(kept).await, 2);
    assert_eq!(bridge.log().count(ACCEPTED), 3);
    let left = days_left(&bridge).await;
    assert!((198.0..201.0).contains(&left), "{left}");
    assert_eq!(database.count("centiloc.dead_letter").await, 0);
}

#[tokio::test]
async fn invalid_credential_files_are_reported_and_never_used() {
    let (mut broker, database) = services().await;
    let config = Config::new(&broker, &database);
    let mut bridge = Bridge::ready(&config).await;
    let place = "/credentials/problem";

    replace_pair(&config, &broker.authority().client("other"));
    until_status(&bridge, place, "not the tenant \"acme\"").await;
    bridge.until_logged(&["files are invalid; the earlier credentials stay in use"]).await;
    replace_pair(&config, &broker.authority().client_valid(TENANT, CertificateValidity::Expired));
    until_status(&bridge, place, "expired on").await;
    config.file("client.key", "no key");
    until_status(&bridge, place, "mqtt.tls.key_file").await;
    std::fs::remove_file(config.folder().join("client.crt")).unwrap();
    until_status(&bridge, place, "client.crt").await;
    assert_eq!(bridge.log().count(ACCEPTED), 1, "nothing disturbed the session");

    // The old credentials are in memory, so connecting works although the files are unusable.
    broker.stop().await;
    broker.start_again().await;
    bridge.until_ready().await;
    until_eq("the next connection", SOON, 2, || async { bridge.log().count(ACCEPTED) }).await;

    replace_pair(&config, &broker.authority().client(TENANT));
    until_no_status(&bridge, place).await;
    until_eq("the renewal", SOON, 1, || async { bridge.log().count(RENEWED) }).await;
    bridge.until_ready().await;
}

#[tokio::test]
async fn refused_new_password_falls_back_to_old() {
    let (broker, database) = services().await;
    let config = Config::new(&broker, &database).without("mqtt.password");
    let file = config.file("mqtt.password", PASSWORD);
    let config = config.set("mqtt.password_file", file.to_str().unwrap());
    let mut bridge = Bridge::ready(&config).await;
    replace(&file, "mistyped\n");
    bridge
        .until_logged(&["the broker refused the renewed credentials; using the earlier ones"])
        .await;
    until_status(&bridge, "/credentials/refused", "check mqtt.username, the password").await;
    bridge.until_ready().await;
    let platform = TestPublisher::connect(&broker).await;
    platform.publish_json(&ItemEvent::series(TENANT, 10)).await;
    until_rows(&database, 10).await;
    // The corrected file is adopted.
    replace(&file, &format!("{PASSWORD}\n"));
    until_no_status(&bridge, "/credentials/refused").await;
    until_eq("two renewals", SOON, 2, || async { bridge.log().count(RENEWED) }).await;
    bridge.until_ready().await;
}

#[tokio::test]
async fn renewed_credentials_without_subscription_fall_back() {
    let (broker, database) = services().await;
    let peer = ScriptedBroker::listen().await;
    let config = Config::new(&broker, &database).plain(peer.port()).without("mqtt.password");
    let file = config.file("mqtt.password", "early");
    let config = config.set("mqtt.password_file", file.to_str().unwrap());
    let mut bridge = Bridge::start(&config);
    let first = peer.subscribed(false).await;
    assert_eq!(first.connect().password.as_deref(), Some("early"));
    bridge.until_ready().await;
    replace(&file, "late");
    assert_eq!(first.until_closed().await, [BridgePacket::Disconnect]);
    // These credentials can connect but not subscribe, so no event would arrive.
    let mut renewed = peer.accept().await;
    assert_eq!(renewed.connect().password.as_deref(), Some("late"));
    renewed.connack(true, 0).await;
    renewed.grant_all(0x80).await;
    renewed.until_closed().await;
    let earlier = peer.subscribed(true).await;
    assert_eq!(earlier.connect().password.as_deref(), Some("early"), "not those that work");
    bridge
        .until_logged(&["the broker refused the renewed credentials; using the earlier ones"])
        .await;
    until_status(&bridge, "/credentials/refused", "refuses the subscription to").await;
    bridge.until_ready().await;
    // Credentials that may subscribe are adopted.
    replace(&file, "later");
    assert_eq!(earlier.until_closed().await, [BridgePacket::Disconnect]);
    let latest = peer.subscribed(true).await;
    assert_eq!(latest.connect().password.as_deref(), Some("later"));
    until_no_status(&bridge, "/credentials/refused").await;
    bridge.until_ready().await;
}

/// Creates a folder as Kubernetes mounts a secret. The files are links through `..data`, itself a
/// link to a folder that is never changed.
struct SecretMount {
    folder: PathBuf,
}

impl SecretMount {
    fn new(config: &Config, identity: &CertifiedKey) -> Self {
        let folder = config.folder().join("secret");
        std::fs::create_dir(&folder).unwrap();
        let mount = Self { folder };
        mount.update("..1", identity);
        for name in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), mount.folder.join(name)).unwrap();
        }
        mount
    }

    fn update(&self, version: &str, identity: &CertifiedKey) {
        let folder = self.folder.join(version);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("tls.crt"), &identity.cert).unwrap();
        std::fs::write(folder.join("tls.key"), &identity.key_sec1).unwrap();
        symlink(version, self.folder.join("..data_tmp")).unwrap();
        std::fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn kubernetes_secret_swap_is_detected() {
    let (broker, database) = services().await;
    let config = Config::new(&broker, &database);
    let mount = SecretMount::new(&config, broker.client());
    let config = config
        .set("mqtt.tls.cert_file", mount.path("tls.crt"))
        .set("mqtt.tls.key_file", mount.path("tls.key"));
    let mut bridge = Bridge::ready(&config).await;
    mount.update("..2", &broker.authority().client_valid(TENANT, CertificateValidity::Days(20)));
    until_eq("the renewal", SOON, 1, || async { bridge.log().count(RENEWED) }).await;
    bridge.until_ready().await;
    // The certificate expires soon, which is reported with the remedy.
    let line = bridge.until_logged(&["the client certificate expires soon"]).await;
    let command = format!("centiloc-bridge csr --key {} --tenant acme", mount.path("tls.key"));
    assert!(line.contains(&command), "{line}");
    until_status(&bridge, "/credentials/renewal", "expires in 19 days").await;
}

#[tokio::test]
async fn expired_certificate_retries_slowly_until_renewed() {
    let (broker, database) = services().await;
    let config = Config::new(&broker, &database).set("mqtt.reconnect.max", "1h");
    replace_pair(&config, &broker.authority().client_valid(TENANT, CertificateValidity::Expired));
    let mut bridge = Bridge::start(&config);
    bridge.until_logged(&["the client certificate has expired", "centiloc-bridge csr --key"]).await;
    let line = bridge.until_logged(&["broker connection failed", "expired on"]).await;
    assert!(line.contains("retry_in=\"3600.0s\""), "{line}");
    replace_pair(&config, broker.client());
    bridge.until_ready().await;
}
