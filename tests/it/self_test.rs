//! Tests of the test support, which all other tests rely on.

use std::io::ErrorKind;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::support::certs::{CertificateAuthority, CertificateValidity};
use crate::support::connect_proxy::ConnectProxy;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::{ScratchFolder, background, loopback, run};
use crate::support::proxy::{Direction, TcpProxy};
use crate::support::publisher::TestPublisher;
use crate::support::small_disk::SmallDisk;
use crate::support::subscriber::TestSubscriber;
use crate::support::tap::{MqttTap, Packet};
use crate::support::wait::{SOON, until, until_eq};

/// Starts a server that echoes its input, on a background runtime, until the process ends.
async fn echo_server() -> u16 {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    background().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            background().spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

async fn connect(proxy: &TcpProxy) -> TcpStream {
    TcpStream::connect(loopback(proxy.port())).await.unwrap()
}

async fn say(stream: &mut TcpStream, word: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(word).await?;
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn proxy_cut_resets_and_admits_new_connections() {
    let proxy = TcpProxy::to(echo_server().await).await;
    let mut first = connect(&proxy).await;
    assert_eq!(say(&mut first, b"hello").await.unwrap(), b"hello");
    proxy.cut().await;
    let error = until("the reset", SOON, || {
        let read = first.try_read(&mut [0; 1]);
        async move { read.err().filter(|e| e.kind() != ErrorKind::WouldBlock).ok_or("open") }
    });
    assert_eq!(error.await.kind(), ErrorKind::ConnectionReset);
    assert_eq!(say(&mut connect(&proxy).await, b"again").await.unwrap(), b"again");
    assert_eq!(proxy.accepted(), 2);
    assert_eq!(proxy.forwarded(Direction::Down), 10);
}

#[tokio::test]
async fn proxy_refuse_looks_like_closed_port() {
    let proxy = TcpProxy::to(echo_server().await).await;
    proxy.refuse().await;
    let error = TcpStream::connect(loopback(proxy.port())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    proxy.pass().await;
    assert_eq!(say(&mut connect(&proxy).await, b"back").await.unwrap(), b"back");
}

#[tokio::test]
async fn proxy_stall_delivers_bytes_on_pass() {
    let proxy = TcpProxy::to(echo_server().await).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(say(&mut stream, b"1").await.unwrap(), b"1");
    proxy.stall(Direction::Down).await;
    let held = tokio::time::timeout(Duration::from_millis(300), say(&mut stream, b"2")).await;
    assert!(held.is_err(), "the answer came through a stalled proxy");
    assert_eq!(proxy.forwarded(Direction::Up), 2);
    proxy.pass().await;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"2");
}

#[tokio::test]
async fn proxy_half_open_silences_only_existing_connections() {
    let proxy = TcpProxy::to(echo_server().await).await;
    let mut old = connect(&proxy).await;
    assert_eq!(say(&mut old, b"1").await.unwrap(), b"1");
    proxy.half_open().await;
    assert_eq!(say(&mut connect(&proxy).await, b"new").await.unwrap(), b"new");
    old.write_all(b"2").await.unwrap();
    let heard = tokio::time::timeout(Duration::from_millis(200), old.read_u8()).await;
    assert!(heard.is_err(), "the old connection is still open, or was notified of its end");
    proxy.reset_half_open().await;
    let error = old.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn proxy_idle_timeout_closes_connections_cleanly() {
    let proxy = TcpProxy::to(echo_server().await).await;
    let mut idle = connect(&proxy).await;
    assert_eq!(say(&mut idle, b"1").await.unwrap(), b"1");
    proxy.set_idle_timeout(Duration::from_millis(500)).await;
    let mut end = Vec::new();
    idle.read_to_end(&mut end).await.expect("an orderly end");
    assert!(end.is_empty());
}

#[tokio::test]
async fn proxy_limit_resets_after_that_many_bytes() {
    let proxy = TcpProxy::to(echo_server().await).await;
    proxy.limit(Direction::Down, 3);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"abcdef").await.unwrap();
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).await.unwrap_err();
    assert_eq!((answer.as_slice(), error.kind()), (&b"abc"[..], ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn proxy_stalls_after_that_many_bytes() {
    let proxy = TcpProxy::to(echo_server().await).await;
    proxy.silence_after(Direction::Down, 3);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"abcdef").await.unwrap();
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
    assert!(more.is_err(), "neither silent nor open: {more:?}");
    proxy.pass().await;
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"def");
}

#[tokio::test]
async fn proxy_delay_adds_to_the_round_trip() {
    let proxy = TcpProxy::to(echo_server().await).await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, b"warm").await.unwrap();
    proxy.delay(Duration::from_millis(100)).await;
    let started = std::time::Instant::now();
    say(&mut stream, b"slow").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
}

#[tokio::test]
async fn proxy_forwards_an_orderly_close() {
    let proxy = TcpProxy::to(echo_server().await).await;
    let mut stream = connect(&proxy).await;
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"bye");
}

