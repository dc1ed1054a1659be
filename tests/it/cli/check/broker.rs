//! Faults between the machine and the broker, and in the subscriptions that it grants.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{CheckFixture, FAILED, FaultCase, OK, assert_table, check, good};
use crate::support::certs::CertificateAuthority;
use crate::support::connect_proxy::ConnectProxy;
use crate::support::mosquitto::{Mosquitto, PLATFORM, USERNAME};
use crate::support::postgres::Postgres;
use crate::support::process::{ScratchFolder, background, free_port, loopback};
use crate::support::proxy::{Direction, TcpProxy};

#[tokio::test]
async fn each_broker_fault_is_reported_at_its_step() {
    let fixture = CheckFixture::new().await;
    let config = || fixture.config();
    let (nobody, plain) = (i64::from(free_port()), i64::from(fixture.broker.plain_port()));
    let other = CertificateAuthority::new("Another Root");
    let folder = ScratchFolder::new("other-ca");
    let other = folder.write("other-ca.pem", other.pem());
    assert_table(vec![
        FaultCase {
            what: "host name that does not exist",
            config: config().set("mqtt.host", "no-such-host.invalid"),
            lines: &[("broker_name", FAILED, "no-such-host.invalid")],
        },
        FaultCase {
            what: "port on which nothing listens",
            config: config().set("mqtt.port", nobody),
            lines: &[("broker_tcp", FAILED, "refused the TCP connection")],
        },
        FaultCase {
            what: "port without TLS",
            config: config().set("mqtt.port", plain),
            lines: &[("broker_tls", FAILED, "")],
        },
        FaultCase {
            what: "certificate of an unknown authority",
            config: config().set("mqtt.tls.ca_file", other.to_str().unwrap()),
            lines: &[("broker_tls", FAILED, "(it presented certificate CN = broker for localhost")],
        },
        FaultCase {
            what: "certificate for another name",
            config: config().set("mqtt.tls.server_name", "broker.example.com"),
            lines: &[("broker_tls", FAILED, "is not for \"broker.example.com\" but for localhost")],
        },
        FaultCase {
            what: "wrong password",
            config: config().set("mqtt.password", "wrong"),
            lines: &[("broker_login", FAILED, "does not authorize this connection")],
        },
        FaultCase {
            what: "no user name and no password",
            config: config().without("mqtt.username").without("mqtt.password"),
            lines: &[("broker_login", FAILED, "does not authorize this connection")],
        },
    ])
    .await;
}

#[tokio::test]
async fn both_tls_versions_are_reported() {
    let database = Postgres::shared().await.database().await;
    for (line, version) in [("TLSv1.2", "TLS 1.2, "), ("TLSv1.3", "TLS 1.3, ")] {
        let broker = Mosquitto::builder().tls_version(line).start().await;
        let outcome = check(&good(&broker, &database)).await;
        assert!(outcome.ok("broker_tls").starts_with(version), "{outcome:#?}");
    }
}

#[tokio::test]
async fn untrusted_client_certificate_fails_in_both_tls_versions() {
    let database = Postgres::shared().await.database().await;
    let stranger = CertificateAuthority::new("Test Root CA").client("acme");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let broker = Mosquitto::builder().tls_version(version).start().await;
        let config = good(&broker, &database);
        let (cert, key) = stranger.write(config.folder(), "stranger");
        let config = config
            .set("mqtt.tls.cert_file", cert.to_str().unwrap())
            .set("mqtt.tls.key_file", key.to_str().unwrap());
        let outcome = check(&config).await;
        assert_eq!(outcome.troubles(), [("broker_login", FAILED)], "{version}: {outcome:#?}");
        assert_eq!(outcome.lines("broker_tls")[0].0, OK, "the broker itself is as it should be");
        assert_eq!(outcome.not_checked(), ["subscription"]);
    }
}

#[tokio::test]
async fn every_connack_refusal_is_explained() {
    let fixture = CheckFixture::new().await;
    let refusals = [
        (1, "does not speak MQTT 3.1.1"),
        (2, "refused the client id \"acme-check-"),
        (3, "its service is unavailable"),
        (4, "refused the user name or password"),
        (5, "does not authorize this connection"),
    ];
    for (code, words) in refusals {
        let listener = TcpListener::bind(loopback(0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = background().spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut connect = [0; 1024];
                if stream.read(&mut connect).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(&[0x20, 2, 0, code]).await;
                    let _ = stream.read(&mut connect).await;
                }
            }
        });
        let outcome = check(&fixture.config().plain(port)).await;
        let (status, found) = outcome.lines("broker_login")[0];
        assert_eq!(status, FAILED, "{outcome:#?}");
        assert!(found.contains(words), "{code}: {found}");
        answering.abort();
    }
}

