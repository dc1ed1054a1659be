//! Detects TLS on a plain port and plain MQTT on a TLS port. The failed connection itself shows
//! little, because the peer just closes it. Therefore the other protocol is tried once.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bound on the whole attempt.
const TIMEOUT: Duration = Duration::from_secs(3);
/// CONNECT of MQTT 3.1.1: clean session, no client id, keep alive 10 s.
const CONNECT: [u8; 14] = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 0];
/// First byte of a CONNACK.
const CONNACK: u8 = 0x20;
/// First byte of a TLS record with an alert.
const ALERT: u8 = 0x15;
/// First byte of a TLS record with a handshake message.
const HANDSHAKE: u8 = 0x16;
/// Second byte of a TLS record: the major version.
const MAJOR: u8 = 3;

/// Returns the cause and a hint if the port expects the other protocol.
pub(super) async fn explain(host: &str, port: u16, tls: bool) -> Option<(String, &'static str)> {
    let request = if tls { CONNECT.to_vec() } else { client_hello()? };
    let response = timeout(TIMEOUT, exchange((host, port), &request)).await.ok()?.ok()?;
    match (tls, response) {
        (true, [CONNACK, _]) => Some((
            "the port speaks plain MQTT, but TLS was used".to_owned(),
            "set --port to the broker's TLS port, or omit --ca, --cert and --key \
             (mqtt.tls.enabled = false in the configuration)",
        )),
        (false, [ALERT | HANDSHAKE, MAJOR]) => Some((
            "the port speaks TLS, but plain MQTT was used".to_owned(),
            "use --ca, --cert and --key, or -c FILE, or set --port to the broker's plain port",
        )),
        _ => None,
    }
}

/// Sends the request and returns the first two bytes of the response.
async fn exchange(address: (&str, u16), request: &[u8]) -> std::io::Result<[u8; 2]> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut response = [0; 2];
    stream.read_exact(&mut response).await?;
    Ok(response)
}

/// Returns a `ClientHello` that any TLS server answers. The trust anchors do not matter, because
/// the handshake goes no further.
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