#[tokio::test]
async fn connect_proxy_tunnels_only_with_right_credentials() {
    let target = echo_server().await;
    let proxy = ConnectProxy::with_credentials("user", "secret").await;
    for (header, status) in [
        ("", "407"),
        ("Proxy-Authorization: Basic dXNlcjp3cm9uZw==\r\n", "407"),
        ("proxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\n", "200"),
    ] {
        let mut stream = TcpStream::connect(loopback(proxy.port())).await.unwrap();
        let request = format!("CONNECT broker.example:{target} HTTP/1.1\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{header:?}");
    }
    assert_eq!(proxy.requests(), vec![format!("broker.example:{target}"); 3]);
}

#[tokio::test]
async fn postgres_keeps_commits_over_stop_and_kill() {
    let mut postgres = Postgres::own().await;
    let port = postgres.port();
    let database = postgres.database().await;
    database.execute("create table kept (n int)").await;
    database.execute("insert into kept values (1)").await;
    postgres.stop().await;
    assert_eq!(database.count("kept").await, -1, "a stopped server answered");
    postgres.start().await;
    database.execute("insert into kept values (2)").await;
    postgres.kill();
    postgres.start().await;
    assert_eq!(postgres.port(), port);
    assert_eq!(database.column::<i32>("select n from kept order by n").await, [1, 2]);
}

