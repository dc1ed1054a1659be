//! Tests of each failure through the connector, against a real peer that misbehaves in that way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use rumqttc::StateError;

use super::*;
use crate::config::ProxyConfig;
use crate::race::{AttemptError, FailedAttempt};
use crate::session::credentials::tls::testing::{mqtt, serve};
use crate::session::credentials::tls::{LoadedTls, client_config};
use crate::session::transport::connector::NetworkConnector;
use crate::session::transport::mqtt::LoginOptions;

mod explanations;
mod server_certificate;
mod tls;

const CONNACK_ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];

/// Connects, reads until the connection fails, and explains the failure.
async fn fail(mqtt: &MqttConfig) -> ConnectionFailure {
    let tls = mqtt.tls.as_ref().map(|tls| client_config(tls).expect("a TLS configuration"));
    fail_with(mqtt, tls).await
}

async fn fail_with(mqtt: &MqttConfig, tls: Option<LoadedTls>) -> ConnectionFailure {
    let mut context = FailureContext::new("acme", mqtt, OffsetDateTime::now_utc());
    context.tls = tls.as_ref();
    let failure = tokio::time::timeout(Duration::from_secs(20), async {
        let connector = NetworkConnector::default();
        let login = LoginOptions { clean_session: false, max_packet_size: mqtt.max_packet_size };
        let mut accepted = match connector.open(mqtt, tls.as_ref(), login).await {
            Ok(accepted) => accepted,
            Err(error) => return context.explain_attempt(&error),
        };
        let since = Instant::now();
        loop {
            if let Err(error) = accepted.transport.read().await {
                return context.up_for(since.elapsed()).explain(&error);
            }
        }
    });
    let failure = failure.await.expect("the connection fails before the deadline");
    assert!(!failure.message.contains("hunter2"), "no secret in {failure}");
    assert!(!failure.message.contains("  "), "no stray spaces in {failure}");
    failure
}

fn expect(failure: &ConnectionFailure, kind: FailureKind, words: &[&str]) {
    assert_eq!(failure.kind, kind, "{failure}");
    for word in words {
        assert!(failure.message.contains(word), "{word:?} in {failure}");
    }
}

fn read_some(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 1024]);
}