#[tokio::test]
async fn silent_broker_is_bounded_and_hides_no_check() {
    let fixture = CheckFixture::new().await;
    let proxy = TcpProxy::to(fixture.broker.port()).await;
    proxy.stall(Direction::Down).await;
    let config = fixture.config().set("mqtt.port", i64::from(proxy.port()));
    let started = Instant::now();
    let outcome = check(&config.set("mqtt.connect_timeout", "2s")).await;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(outcome.troubles(), [("broker_tls", FAILED)]);
    assert!(outcome.lines("broker_tls")[0].1.contains("within 2 s"), "{outcome:#?}");
    assert_eq!(outcome.lines("broker_tcp")[0].0, OK);
    assert_eq!(outcome.lines("database_rights")[0].0, OK);
    assert_eq!(outcome.not_checked(), ["broker_login", "subscription"]);
}

#[tokio::test]
async fn http_proxy_is_checked_step_by_step() {
    let fixture = CheckFixture::new().await;
    let open = ConnectProxy::open().await;
    let through =
        |port: u16| fixture.config().set("mqtt.proxy", format!("http://127.0.0.1:{port}"));
    let outcome = check(&through(open.port())).await;
    assert_eq!(outcome.troubles(), [], "{outcome:#?}");
    assert!(outcome.ok("broker_name").starts_with("the proxy 127.0.0.1"));
    assert!(outcome.ok("broker_proxy").contains("allows CONNECT"));
    let closed = ConnectProxy::with_credentials("user", "secret").await;
    let rows = vec![
        FaultCase {
            what: "HTTP proxy that asks for credentials",
            config: through(closed.port()),
            lines: &[("broker_proxy", FAILED, "HTTP status 407")],
        },
        FaultCase {
            what: "HTTP proxy that does not run",
            config: through(free_port()),
            lines: &[("broker_tcp", FAILED, "refused the TCP connection")],
        },
    ];
    assert_table(rows).await;
}

/// Lets the tenant subscribe to item events alone.
fn items_alone() -> Value {
    let allow = |kind: &str, topic: &str| json!({"acltype": kind, "topic": topic, "priority": 0, "allow": true});
    json!({
        "defaultACLAccess": {
            "publishClientSend": false, "publishClientReceive": false,
            "subscribe": false, "unsubscribe": true,
        },
        "clients": [
            {"username": USERNAME, "roles": [{"rolename": "tenant"}]},
            {"username": PLATFORM, "roles": [{"rolename": "platform"}]},
        ],
        "roles": [
            {"rolename": "tenant", "acls": [
                allow("subscribeLiteral", "centiloc/acme"),
                allow("subscribePattern", "centiloc/acme/json/item/#"),
                allow("publishClientReceive", "#"),
            ]},
            {"rolename": "platform", "acls": [allow("publishClientSend", "#")]},
        ],
    })
}

#[tokio::test]
async fn refused_filters_are_reported_individually() {
    let database = Postgres::shared().await.database().await;
    let broker = Mosquitto::builder().rights(&items_alone()).start().await;
    let outcome = check(&good(&broker, &database)).await;
    let lines = outcome.lines("subscription");
    let statuses: Vec<_> = lines.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [OK, OK, FAILED, FAILED], "{outcome:#?}");
    assert_eq!(lines[0].1, "centiloc/acme is granted at QoS 1");
    assert!(lines[2].1.contains("refuses the subscription to centiloc/acme/proto/board/v1/update"));
}

#[tokio::test]
async fn qos0_grant_fails_for_each_filter() {
    let database = Postgres::shared().await.database().await;
    let broker = Mosquitto::builder().tls_line("max_qos 0").start().await;
    let outcome = check(&good(&broker, &database)).await;
    assert_eq!(outcome.troubles(), [("subscription", FAILED); 4], "{outcome:#?}");
    assert!(outcome.lines("subscription")[0].1.contains("grants only QoS 0 for centiloc/acme"));
}