#[tokio::test]
async fn postgres_read_only_refuses_writes_with_25006() {
    let postgres = Postgres::own().await;
    let database = postgres.database().await;
    database.execute("create table t (n int)").await;
    postgres.set_read_only(true).await;
    until("a write to be refused", SOON, || async {
        match database.rows("insert into t values (1)").await {
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("25006") => Ok(()),
            other => Err(other.map(|_| "written")),
        }
    })
    .await;
    postgres.set_read_only(false).await;
    until("writes to be accepted", SOON, || async {
        database.rows("insert into t values (1)").await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn full_disk_refuses_with_53100() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let postgres = Postgres::own().await;
    let database = disk.database(&postgres).await;
    database.execute("create table t (n int, filler text)").await;
    let insert = "insert into t select n, repeat('x', 1000) from generate_series(1, 1000) n";
    database.execute(insert).await;
    disk.fill();
    match database.rows(insert).await {
        Err(sqlx::Error::Database(e)) => assert_eq!(e.code().as_deref(), Some("53100"), "{e}"),
        other => panic!("written to a full disk: {:?}", other.map(|_| ())),
    }
    disk.free();
    database.execute(insert).await;
    assert_eq!(database.count("t").await, 2000);
    drop(postgres);
}

#[tokio::test]
async fn shared_cluster_isolates_databases_with_fsync_on() {
    let postgres = Postgres::shared().await;
    let (one, two) = (postgres.database().await, postgres.database().await);
    one.execute("create table mine (n int)").await;
    assert_eq!((one.count("mine").await, two.count("mine").await), (0, -1));
    assert_eq!(one.value::<String>("select current_setting('fsync')").await, "on");
    for url in [one.url(), one.socket_url()] {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
        let who: (String, String) =
            sqlx::query_as("select current_user::text, current_database()::text")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(who, ("bridge".to_owned(), one.name().to_owned()), "{url}");
    }
}

#[tokio::test]
async fn broker_keeps_session_over_restart() {
    let mut broker = Mosquitto::start().await;
    let events = ItemEvent::series(TENANT, 5);
    let topic = events[0].json_topic();
    let mut subscriber = TestSubscriber::connect(broker.plain_port(), "acme-test").await.unwrap();
    assert!(!subscriber.session_present());
    subscriber.subscribe(&topic).await.unwrap();
    drop(subscriber);
    TestPublisher::connect(&broker).await.publish_json(&events).await;
    broker.stop().await;
    broker.start_again().await;
    let mut subscriber = TestSubscriber::connect(broker.plain_port(), "acme-test").await.unwrap();
    assert!(subscriber.session_present());
    for event in &events {
        let publish = subscriber.receive_and_ack().await.unwrap();
        assert_eq!(publish.payload, event.json().to_string().as_bytes());
    }
}

#[tokio::test]
async fn killed_broker_keeps_saved_messages() {
    let mut broker = Mosquitto::start().await;
    let events = ItemEvent::series(TENANT, 1);
    let mut subscriber = TestSubscriber::connect(broker.plain_port(), "acme-test").await.unwrap();
    subscriber.subscribe(&events[0].protobuf_topic()).await.unwrap();
    drop(subscriber);
    TestPublisher::connect(&broker).await.publish_protobuf(&events).await;
    broker.save().await;
    broker.kill();
    broker.start_again().await;
    let mut subscriber = TestSubscriber::connect(broker.plain_port(), "acme-test").await.unwrap();
    assert_eq!(subscriber.receive().await.unwrap().payload, events[0].protobuf());
}

#[tokio::test]
async fn tap_detects_acknowledgements_out_of_order() {
    let broker = Mosquitto::start().await;
    let tap = MqttTap::checking(broker.plain_port(), |publish| async move {
        if publish.payload == b"3" { Err("3 may not be acknowledged".to_owned()) } else { Ok(()) }
    })
    .await;
    let mut subscriber = TestSubscriber::connect(tap.proxy.port(), "acme-test").await.unwrap();
    subscriber.subscribe("centiloc/acme").await.unwrap();
    let publisher = TestPublisher::connect(&broker).await;
    for payload in ["1", "2", "3"] {
        assert!(publisher.publish("centiloc/acme", payload).await);
    }
    subscriber.receive_and_ack().await.unwrap();
    until_eq("the first PUBACK", SOON, 1, || async { tap.pubacks() }).await;
    tap.assert_no_violation();
    // 2 stays unacknowledged. 3 overtakes it, and is the one that the check rejects.
    subscriber.receive().await.unwrap();
    subscriber.receive_and_ack().await.unwrap();
    until_eq("the second PUBACK", SOON, 2, || async { tap.pubacks() }).await;
    let expected = ["PUBACK 3 overtook 1 earlier deliveries", "3 may not be acknowledged"];
    until_eq("the violations", SOON, expected.map(str::to_owned).to_vec(), || async {
        tap.violations()
    })
    .await;
    let payloads: Vec<_> = tap.publishes().into_iter().map(|p| p.payload).collect();
    assert_eq!(payloads, [b"1", b"2", b"3"]);
    assert!(matches!(tap.packets().last(), Some(Packet::Puback(0, _))));
}

#[test]
fn certificates_match_their_names() {
    let authority = CertificateAuthority::new("CA");
    let folder = ScratchFolder::new("certs");
    let ca = folder.write("ca.pem", authority.pem());
    let verify = |pem: &str| {
        let cert = folder.write("cert.pem", pem);
        let output = std::process::Command::new("openssl")
            .args(["verify", "-CAfile", ca.to_str().unwrap(), cert.to_str().unwrap()])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    for (pem, said) in [
        (authority.client("acme").cert, ": OK"),
        (authority.client_v1("acme").cert, ": OK"),
        (authority.server().cert, ": OK"),
        (authority.client_valid("acme", CertificateValidity::Expired).cert, "expired"),
        (authority.client_valid("acme", CertificateValidity::NotYet).cert, "not yet valid"),
        (CertificateAuthority::new("Another CA").client("acme").cert, "unable to get local issuer"),
    ] {
        let output = verify(&pem);
        assert!(output.contains(said), "{output} does not contain {said:?}");
    }
    let v1 = CertificateDer::from_pem_slice(authority.client_v1("acme").cert.as_bytes());
    let v1 = v1.unwrap();
    let (_, v1) = X509Certificate::from_der(&v1).unwrap();
    assert_eq!(v1.version(), X509Version::V1);
    assert_eq!(v1.subject().iter_common_name().next().unwrap().as_str().unwrap(), "acme");
}

#[test]
fn both_key_forms_fit_the_certificate() {
    let client = CertificateAuthority::new("CA").client("acme");
    let folder = ScratchFolder::new("certs");
    let cert = folder.write("cert.pem", &client.cert);
    let of_cert = run("openssl", ["x509", "-in", cert.to_str().unwrap(), "-noout", "-pubkey"]);
    for (pem, header) in [
        (&client.key_sec1, "-----BEGIN EC PRIVATE KEY-----"),
        (&client.key_pkcs8, "-----BEGIN PRIVATE KEY-----"),
    ] {
        assert!(pem.starts_with(header), "{pem}");
        let key = folder.write("key.pem", pem);
        assert_eq!(run("openssl", ["pkey", "-in", key.to_str().unwrap(), "-pubout"]), of_cert);
    }
}
