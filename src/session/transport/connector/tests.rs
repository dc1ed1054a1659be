//! Tests of a name with several addresses, some of them unreachable, on real sockets.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::session::credentials::tls::testing::{BlackHole, mqtt};

const LOGIN: LoginOptions = LoginOptions { clean_session: false, max_packet_size: 1024 };

/// Binds a listener on 127.0.0.`last`.
async fn listen(last: u8) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Accepts one connection and CONNECT.
async fn serve(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    assert!(stream.read(&mut [0; 256]).await.unwrap() > 0);
    stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    std::future::pending::<()>().await;
}

async fn open<const N: usize>(
    connector: &NetworkConnector,
    addresses: [SocketAddr; N],
    within: Duration,
) -> Result<AcceptedConnection, ConnectError> {
    connector
        .open_any(
            &addresses,
            &mqtt("broker.example", 1883, None),
            None,
            LOGIN,
            Instant::now() + within,
        )
        .await
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn silent_address_does_not_prevent_a_connection() {
    let hole = BlackHole::on(2).await;
    let (listener, address) = listen(1).await;
    let connector = NetworkConnector::default();
    tokio::select! {
        opened = open(&connector, [hole.address, address], LONG) => drop(opened.unwrap()),
        () = serve(&listener) => {}
    }
}

#[tokio::test]
async fn addresses_without_answer_are_each_named() {
    let (one, two) = (BlackHole::on(2).await, BlackHole::on(3).await);
    let connector = NetworkConnector::default();
    let within = Duration::from_secs(1);
    let Err(ConnectError::Unreachable(failed)) =
        open(&connector, [one.address, two.address], within).await
    else {
        panic!("connected to a black hole")
    };
    let named: Vec<_> = failed.iter().map(|failed| failed.address).collect();
    assert_eq!(named, [one.address, two.address]);
}

#[tokio::test]
async fn address_that_accepts_silently_is_tried_last() {
    // As on a drained node: its TCP stack accepts, but no process reads.
    let (_drained, silent) = listen(2).await;
    let (listener, address) = listen(1).await;
    let connector = NetworkConnector::default();
    let first = open(&connector, [silent, address], Duration::from_secs(1)).await;
    let Err(ConnectError::Stalled(named)) = first else { panic!("the silent address answered") };
    assert_eq!(named, silent);
    tokio::select! {
        opened = open(&connector, [silent, address], LONG) => drop(opened.unwrap()),
        () = serve(&listener) => {}
    }
}

#[tokio::test]
async fn suspect_alone_is_tried_again() {
    let (listener, address) = listen(1).await;
    let connector = NetworkConnector::default();
    let first = open(&connector, [address], Duration::from_millis(200)).await;
    assert!(matches!(first, Err(ConnectError::Stalled(_))));
    drop(listener.accept().await.unwrap());
    tokio::select! {
        opened = open(&connector, [address], LONG) => drop(opened.unwrap()),
        () = serve(&listener) => {}
    }
    assert!(connector.suspects.is_empty(), "it works again");
}
