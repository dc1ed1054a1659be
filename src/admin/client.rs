//! Asks a running service for its status: one HTTP request, small enough to need no library.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A service that makes progress answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A status is a few kilobytes; whatever sends more is something else.
const MAX_ANSWER: u64 = 1024 * 1024;

/// Why there is no status to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error(
        "the service is not running: nothing listens on {0} (admin.listen); start it with \
         `centiloc-bridge run` or through its service manager"
    )]
    NotRunning(SocketAddr),
    /// Another failure on the way.
    #[error("could not ask {address} (admin.listen): {source}")]
    Unreachable {
        /// Asked address.
        address: SocketAddr,
        /// What failed.
        source: std::io::Error,
    },
    /// Someone listens and says nothing.
    #[error(
        "{0} (admin.listen) does not answer within {TIMEOUT:?}: the service may be stuck; see its \
         log, and restart it if this lasts"
    )]
    Silent(SocketAddr),
    /// Someone else answers.
    #[error(
        "{address} (admin.listen) is answered by something other than centiloc-bridge ({detail}); \
         see which program holds the port"
    )]
    Foreign {
        /// Asked address.
        address: SocketAddr,
        /// What was wrong.
        detail: String,
    },
}

/// The status document of the service that listens on `listen`.
pub async fn fetch(listen: SocketAddr) -> Result<Value, StatusError> {
    let address = reachable(listen);
    let answer = timeout(TIMEOUT, ask(address)).await.map_err(|_| StatusError::Silent(address))?;
    let answer = answer.map_err(|source| match source.kind() {
        ErrorKind::ConnectionRefused => StatusError::NotRunning(address),
        _ => StatusError::Unreachable { address, source },
    })?;
    parse(&answer).map_err(|detail| StatusError::Foreign { address, detail })
}

/// An address that means "every interface" is reached through loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn ask(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the answer ends with the connection, and is never chunked.
    let request = format!("GET /api/status HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(answer).map_err(|_| "not text".to_owned())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("not HTTP")?;
    let mut first_line = head.lines().next().unwrap_or_default().split(' ');
    let (protocol, code) = (first_line.next().unwrap_or_default(), first_line.next());
    if !protocol.starts_with("HTTP/1.") {
        return Err("not HTTP".to_owned());
    }
    if code != Some("200") {
        return Err(format!("HTTP status {} for /api/status", code.unwrap_or("missing")));
    }
    let status: Value = serde_json::from_str(body).map_err(|_| "not JSON".to_owned())?;
    if status.get("client_id").is_some() { Ok(status) } else { Err("another document".to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_our_own_document_is_taken() {
        let ok = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"client_id\":\"a\"}";
        assert_eq!(parse(ok).expect("ours")["client_id"], "a");
        for (answer, detail) in [
            (&b"SSH-2.0-OpenSSH\r\n"[..], "not HTTP"),
            (b"", "not HTTP"),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP status 404"),
            (b"HTTP/1.1 200 OK\r\n\r\n<html>", "not JSON"),
            (b"HTTP/1.1 200 OK\r\n\r\n{}", "another document"),
            (b"\xff\xfe", "not text"),
        ] {
            let error = parse(answer).expect_err("foreign");
            assert!(error.starts_with(detail), "{error}");
        }
    }

    #[test]
    fn every_interface_is_asked_through_loopback() {
        let reach = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(reach("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(reach("[::]:9464"), "[::1]:9464");
        assert_eq!(reach("192.0.2.1:9464"), "192.0.2.1:9464");
    }

    proptest! {
        #[test]
        fn any_answer_is_judged_without_panic(answer: Vec<u8>) {
            let _ = parse(&answer);
        }
    }
}
