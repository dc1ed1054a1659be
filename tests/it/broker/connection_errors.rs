//! Every connection error, one at a time. The bridge names it, counts it under its label, keeps
//! running, and connects once the cause is removed.

use crate::support::bridge::Bridge;
use crate::support::certs::{CertificateAuthority, CertificateValidity};
use crate::support::config::Config;
use crate::support::connect_proxy::ConnectProxy;
use crate::support::database::Database;
use crate::support::expect::{until_failing, until_reconnects, until_recovered};
use crate::support::mosquitto::{Mosquitto, PASSWORD, TENANT, USERNAME};
use crate::support::postgres::Postgres;
use crate::support::process::free_port;
use crate::support::proxy::TcpProxy;
use crate::support::scripted_broker::ScriptedBroker;

async fn database() -> Database {
    Postgres::shared().await.database().await
}

/// Returns a configuration whose client certificate is in files of the test's own, to be replaced
/// later.
fn with_own_files(config: Config, cert: &str, key: &str) -> Config {
    let cert = config.file("own.crt", cert);
    let key = config.file("own.key", key);
    config
        .set("mqtt.tls.cert_file", cert.to_str().unwrap())
        .set("mqtt.tls.key_file", key.to_str().unwrap())
}

#[tokio::test]
async fn wrong_ca_is_reported_until_replaced() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let config = Config::new(&broker, &database);
    let ca = config.file("ca.pem", CertificateAuthority::new("Another CA").pem());
    let config = config.set("mqtt.tls.ca_file", ca.to_str().unwrap());
    let mut bridge = Bridge::start(&config);
    until_failing(&mut bridge, "tls_trust", &["ERROR", "ca.pem"]).await;
    config.file("ca.pem", broker.authority().pem());
    until_recovered(&mut bridge, &broker, &database).await;
}

/// Starts with one client certificate, expects its refusal, and replaces it.
async fn client_certificate_refused(
    version: &str,
    wrong: impl Fn(&Mosquitto) -> (String, String),
    said: &[&str],
) {
    let broker = Mosquitto::builder().tls_version(version).start().await;
    let database = database().await;
    let (cert, key) = wrong(&broker);
    let config = with_own_files(Config::new(&broker, &database), &cert, &key);
    let mut bridge = Bridge::start(&config);
    until_failing(&mut bridge, "tls_client_certificate", said).await;
    let right = broker.authority().client(TENANT);
    config.file("own.key", &right.key_sec1);
    config.file("own.crt", &right.cert);
    until_recovered(&mut bridge, &broker, &database).await;
}

fn of_another_authority(_: &Mosquitto) -> (String, String) {
    let identity = CertificateAuthority::new("Another CA").client(TENANT);
    (identity.cert, identity.key_sec1)
}

fn expired(broker: &Mosquitto) -> (String, String) {
    let identity = broker.authority().client_valid(TENANT, CertificateValidity::Expired);
    (identity.cert, identity.key_sec1)
}

#[tokio::test]
async fn foreign_client_certificate_is_reported_with_tls12() {
    let said = ["ERROR", "refused the client certificate", "unknown_ca"];
    client_certificate_refused("TLSv1.2", of_another_authority, &said).await;
}

#[tokio::test]
async fn foreign_client_certificate_is_reported_with_tls13() {
    let said = ["ERROR", "refused the client certificate", "unknown_ca"];
    client_certificate_refused("TLSv1.3", of_another_authority, &said).await;
}

#[tokio::test]
async fn expired_client_certificate_is_reported_with_tls12() {
    let said = ["ERROR", "refused the client certificate", "expired"];
    client_certificate_refused("TLSv1.2", expired, &said).await;
}

#[tokio::test]
async fn expired_client_certificate_is_reported_with_tls13() {
    let said = ["ERROR", "refused the client certificate", "expired"];
    client_certificate_refused("TLSv1.3", expired, &said).await;
}

#[tokio::test]
async fn missing_certificate_file_is_reported_until_it_exists() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let config = with_own_files(Config::new(&broker, &database), "", &broker.client().key_sec1);
    let file = config.folder().join("own.crt");
    std::fs::remove_file(&file).unwrap();
    let mut bridge = Bridge::start(&config);
    until_failing(&mut bridge, "tls_files", &["ERROR", "own.crt", "mqtt.tls.cert_file"]).await;
    config.file("own.crt", &broker.client().cert);
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn wrong_password_is_reported_without_showing_it() {
    let (mut broker, database) = (Mosquitto::start().await, database().await);
    let config = Config::new(&broker, &database).set("mqtt.password", "not-the-password");
    let mut bridge = Bridge::start(&config);
    let said = ["ERROR", "check mqtt.username, the password"];
    until_failing(&mut bridge, "not_authorized", &said).await;
    broker.set_password(USERNAME, "not-the-password").await;
    until_recovered(&mut bridge, &broker, &database).await;
    assert_eq!(bridge.log().count("not-the-password"), 0, "the log shows the password");
}