/// Starts a peer that answers CONNECT with these bytes and then waits for the end. Returns its port.
fn answering(answer: &'static [u8]) -> u16 {
    serve(move |mut stream| {
        read_some(&mut stream);
        let _ = stream.write_all(answer);
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

#[tokio::test]
async fn unknown_name_is_a_dns_failure() {
    let failure = fail(&mqtt("broker.invalid", 8883, None)).await;
    expect(&failure, FailureKind::Dns, &["broker.invalid", "check mqtt.host"]);
}

#[tokio::test]
async fn closed_port_is_refused() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let failure = fail(&mqtt("127.0.0.1", port, None)).await;
    expect(&failure, FailureKind::TcpRefused, &["127.0.0.1", &port.to_string()]);
}

#[tokio::test]
async fn address_without_a_route_is_unreachable() {
    // Connecting to the broadcast address is not permitted on a stream socket.
    let failure = fail(&mqtt("255.255.255.255", 8883, None)).await;
    expect(&failure, FailureKind::TcpUnreachable, &["255.255.255.255", "mqtt.proxy"]);
}

#[tokio::test]
async fn silence_before_connack_is_a_timeout() {
    let mut mqtt = mqtt("127.0.0.1", answering(b""), None);
    mqtt.connect_timeout = Duration::from_secs(1);
    expect(&fail(&mqtt).await, FailureKind::Timeout, &["within 1 s", "mqtt.connect_timeout"]);
}

#[test]
fn unanswered_ping_is_a_lost_keep_alive() {
    let mqtt = mqtt("127.0.0.1", 1883, None);
    let context = FailureContext::new("acme", &mqtt, OffsetDateTime::now_utc());
    let failure = context.up_for(Duration::from_secs(9)).explain(&StateError::AwaitPingResp.into());
    expect(&failure, FailureKind::KeepAliveLost, &["keep alive of 1 s"]);
}

#[test]
fn unreachable_addresses_are_each_named() {
    let refused = || AttemptError::Io(std::io::ErrorKind::ConnectionRefused.into());
    let no_route = || AttemptError::Io(std::io::ErrorKind::NetworkUnreachable.into());
    let silent = || AttemptError::Unanswered(Duration::from_secs(30));
    let cases = [
        (refused(), refused(), FailureKind::TcpRefused, "mqtt.port"),
        (no_route(), refused(), FailureKind::TcpUnreachable, "mqtt.proxy"),
        (silent(), no_route(), FailureKind::Timeout, "10.0.0.1:8883 did not answer within 30.0 s"),
        (silent(), silent(), FailureKind::Timeout, "a firewall may drop"),
    ];
    let mqtt = mqtt("broker.example", 8883, None);
    let context = FailureContext::new("acme", &mqtt, OffsetDateTime::now_utc());
    for (first, second, kind, word) in cases {
        let attempt = |last, cause| {
            let address = SocketAddr::from(([10, 0, 0, last], 8883));
            FailedAttempt { address, cause }
        };
        let failed = vec![attempt(1, first), attempt(2, second)];
        let failure = context.explain_attempt(&ConnectError::Unreachable(failed));
        expect(&failure, kind, &["10.0.0.1:8883", "10.0.0.2:8883", word]);
    }
}

#[tokio::test]
async fn each_connack_code_has_its_own_kind() {
    let cases: [(&[u8], FailureKind, &str); 10] = [
        (&[0x20, 2, 0, 1], FailureKind::ProtocolVersion, "MQTT 3.1.1"),
        (&[0x20, 2, 0, 2], FailureKind::IdentifierRejected, "\"acme-bridge\""),
        (&[0x20, 2, 0, 3], FailureKind::ServerUnavailable, "unavailable"),
        (&[0x20, 2, 0, 4], FailureKind::BadCredentials, "mqtt.password_file"),
        (&[0x20, 2, 0, 5], FailureKind::NotAuthorized, "tenant \"acme\""),
        (&[0x20, 2, 0, 0x84], FailureKind::ProtocolVersion, "MQTT 3.1.1"),
        (&[0x20, 2, 0, 0x86], FailureKind::BadCredentials, "mqtt.username"),
        (&[0x20, 2, 0, 0x87], FailureKind::NotAuthorized, "subscription is active"),
        (&[0x20, 2, 0, 0x88], FailureKind::ServerUnavailable, "unavailable"),
        (&[0x20, 2, 0, 77], FailureKind::Protocol, "unknown code 77"),
    ];
    for (answer, kind, word) in cases {
        let failure = fail(&mqtt("127.0.0.1", answering(answer), None)).await;
        expect(&failure, kind, &[word]);
    }
}

#[tokio::test]
async fn missing_credentials_are_named_after_a_refusal() {
    let mut mqtt = mqtt("127.0.0.1", answering(&[0x20, 2, 0, 5]), None);
    mqtt.password = None;
    expect(&fail(&mqtt).await, FailureKind::NotAuthorized, &["no password is configured"]);
    mqtt.username = None;
    expect(&fail(&mqtt).await, FailureKind::NotAuthorized, &["Centiloc requires both"]);
}

#[tokio::test]
async fn closes_before_and_after_connack_are_distinguished() {
    let port = serve(|mut stream| read_some(&mut stream));
    let failure = fail(&mqtt("127.0.0.1", port, None)).await;
    expect(
        &failure,
        FailureKind::ClosedByBroker,
        &["before answering CONNECT", "TLS on this port"],
    );
    let port = serve(|mut stream| {
        read_some(&mut stream);
        let _ = stream.write_all(&CONNACK_ACCEPTED[..3]);
    });
    let failure = fail(&mqtt("127.0.0.1", port, None)).await;
    expect(&failure, FailureKind::ClosedByBroker, &["before answering CONNECT"]);
    let port = serve(|mut stream| {
        read_some(&mut stream);
        let _ = stream.write_all(&CONNACK_ACCEPTED);
    });
    let failure = fail(&mqtt("127.0.0.1", port, None)).await;
    expect(&failure, FailureKind::ClosedByBroker, &["another client may use", "acme-bridge"]);
}

#[tokio::test]
async fn forbidden_packets_are_protocol_failures() {
    let cases: [(&[u8], &str); 3] = [
        (&[0xd0, 0], "with CONNACK"),
        (
            b"HTTP/1.1 400 Bad Request\r\nServer: nginx/1.22.1\r\nContent-Type: text/html\r\n\
              Content-Length: 157\r\nConnection: close\r\n\r\n<html>",
            "name an MQTT broker",
        ),
        (&[0x20, 2, 0, 0, 0xc0, 0], "only clients send"),
    ];
    for (answer, word) in cases {
        let failure = fail(&mqtt("127.0.0.1", answering(answer), None)).await;
        expect(&failure, FailureKind::Protocol, &[word]);
    }
}

#[tokio::test]
async fn oversized_packet_names_the_limit_it_needs() {
    // PUBLISH with a remaining length of 2,000 bytes.
    let port = answering(&[0x20, 2, 0, 0, 0x32, 0xd0, 0x0f, 0, 1, b't', 0, 1]);
    let failure = fail(&mqtt("127.0.0.1", port, None)).await;
    expect(&failure, FailureKind::PacketTooLarge(2000), &["2000 bytes", "mqtt.max_packet_size"]);
}

fn behind_proxy(proxy_host: &str, proxy_port: u16) -> MqttConfig {
    let mut mqtt = mqtt("broker.example", 8883, None);
    mqtt.proxy =
        Some(ProxyConfig { host: proxy_host.to_owned(), port: proxy_port, credentials: None });
    mqtt
}

#[tokio::test]
async fn refusing_proxy_is_named_with_status_and_remedy() {
    use FailureKind::{Proxy, ProxyRefused};
    let cases: [(&[u8], FailureKind, &[&str]); 4] = [
        (b"HTTP/1.1 407 Who?\r\n\r\n", ProxyRefused, &["407", "user:password@"]),
        (b"HTTP/1.1 403 No\r\n\r\n", ProxyRefused, &["403", "CONNECT to broker.example:8883"]),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Proxy, &["502", "could not reach the broker"]),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Proxy, &["did not answer as an HTTP proxy"]),
    ];
    for (answer, kind, words) in cases {
        let failure = fail(&behind_proxy("127.0.0.1", answering(answer))).await;
        expect(&failure, kind, words);
    }
}

