//! Explanations of network failures: sockets, name lookup, time-outs, and the TLS handshake.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use rustls::PeerIncompatible;

use super::{ConnectionFailure, FailureContext, FailureKind, alert, server_certificate};

/// Uptime below which a lost connection was probably closed on purpose.
const SOON: Duration = Duration::from_secs(10);

/// Class of an I/O error, independent of the step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IoCause {
    Refused,
    Unreachable,
    TimedOut,
    Closed,
    Other,
}

impl IoCause {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable
            | ErrorKind::PermissionDenied => Self::Unreachable,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Other,
        }
    }
}

/// Returns the rustls error that tokio-rustls wraps into an I/O error.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    let mut source: Option<&(dyn Error + 'static)> = error.get_ref().map(|e| e as _);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An I/O error exposes its content through `get_ref`, not `source`.
        source = match error.downcast_ref::<io::Error>() {
            Some(inner) => inner.get_ref().map(|e| e as _),
            None => error.source(),
        };
    }
    None
}

/// Explains an I/O error, before or after CONNACK. Under TLS 1.3 it may hold the broker's alert.
pub(super) fn explain_io(context: &FailureContext<'_>, error: &io::Error) -> ConnectionFailure {
    if let Some(error) = rustls_error(error) {
        return explain_rustls(context, error);
    }
    let broker = context.broker();
    match (IoCause::of(error), context.uptime) {
        (IoCause::Closed, _) => closed(context),
        (IoCause::TimedOut, Some(_)) => silent(context),
        (IoCause::TimedOut, None) => ConnectionFailure::new(
            FailureKind::Timeout,
            format!(
                "{broker} did not answer the TCP connection: {error}; a firewall may drop \
                 outgoing connections to port {}",
                context.mqtt.port
            ),
        ),
        (IoCause::Refused, _) => ConnectionFailure::new(
            FailureKind::TcpRefused,
            format!(
                "{broker} refused the TCP connection: no process listens there, or a firewall \
                 rejects it; check mqtt.host and mqtt.port (8883 at Centiloc)"
            ),
        ),
        (IoCause::Unreachable, _) => ConnectionFailure::new(
            FailureKind::TcpUnreachable,
            format!(
                "{broker} cannot be reached from here: {error}; check this machine's network, \
                 routes and firewall, or set mqtt.proxy if traffic must pass a proxy"
            ),
        ),
        (IoCause::Other, None) => ConnectionFailure::new(
            FailureKind::TcpUnreachable,
            format!("could not connect to {broker}: {error}; check this machine's network"),
        ),
        (IoCause::Other, Some(_)) => ConnectionFailure::new(
            FailureKind::ClosedByBroker,
            format!("the connection to {broker} failed: {error}; reconnecting"),
        ),
    }
}

pub(super) fn lookup_failed(context: &FailureContext<'_>, error: &io::Error) -> ConnectionFailure {
    let host = &context.mqtt.host;
    ConnectionFailure::new(
        FailureKind::Dns,
        format!(
            "could not resolve the broker's name {host}: {}; check mqtt.host and this machine's \
             DNS",
            lookup_detail(error)
        ),
    )
}

/// Returns the resolver's message without the prefix of the standard library.
pub(super) fn lookup_detail(error: &io::Error) -> String {
    let text = error.to_string();
    let detail = text.rsplit(": ").next().unwrap_or(&text);
    detail.to_owned()
}

/// Explains an error of the TLS handshake.
pub(super) fn explain_tls(
    context: &FailureContext<'_>,
    error: &rumqttc::TlsError,
) -> ConnectionFailure {
    match error {
        rumqttc::TlsError::Io(error) if rustls_error(error).is_none() => {
            handshake_broke(context, error)
        }
        rumqttc::TlsError::Io(error) => explain_io(context, error),
        rumqttc::TlsError::TLS(error) => explain_rustls(context, error),
        rumqttc::TlsError::DNSName(_) | rumqttc::TlsError::Addr(_) => ConnectionFailure::new(
            FailureKind::TlsName,
            format!(
                "mqtt.host {:?} is neither a host name nor an address that a certificate could \
                 contain; correct it",
                context.mqtt.host
            ),
        ),
        other => ConnectionFailure::new(
            FailureKind::TlsProtocol,
            format!("could not set up TLS with {}: {other}", context.broker()),
        ),
    }
}

fn handshake_broke(context: &FailureContext<'_>, error: &io::Error) -> ConnectionFailure {
    match IoCause::of(error) {
        IoCause::Closed => ConnectionFailure::new(
            FailureKind::ClosedByBroker,
            format!(
                "{} closed the connection in the middle of the TLS handshake{}; if this repeats, \
                 check that mqtt.port is its TLS port and that no firewall inspects the traffic",
                context.broker(),
                context.through_proxy()
            ),
        ),
        IoCause::TimedOut => timed_out(context, None),
        _ => explain_io(context, error),
    }
}

