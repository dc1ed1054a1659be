//! Recognises TLS spoken to a plain port, and plain MQTT to a TLS port. The failed connection itself
//! shows little: the peer just closes. So the other protocol is tried once.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bound on the whole attempt.
const PATIENCE: Duration = Duration::from_secs(3);
/// CONNECT of MQTT 3.1.1: clean session, no client id, keep alive 10 s.
const CONNECT: [u8; 14] = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 0];
/// First byte of a CONNACK.
const CONNACK: u8 = 0x20;
/// First bytes of TLS records: an alert, a handshake; then the version's major number.
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;
const MAJOR: u8 = 3;

/// Cause and cure, if the port speaks the other of the two.
pub(super) async fn explain(host: &str, port: u16, tls: bool) -> Option<(String, &'static str)> {
    let request = if tls { CONNECT.to_vec() } else { client_hello()? };
    let answer = timeout(PATIENCE, ask((host, port), &request)).await.ok()?.ok()?;
    match (tls, answer) {
        (true, [CONNACK, _]) => Some((
            "the port speaks plain MQTT, and TLS was tried".to_owned(),
            "name the broker's TLS port with --port, or leave out --ca, --cert and --key \
             (mqtt.tls.enabled = false in the configuration)",
        )),
        (false, [ALERT | HANDSHAKE, MAJOR]) => Some((
            "the port speaks TLS, and plain MQTT was tried".to_owned(),
            "give --ca, --cert and --key, or -c FILE, or name the broker's plain port with --port",
        )),
        _ => None,
    }
}

/// The first two bytes of the answer.
async fn ask(address: (&str, u16), request: &[u8]) -> std::io::Result<[u8; 2]> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// A greeting that any TLS server answers. Whom to trust does not matter: it goes no further.
fn client_hello() -> Option<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .ok()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").ok()?;
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).ok()?;
    Some(hello)
}