#[tokio::test]
async fn missing_proxy_is_a_proxy_failure() {
    let failure = fail(&behind_proxy("proxy.invalid", 3128)).await;
    expect(&failure, FailureKind::Proxy, &["name of the proxy proxy.invalid:3128"]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let failure = fail(&behind_proxy("127.0.0.1", port)).await;
    expect(&failure, FailureKind::Proxy, &["no process listens there", "mqtt.proxy"]);
    let port = serve(|mut stream| read_some(&mut stream));
    let failure = fail(&behind_proxy("127.0.0.1", port)).await;
    expect(&failure, FailureKind::Proxy, &["closed the connection"]);
}

#[test]
fn unknown_alert_is_named_by_its_number() {
    let mqtt = mqtt("localhost", 8883, None);
    let context = FailureContext::new("acme", &mqtt, OffsetDateTime::now_utc());
    let failure = alert::explain(&context, rustls::AlertDescription::RecordOverflow);
    expect(&failure, FailureKind::TlsProtocol, &["number 22"]);
}

#[test]
fn takeover_names_the_client_id() {
    let mqtt = mqtt("localhost", 8883, None);
    let failure = FailureContext::new("acme", &mqtt, OffsetDateTime::now_utc()).takeover(3);
    expect(&failure, FailureKind::Takeover, &["acme-bridge", "last 3 connections"]);
    assert!(failure.needs_operator());
}

/// Returns the cells of the table under `heading`, of rows whose first cell is code.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = include_str!("../../../../docs/connection-errors.md");
    let from = text.find(heading).expect("the heading");
    text[from..]
        .lines()
        .skip_while(|line| !line.starts_with("| `"))
        .take_while(|line| line.starts_with("| `"))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        })
        .collect()
}

#[test]
fn documented_kinds_match_the_code() {
    let documented: Vec<_> =
        rows("# Why").iter().map(|cells| (cells[0].clone(), cells[1].clone())).collect();
    let real: Vec<_> = FailureKind::ALL
        .iter()
        .map(|kind| {
            let operator = if kind.needs_operator() { "yes" } else { "no" };
            (kind.label().to_owned(), operator.to_owned())
        })
        .collect();
    assert_eq!(documented, real);
}

#[test]
fn documented_alerts_match_the_code() {
    let real: Vec<_> = (0..=u8::MAX)
        .map(|number| (number, alert::meaning(number.into())))
        .filter(|(_, meaning)| !meaning.name.is_empty())
        .map(|(number, meaning)| {
            vec![meaning.name.to_owned(), number.to_string(), meaning.kind.label().to_owned()]
        })
        .collect();
    assert_eq!(rows("## TLS alerts"), real);
}
