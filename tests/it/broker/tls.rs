//! Mutual TLS with every kind of key and both versions of TLS, and connections through an HTTP
//! proxy.

use std::process::Command;

use crate::support::bridge::Bridge;
use crate::support::certs::CertifiedKey;
use crate::support::config::Config;
use crate::support::connect_proxy::ConnectProxy;
use crate::support::expect::pass_through;
use crate::support::mosquitto::{Mosquitto, PASSWORD, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::ScratchFolder;

/// The keys as `BEGIN EC PRIVATE KEY` and `BEGIN PRIVATE KEY`, each on P-256 and P-384.
fn identities(broker: &Mosquitto) -> Vec<(&'static str, CertifiedKey, bool)> {
    let p256 = broker.client().clone();
    let p384 = broker.authority().client_p384(TENANT);
    vec![
        ("P-256, SEC1", p256.clone(), false),
        ("P-256, PKCS#8", p256, true),
        ("P-384, SEC1", p384.clone(), false),
        ("P-384, PKCS#8", p384, true),
    ]
}

fn with_identity(config: Config, identity: &CertifiedKey, pkcs8: bool) -> Config {
    let cert = config.file("own.crt", &identity.cert);
    let key = if pkcs8 { &identity.key_pkcs8 } else { &identity.key_sec1 };
    let key = config.file("own.key", key);
    config
        .set("mqtt.tls.cert_file", cert.to_str().unwrap())
        .set("mqtt.tls.key_file", key.to_str().unwrap())
}

/// True if the broker completes a handshake of this version with its tenant.
fn speaks(broker: &Mosquitto, version: &str) -> bool {
    let folder = ScratchFolder::new("s_client");
    let (cert, key) = broker.client().write(&folder, "client");
    let output = Command::new("openssl")
        .args(["s_client", version, "-brief", "-connect", &format!("127.0.0.1:{}", broker.port())])
        .args(["-cert".as_ref(), cert.as_os_str(), "-key".as_ref(), key.as_os_str()])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).contains("CONNECTION ESTABLISHED")
}

async fn every_key_connects(version: &str) {
    let broker = Mosquitto::builder().tls_version(version).start().await;
    assert_eq!(speaks(&broker, "-tls1_2"), version == "TLSv1.2");
    assert_eq!(speaks(&broker, "-tls1_3"), version == "TLSv1.3");
    for (name, identity, pkcs8) in identities(&broker) {
        let database = Postgres::shared().await.database().await;
        let config = with_identity(Config::new(&broker, &database), &identity, pkcs8);
        let mut bridge = Bridge::ready(&config).await;
        pass_through(&broker, &database, 1).await;
        assert_eq!(bridge.terminate().await, 0, "{name}");
    }
}

#[tokio::test]
async fn every_key_kind_connects_over_tls12() {
    every_key_connects("TLSv1.2").await;
}

#[tokio::test]
async fn every_key_kind_connects_over_tls13() {
    every_key_connects("TLSv1.3").await;
}

#[tokio::test]
async fn version_1_certificate_is_accepted_with_warning() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let identity = broker.authority().client_v1(TENANT);
    let config = with_identity(Config::new(&broker, &database), &identity, false);
    let bridge = Bridge::ready(&config).await;
    bridge.until_logged(&["WARN", "own.crt", "version 1"]).await;
    pass_through(&broker, &database, 1).await;
}

#[tokio::test]
async fn certificate_of_another_tenant_gets_warning() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let identity = broker.authority().client("other");
    let config = with_identity(Config::new(&broker, &database), &identity, false);
    let bridge = Bridge::ready(&config).await;
    bridge.until_logged(&["WARN", "own.crt", "its common name is", "other", TENANT]).await;
    pass_through(&broker, &database, 1).await;
}

/// Encodes text as Windows PowerShell writes it.
fn utf16(text: &str) -> Vec<u8> {
    let text = text.replace('\n', "\r\n");
    [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
}

/// Encodes text as Windows Notepad writes it.
fn marked(text: &str) -> Vec<u8> {
    format!("\u{feff}{}", text.replace('\n', "\r\n")).into_bytes()
}

#[tokio::test]
async fn files_saved_on_windows_are_accepted() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    for save in [utf16 as fn(&str) -> Vec<u8>, marked] {
        let identity = broker.client();
        let mut config = Config::new(&broker, &database).without("mqtt.password");
        config = config.without("database.url");
        let files: [(&str, &str); 5] = [
            ("mqtt.tls.ca_file", &broker.authority().pem()),
            ("mqtt.tls.cert_file", &identity.cert),
            ("mqtt.tls.key_file", &identity.key_sec1),
            ("mqtt.password_file", &format!("{PASSWORD}\n")),
            ("database.url_file", &format!("{}\n", database.url())),
        ];
        for (key, text) in files {
            let path = config.file(key, save(text));
            config = config.set(key, path.to_str().unwrap());
        }
        let mut bridge = Bridge::ready(&config).await;
        pass_through(&broker, &database, 1).await;
        assert_eq!(bridge.terminate().await, 0);
    }
}

#[tokio::test]
async fn broker_certificate_is_verified_against_server_name() {
    let names = ["mqtt.broker.example"];
    let broker = Mosquitto::builder().server_names(&names).start().await;
    let database = Postgres::shared().await.database().await;
    let config = Config::new(&broker, &database).set("mqtt.tls.server_name", names[0]);
    let _bridge = Bridge::ready(&config).await;
    pass_through(&broker, &database, 1).await;
}

#[tokio::test]
async fn session_passes_http_proxy_without_credentials() {
    let proxy = ConnectProxy::open().await;
    goes_through(&proxy, &format!("http://127.0.0.1:{}", proxy.port())).await;
}

#[tokio::test]
async fn session_passes_http_proxy_with_basic_credentials() {
    let proxy = ConnectProxy::with_credentials("ward 7", "p@ss:word/").await;
    let url = format!("http://ward%207:p%40ss%3Aword%2F@127.0.0.1:{}", proxy.port());
    goes_through(&proxy, &url).await;
}

/// Asserts that TLS is inside the tunnel, so that the proxy cannot read it.
async fn goes_through(proxy: &ConnectProxy, url: &str) {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config =
        Config::new(&broker, &database).set("mqtt.host", "localhost").set("mqtt.proxy", url);
    let mut bridge = Bridge::ready(&config).await;
    pass_through(&broker, &database, 10).await;
    assert_eq!(bridge.terminate().await, 0);
    assert_eq!(proxy.requests(), [format!("localhost:{}", broker.port())]);
}