#[tokio::test]
async fn unknown_user_is_reported_until_broker_knows_it() {
    let (mut broker, database) = (Mosquitto::start().await, database().await);
    let config = Config::new(&broker, &database).set("mqtt.username", "nobody");
    let mut bridge = Bridge::start(&config);
    until_failing(&mut bridge, "not_authorized", &["ERROR", "mqtt.username"]).await;
    broker.set_password("nobody", PASSWORD).await;
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn unresolvable_host_is_reported_and_retried() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let config = Config::new(&broker, &database).set("mqtt.host", "broker.invalid");
    let mut bridge = Bridge::start(&config);
    until_failing(&mut bridge, "dns", &["WARN", "broker.invalid", "DNS"]).await;
    until_reconnects(&bridge, "dns", 3).await;
    bridge.assert_running();
}

#[tokio::test]
async fn refused_port_is_reported_and_retried() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let proxy = TcpProxy::to(broker.port()).await;
    proxy.refuse().await;
    let config = Config::new(&broker, &database).set("mqtt.port", i64::from(proxy.port()));
    let mut bridge = Bridge::start(&config);
    until_failing(&mut bridge, "tcp_refused", &["WARN", &proxy.port().to_string()]).await;
    proxy.pass().await;
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn silent_peer_is_left_after_connect_timeout() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let proxy = TcpProxy::to(broker.port()).await;
    proxy.stall_both().await;
    let config = Config::new(&broker, &database)
        .set("mqtt.port", i64::from(proxy.port()))
        .set("mqtt.connect_timeout", "1s");
    let mut bridge = Bridge::start(&config);
    until_failing(&mut bridge, "timeout", &["WARN", "within 1 s", "mqtt.connect_timeout"]).await;
    proxy.pass().await;
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn server_certificate_for_other_name_is_refused() {
    let names = ["mqtt.elsewhere.example"];
    let mut broker = Mosquitto::builder().server_names(&names).start().await;
    let database = database().await;
    let mut bridge = Bridge::start(&Config::new(&broker, &database));
    let said = ["ERROR", "mqtt.elsewhere.example", "mqtt.tls.server_name"];
    until_failing(&mut bridge, "tls_name", &said).await;
    broker.replace_certificate(&broker.authority().server());
    broker.stop().await;
    broker.start_again().await;
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn every_connack_refusal_has_its_own_reason() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let peer = ScriptedBroker::listen().await;
    let config = Config::new(&broker, &database).plain(peer.port());
    let mut bridge = Bridge::start(&config);
    for (code, reason, said) in [
        (1, "protocol_version", ["ERROR", "MQTT 3.1.1"]),
        (2, "identifier_rejected", ["ERROR", "acme-bridge"]),
        (3, "server_unavailable", ["WARN", "unavailable"]),
        (4, "bad_credentials", ["ERROR", "mqtt.password_file"]),
        (5, "not_authorized", ["ERROR", "acme"]),
    ] {
        let mut conversation = peer.accept().await;
        assert_eq!(conversation.connect().client_id, "acme-bridge");
        assert!(!conversation.connect().clean_session, "the session is not durable");
        conversation.connack(false, code).await;
        until_failing(&mut bridge, reason, &said).await;
    }
    let _conversation = peer.subscribed(false).await;
    bridge.until_ready().await;
}

#[tokio::test]
async fn proxy_without_credentials_is_reported_until_open() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let proxy = ConnectProxy::with_credentials("user", "secret").await;
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let mut bridge = Bridge::start(&Config::new(&broker, &database).set("mqtt.proxy", url));
    until_failing(&mut bridge, "proxy_refused", &["ERROR", "407", "asks for credentials"]).await;
    proxy.let_everybody_pass();
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn wrong_proxy_credentials_are_reported_without_showing_them() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let proxy = ConnectProxy::with_credentials("user", "secret").await;
    let url = format!("http://user:wr0ng@127.0.0.1:{}", proxy.port());
    let mut bridge = Bridge::start(&Config::new(&broker, &database).set("mqtt.proxy", url));
    let said = ["ERROR", "407", "does not accept the user and password in mqtt.proxy"];
    until_failing(&mut bridge, "proxy_refused", &said).await;
    assert_eq!(bridge.log().count("wr0ng"), 0, "the log shows the proxy's password");
}

#[tokio::test]
async fn proxy_that_cannot_reach_broker_is_reported() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let (proxy, link) = (ConnectProxy::open().await, TcpProxy::to(broker.port()).await);
    link.refuse().await;
    let config = Config::new(&broker, &database)
        .set("mqtt.port", i64::from(link.port()))
        .set("mqtt.proxy", format!("http://127.0.0.1:{}", proxy.port()));
    let mut bridge = Bridge::start(&config);
    until_failing(&mut bridge, "proxy", &["502"]).await;
    link.pass().await;
    until_recovered(&mut bridge, &broker, &database).await;
}

#[tokio::test]
async fn absent_proxy_is_distinguished_from_absent_broker() {
    let (broker, database) = (Mosquitto::start().await, database().await);
    let url = format!("http://127.0.0.1:{}", free_port());
    let mut bridge = Bridge::start(&Config::new(&broker, &database).set("mqtt.proxy", url));
    until_failing(&mut bridge, "proxy", &["mqtt.proxy"]).await;
}
