//! Fetches the status document of a running service with one HTTP request, which is small enough
//! to need no library.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

/// Bound on the whole request. A service that makes progress answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest accepted response, bytes. A status is a few kilobytes, so that a longer response comes
/// from another program.
const MAX_RESPONSE: u64 = 1024 * 1024;
/// Path of the status document on the admin endpoint.
const PATH: &str = "/api/status";
/// Path of the points of the charts.
const HISTORY_PATH: &str = "/api/history";

/// Reason why no status could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nothing listens on the address.
    #[error(
        "the service is not running: nothing listens on {0}; start it with `centiloc-bridge run` \
         or through its service manager"
    )]
    NotRunning(AdminTarget),
    /// The connection failed for another reason.
    #[error("could not query {target}: {source}")]
    Unreachable {
        /// Endpoint of the request.
        target: AdminTarget,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The connection was accepted, and no response came in time.
    #[error(
        "{0} does not answer within {TIMEOUT:?}: the service may be stuck; see its log, and \
         restart it if this lasts"
    )]
    Silent(AdminTarget),
    /// The endpoint requires a token, and none is known here.
    #[error(
        "{0} requires a token; set admin.token_file in the configuration of this command, or use \
         --token-file"
    )]
    TokenRequired(AdminTarget),
    /// The endpoint refused the token.
    #[error(
        "{0} refused the token; the service has another one: restart it after a change of the file"
    )]
    TokenRefused(AdminTarget),
    /// The endpoint answers its own host only.
    #[error(
        "{0} answers its own host only; set admin.token_file for the service, or use its loopback \
         address"
    )]
    Forbidden(AdminTarget),
    /// The response comes from another program.
    #[error(
        "{target} is answered by something other than centiloc-bridge ({detail}); see which \
         program holds the port"
    )]
    Foreign {
        /// Endpoint of the request.
        target: AdminTarget,
        /// Difference from a status document.
        detail: String,
    },
}

/// Error of a text that is not the URL of an admin endpoint.
#[derive(Debug, thiserror::Error)]
pub enum AdminUrlError {
    /// The text is not a URL.
    #[error("{0}; expected http://HOST:PORT, such as http://127.0.0.1:9464")]
    Syntax(#[from] url::ParseError),
    /// The URL has another scheme, no host, credentials or a query.
    #[error("expected http://HOST:PORT, such as http://127.0.0.1:9464")]
    Form,
}

/// The admin endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTarget {
    /// Host and port, `HOST:PORT`.
    address: String,
    /// Path of the status document.
    path: String,
    /// Option or configuration key that holds the address.
    given_by: &'static str,
}

impl std::fmt::Display for AdminTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.address, self.given_by)
    }
}

impl From<SocketAddr> for AdminTarget {
    /// Returns the endpoint that listens on this `admin.listen`. An address that means "every
    /// interface" is reached through loopback.
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
    type Err = AdminUrlError;

    /// Parses `http://host:port`, with a path where a reverse proxy serves the endpoint below one.
    fn from_str(text: &str) -> Result<Self, AdminUrlError> {
        let url = Url::parse(text)?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        let host = url.host_str().filter(|_| url.scheme() == "http" && plain);
        let (host, port) = host.zip(url.port_or_known_default()).ok_or(AdminUrlError::Form)?;
        let path = url.path().trim_end_matches('/');
        let path = format!("{}{PATH}", path.strip_suffix(PATH).unwrap_or(path));
        Ok(Self { address: format!("{host}:{port}"), path, given_by: "--url" })
    }
}

/// Fetches the status document of a service.
pub async fn fetch(
    target: &AdminTarget,
    token: Option<&SecretString>,
) -> Result<Value, StatusError> {
    let status = fetch_json(target, &target.path, token).await?;
    if status.get("client_id").is_some() {
        return Ok(status);
    }
    Err(StatusError::Foreign { target: target.clone(), detail: "another document".to_owned() })
}

/// Fetches the points of the charts. `None` from a service that has none.
pub async fn fetch_history(target: &AdminTarget, token: Option<&SecretString>) -> Option<Value> {
    let path = target.path.strip_suffix(PATH).unwrap_or_default();
    fetch_json(target, &format!("{path}{HISTORY_PATH}"), token).await.ok()
}

async fn fetch_json(
    target: &AdminTarget,
    path: &str,
    token: Option<&SecretString>,
) -> Result<Value, StatusError> {
    let owned = || target.clone();
    let response = timeout(TIMEOUT, request(target, path, token)).await;
    let response = response.map_err(|_| StatusError::Silent(owned()))?;
    let response = response.map_err(|source| match source.kind() {
        ErrorKind::ConnectionRefused => StatusError::NotRunning(owned()),
        _ => StatusError::Unreachable { target: owned(), source },
    })?;
    parse(&response).map_err(|refusal| match refusal {
        Refusal::Code("401") if token.is_some() => StatusError::TokenRefused(owned()),
        Refusal::Code("401") => StatusError::TokenRequired(owned()),
        Refusal::Code("403") => StatusError::Forbidden(owned()),
        Refusal::Code(code) => {
            let detail = format!("HTTP status {code} for {path}");
            StatusError::Foreign { target: owned(), detail }
        }
        Refusal::Other(detail) => {
            StatusError::Foreign { target: owned(), detail: detail.to_owned() }
        }
    })
}

async fn request(
    target: &AdminTarget,
    path: &str,
    token: Option<&SecretString>,
) -> std::io::Result<Vec<u8>> {
    let AdminTarget { address, .. } = target;
    let mut stream = TcpStream::connect(address).await?;
    let token = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {}\r\n", token.expose_secret())
    });
    // HTTP/1.0: the response ends with the connection, and is never chunked.
    let text = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{token}\r\n");
    stream.write_all(text.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut response).await?;
    Ok(response)
}

/// Reason why a response is no JSON document of the endpoint.
#[derive(Debug, PartialEq, Eq)]
enum Refusal<'r> {
    Code(&'r str),
    Other(&'static str),
}

fn parse(response: &[u8]) -> Result<Value, Refusal<'_>> {
    let text = std::str::from_utf8(response).map_err(|_| Refusal::Other("not text"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(Refusal::Other("not HTTP"))?;
    let mut first_line = head.lines().next().unwrap_or_default().split(' ');
    let (protocol, code) = (first_line.next().unwrap_or_default(), first_line.next());
    if !protocol.starts_with("HTTP/1.") {
        return Err(Refusal::Other("not HTTP"));
    }
    match code {
        Some("200") => serde_json::from_str(body).map_err(|_| Refusal::Other("not JSON")),
        Some(code) => Err(Refusal::Code(code)),
        None => Err(Refusal::Other("not HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_json_is_accepted() {
        let ok = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"client_id\":\"a\"}";
        assert_eq!(parse(ok).expect("ours")["client_id"], "a");
        for (response, refusal) in [
            (&b"SSH-2.0-OpenSSH\r\n"[..], Refusal::Other("not HTTP")),
            (b"", Refusal::Other("not HTTP")),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", Refusal::Code("404")),
            (b"HTTP/1.1 200 OK\r\n\r\n<html>", Refusal::Other("not JSON")),
            (b"\xff\xfe", Refusal::Other("not text")),
        ] {
            assert_eq!(parse(response).expect_err("foreign"), refusal);
        }
    }

    #[test]
    fn every_interface_is_reached_through_loopback() {
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
            let error = url.parse::<AdminTarget>().expect_err(url).to_string();
            assert!(error.contains("expected http://HOST:PORT"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_response_is_parsed_without_panic(response: Vec<u8>) {
            let _ = parse(&response);
        }
    }
}
