//! Refuses requests under a foreign name on a loopback listener. A web page whose own name is made
//! to resolve to this host (DNS rebinding) could otherwise read the responses of the endpoint.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const REFUSAL: &str = "The admin endpoint listens on loopback and answers only requests whose Host \
    is localhost or a loopback address. Use http://localhost with its port; a reverse proxy must \
    set such a Host.\n";

/// Returns true if a listener on this address checks the Host. On other addresses clients use names
/// that are not known here.
pub(super) fn is_checked_on(listener: SocketAddr) -> bool {
    listener.ip().to_canonical().is_loopback()
}

/// Answers 403 to a request that does not name this host as loopback.
pub(super) async fn require_loopback(request: Request, next: Next) -> Response {
    if is_addressed_to_loopback(&request) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, super::HEADERS, REFUSAL).into_response()
}

/// Checks every Host header and the authority of the request target. A request with neither comes
/// from an HTTP/1.0 client, which no browser is.
pub(super) fn is_addressed_to_loopback(request: &Request) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter();
    let mut hosts = hosts.map(|host| host.to_str().ok().and_then(|host| host.parse().ok()));
    hosts.all(|host: Option<Authority>| host.is_some_and(|host| is_loopback(host.host())))
        && request.uri().authority().is_none_or(|authority| is_loopback(authority.host()))
}

fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // No DNS answers for localhost or names below it (RFC 6761).
    name.eq_ignore_ascii_case("localhost")
        || name.rsplit_once('.').is_some_and(|(_, top)| top.eq_ignore_ascii_case("localhost"))
        || address.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_listeners_check_the_host() {
        for (listener, checked) in [
            ("127.0.0.1:9464", true),
            ("[::1]:9464", true),
            ("[::ffff:127.0.0.1]:9464", true),
            ("0.0.0.0:9464", false),
            ("[::]:9464", false),
            ("192.0.2.1:9464", false),
        ] {
            assert_eq!(is_checked_on(listener.parse().expect("an address")), checked, "{listener}");
        }
    }

    #[test]
    fn only_loopback_names_are_accepted() {
        for host in ["localhost", "LocalHost.", "bridge.localhost", "127.0.0.1", "127.8.0.1"] {
            assert!(is_loopback(host), "{host}");
        }
        assert!(is_loopback("[::1]") && is_loopback("[::ffff:127.0.0.1]"));
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"]
        {
            assert!(!is_loopback(host), "{host}");
        }
        assert!(!is_loopback("[2001:db8::1]") && !is_loopback("") && !is_loopback("notlocalhost"));
    }
}
