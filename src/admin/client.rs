//! Asks a running service for its status: one HTTP request, small enough to need no library.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

/// A service that makes progress answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A status is a few kilobytes; whatever sends more is something else.
const MAX_ANSWER: u64 = 1024 * 1024;
/// Path of the status document.
const PATH: &str = "/api/status";

/// Why there is no status to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error(
        "the service is not running: nothing listens on {0}; start it with `centiloc-bridge run` \
         or through its service manager"
    )]
    NotRunning(AdminTarget),
    /// Another failure on the way.
    #[error("could not ask {target}: {source}")]
    Unreachable {
        /// Asked address.
        target: AdminTarget,
        /// What failed.
        source: std::io::Error,
    },
    /// Someone listens and says nothing.
    #[error(
        "{0} does not answer within {TIMEOUT:?}: the service may be stuck; see its log, and \
         restart it if this lasts"
    )]
    Silent(AdminTarget),
    /// Someone else answers.
    #[error(
        "{target} is answered by something other than centiloc-bridge ({detail}); see which \
         program holds the port"
    )]
    Foreign {
        /// Asked address.
        target: AdminTarget,
        /// What was wrong.
        detail: String,
    },
}

/// The admin endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTarget {
    /// Host and port.
    address: String,
    /// Of the status document.
    path: String,
    /// Option or key that gave the address.
    given_by: &'static str,
}

impl std::fmt::Display for AdminTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.address, self.given_by)
    }
}

impl From<SocketAddr> for AdminTarget {
    /// The service that listens on this `admin.listen`. An address that means "every interface" is
    /// reached through loopback.
    fn from(listen: SocketAddr) -> Self {
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let address = SocketAddr::new(ip, listen.port()).to_string();
        Self { address, path: PATH.to_owned(), given_by: "admin.listen" }
    }
}

impl FromStr for AdminTarget {
    type Err = String;

    /// Parses `http://host:port`, with a path where a reverse proxy serves the endpoint below one.
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected http://HOST:PORT, such as http://127.0.0.1:9464";
        let url = Url::parse(text).map_err(|error| format!("{error}; {EXPECTED}"))?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        let host = url.host_str().filter(|_| url.scheme() == "http" && plain);
        let (host, port) = host.zip(url.port_or_known_default()).ok_or(EXPECTED)?;
        let path = url.path().trim_end_matches('/');
        let path = format!("{}{PATH}", path.strip_suffix(PATH).unwrap_or(path));
        Ok(Self { address: format!("{host}:{port}"), path, given_by: "--url" })
    }
}

/// Fetches the status document of a service.
pub async fn fetch(target: &AdminTarget) -> Result<Value, StatusError> {
    let owned = || target.clone();
    let answer = timeout(TIMEOUT, ask(target)).await.map_err(|_| StatusError::Silent(owned()))?;
    let answer = answer.map_err(|source| match source.kind() {
        ErrorKind::ConnectionRefused => StatusError::NotRunning(owned()),
        _ => StatusError::Unreachable { target: owned(), source },
    })?;
    parse(&answer).map_err(|detail| StatusError::Foreign { target: owned(), detail })
}

async fn ask(target: &AdminTarget) -> std::io::Result<Vec<u8>> {
    let AdminTarget { address, path, .. } = target;
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the answer ends with the connection, and is never chunked.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
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
        let reach = |text: &str| AdminTarget::from(text.parse::<SocketAddr>().expect("an address"));
        assert_eq!(reach("0.0.0.0:9464").address, "127.0.0.1:9464");
        assert_eq!(reach("[::]:9464").address, "[::1]:9464");
        assert_eq!(reach("192.0.2.1:9464").address, "192.0.2.1:9464");
    }

    #[test]
    fn urls_name_host_port_and_path() {
        for (url, address, path) in [
            ("http://127.0.0.1:9464", "127.0.0.1:9464", "/api/status"),
            ("http://[::1]:9464/", "[::1]:9464", "/api/status"),
            ("http://bridge.example", "bridge.example:80", "/api/status"),
            ("http://proxy:8080/bridge/", "proxy:8080", "/bridge/api/status"),
            ("http://bridge:9464/api/status", "bridge:9464", "/api/status"),
        ] {
            let target: AdminTarget = url.parse().expect(url);
            assert_eq!((target.address.as_str(), target.path.as_str()), (address, path), "{url}");
        }
        for url in
            ["127.0.0.1:9464", "https://bridge:9464", "http://", "http://u:p@b", "http://b/?q"]
        {
            assert!(
                url.parse::<AdminTarget>().expect_err(url).contains("expected http://HOST:PORT")
            );
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_judged_without_panic(answer: Vec<u8>) {
            let _ = parse(&answer);
        }
    }
}