fn explain_rustls(context: &FailureContext<'_>, error: &rustls::Error) -> ConnectionFailure {
    let broker = context.broker();
    match error {
        rustls::Error::AlertReceived(alert) => alert::explain(context, *alert),
        rustls::Error::InvalidCertificate(error) => server_certificate::explain(context, error),
        rustls::Error::NoCertificatesPresented => ConnectionFailure::new(
            FailureKind::TlsTrust,
            format!("{broker} presented no certificate; check mqtt.host and mqtt.port"),
        ),
        rustls::Error::InvalidMessage(_) if context.uptime.is_none() => ConnectionFailure::new(
            FailureKind::TlsProtocol,
            format!(
                "{broker} does not speak TLS; check mqtt.port (8883 at Centiloc; 1883 is usually \
                 plain MQTT, which needs mqtt.tls.enabled = false){}",
                context.through_proxy()
            ),
        ),
        rustls::Error::PeerIncompatible(detail) => peer_incompatible(context, detail),
        other => ConnectionFailure::new(
            FailureKind::TlsProtocol,
            format!(
                "TLS with {broker} failed: {other}; if this repeats, check that no firewall \
                 inspects or alters the traffic"
            ),
        ),
    }
}

fn peer_incompatible(context: &FailureContext<'_>, detail: &PeerIncompatible) -> ConnectionFailure {
    use PeerIncompatible::{ServerDoesNotSupportTls12Or13, ServerTlsVersionIsDisabledByOurConfig};
    match detail {
        ServerDoesNotSupportTls12Or13 | ServerTlsVersionIsDisabledByOurConfig => {
            ConnectionFailure::new(
                FailureKind::TlsProtocol,
                format!("{} speaks neither TLS 1.2 nor 1.3; it must be upgraded", context.broker()),
            )
        }
        other => nothing_in_common(context, &format!("{other:?}")),
    }
}

/// Explains a handshake without a common cipher, curve or signature algorithm.
pub(super) fn nothing_in_common(context: &FailureContext<'_>, detail: &str) -> ConnectionFailure {
    ConnectionFailure::new(
        FailureKind::TlsCipher,
        format!(
            "{} has no cipher, key exchange or signature in common with the bridge ({detail}); it \
             must offer TLS 1.2 or 1.3 with ECDHE on X25519, P-256 or P-384, AES-GCM or \
             ChaCha20-Poly1305, and a certificate whose key is on P-256 or P-384, Ed25519, or RSA \
             of 2048 bits and more (not P-521, secp256k1 or Brainpool)",
            context.broker()
        ),
    )
}

/// Explains that `mqtt.connect_timeout`, which covers DNS, TCP, TLS and CONNACK together, passed after
/// `address` had accepted the TCP connection.
pub(super) fn timed_out(
    context: &FailureContext<'_>,
    address: Option<SocketAddr>,
) -> ConnectionFailure {
    let seconds = context.mqtt.connect_timeout.as_secs();
    let address = address.map(|address| format!(" (at {address})")).unwrap_or_default();
    ConnectionFailure::new(
        FailureKind::Timeout,
        format!(
            "{}{}{address} did not accept the connection within {seconds} s; a firewall may drop the \
             traffic silently, or the broker is overloaded (mqtt.connect_timeout covers DNS, TCP, \
             TLS and its answer together)",
            context.broker(),
            context.through_proxy()
        ),
    )
}

/// Explains a write that did not finish in time.
pub(super) fn stalled(context: &FailureContext<'_>) -> ConnectionFailure {
    ConnectionFailure::new(
        FailureKind::Timeout,
        format!(
            "the connection to {} accepted no data for {} s; reconnecting",
            context.broker(),
            context.mqtt.connect_timeout.as_secs()
        ),
    )
}

/// Explains a PINGREQ without an answer within the keep-alive.
pub(super) fn silent(context: &FailureContext<'_>) -> ConnectionFailure {
    ConnectionFailure::new(
        FailureKind::KeepAliveLost,
        format!(
            "{} did not answer the MQTT ping within the keep alive of {} s: the connection was \
             cut without notice, as by a firewall that drops idle connections; if this repeats, \
             lower mqtt.keep_alive",
            context.broker(),
            context.mqtt.keep_alive.as_secs()
        ),
    )
}

/// Explains a connection that was closed without a reason.
pub(super) fn closed(context: &FailureContext<'_>) -> ConnectionFailure {
    let broker = context.broker();
    if let (None, Some(note)) = (context.uptime, alert::outside_validity(context)) {
        // A broker that closes at once may reset the connection before its alert is read.
        return ConnectionFailure::new(
            FailureKind::TlsClientCertificate,
            format!("{broker} closed the connection before answering CONNECT: {note}"),
        );
    }
    let message = match context.uptime {
        None => {
            let suspect = if context.mqtt.tls.is_some() {
                "it may refuse the client certificate,"
            } else {
                "it may require TLS on this port, or refuse"
            };
            format!(
                "{broker} closed the connection before answering CONNECT{}; {suspect} the user \
                 or the client id {:?} without an error code, or be restarting",
                context.through_proxy(),
                context.mqtt.client_id
            )
        }
        Some(uptime) if uptime < SOON => format!(
            "{broker} closed the connection {} ms after accepting it; another client may use the \
             client id {:?}, or the subscription is not allowed for the tenant {:?}",
            uptime.as_millis(),
            context.mqtt.client_id,
            context.tenant
        ),
        Some(uptime) => format!(
            "{broker} closed the connection after {} s, as in a restart or a network change; \
             reconnecting",
            uptime.as_secs()
        ),
    };
    ConnectionFailure::new(FailureKind::ClosedByBroker, message)
}
