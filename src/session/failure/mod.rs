//! Explains connection failures: the one place that turns errors of rumqttc into a cause and a remedy.
//!
//! The same cause surfaces in different places. A client certificate refused under TLS 1.2 ends the
//! handshake. Under TLS 1.3 the handshake has finished by then, and the alert is returned by the
//! first read, wrapped as a packet error. `docs/connection-errors.md` lists every kind, and a test
//! keeps it in step.

mod alert;
mod cause;
mod mqtt;
mod proxy;
mod reach;
mod server_certificate;

use std::path::Path;
use std::time::Duration;

use rumqttc::ConnectionError;
use time::OffsetDateTime;

use super::credentials::tls::LoadedTls;
use super::transport::connector::ConnectError;
use crate::config::MqttConfig;
use crate::credentials::CertificateFacts;

/// Explanation of a failed or lost connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectionFailure {
    /// Class of the cause.
    pub kind: FailureKind,
    /// Cause and remedy, for the operator.
    pub message: String,
}

/// Class of a failure. Its label is the `reason` of `reconnects_total` and of `connection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The host name could not be resolved.
    Dns,
    /// No process listens on the port.
    TcpRefused,
    /// No route to the host, or a firewall refused.
    TcpUnreachable,
    /// No answer in time, at any step.
    Timeout,
    /// The HTTP proxy could not be used, or could not reach the broker.
    Proxy,
    /// The HTTP proxy refused the request: credentials or policy (status 4xx).
    ProxyRefused,
    /// The peer does not speak TLS, or no supported version of it.
    TlsProtocol,
    /// No cipher, curve or signature in common with the broker.
    TlsCipher,
    /// The broker's certificate was issued by no trusted authority.
    TlsTrust,
    /// The broker's certificate is for another name.
    TlsName,
    /// The broker's certificate is not valid now.
    TlsExpiredServer,
    /// The configured certificate, key or CA file cannot be used.
    TlsFiles,
    /// The broker refused the client certificate.
    TlsClientCertificate,
    /// CONNACK 4: bad user name or password.
    BadCredentials,
    /// CONNACK 5: not authorized.
    NotAuthorized,
    /// CONNACK 2: client id rejected.
    IdentifierRejected,
    /// CONNACK 3: server unavailable, or an internal error of the broker.
    ServerUnavailable,
    /// CONNACK 1: unacceptable protocol version.
    ProtocolVersion,
    /// The broker did not answer PINGREQ within the keep-alive.
    KeepAliveLost,
    /// The broker or a device on the path closed the connection.
    ClosedByBroker,
    /// The connection was closed after a silence in both directions. Detected by the session and made
    /// with [`FailureContext::idle_timeout`].
    IdleTimeout,
    /// A packet exceeds the limit. Holds its remaining length in bytes, which the limit must reach.
    PacketTooLarge(usize),
    /// Another client uses the client id. One failure does not show it: the session detects it from a
    /// series of them and makes it with [`FailureContext::takeover`].
    Takeover,
    /// A violation of MQTT 3.1.1.
    Protocol,
    /// A packet id was reused for another message before the first was acknowledged. Detected by the
    /// session and made with [`FailureContext::packet_id_reused`].
    PacketIdReused,
    /// A message was repeated after its acknowledgement. Detected by the session and made with
    /// [`FailureContext::unclear_repeat`].
    UnclearRepeat,
    /// No room was freed for a whole keep-alive. Detected by the session and made with
    /// [`FailureContext::overloaded`].
    Overloaded,
}

impl FailureKind {
    /// All kinds, one value of each.
    pub const ALL: [Self; 27] = [
        Self::Dns,
        Self::TcpRefused,
        Self::TcpUnreachable,
        Self::Timeout,
        Self::Proxy,
        Self::ProxyRefused,
        Self::TlsProtocol,
        Self::TlsCipher,
        Self::TlsTrust,
        Self::TlsName,
        Self::TlsExpiredServer,
        Self::TlsFiles,
        Self::TlsClientCertificate,
        Self::BadCredentials,
        Self::NotAuthorized,
        Self::IdentifierRejected,
        Self::ServerUnavailable,
        Self::ProtocolVersion,
        Self::KeepAliveLost,
        Self::ClosedByBroker,
        Self::IdleTimeout,
        Self::PacketTooLarge(0),
        Self::Takeover,
        Self::Protocol,
        Self::PacketIdReused,
        Self::UnclearRepeat,
        Self::Overloaded,
    ];

    /// Returns the label, as in `reconnects_total{reason}`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::TcpRefused => "tcp_refused",
            Self::TcpUnreachable => "tcp_unreachable",
            Self::Timeout => "timeout",
            Self::Proxy => "proxy",
            Self::ProxyRefused => "proxy_refused",
            Self::TlsProtocol => "tls_protocol",
            Self::TlsCipher => "tls_cipher",
            Self::TlsTrust => "tls_trust",
            Self::TlsName => "tls_name",
            Self::TlsExpiredServer => "tls_expired_server",
            Self::TlsFiles => "tls_files",
            Self::TlsClientCertificate => "tls_client_certificate",
            Self::BadCredentials => "bad_credentials",
            Self::NotAuthorized => "not_authorized",
            Self::IdentifierRejected => "identifier_rejected",
            Self::ServerUnavailable => "server_unavailable",
            Self::ProtocolVersion => "protocol_version",
            Self::KeepAliveLost => "keep_alive_lost",
            Self::ClosedByBroker => "closed_by_broker",
            Self::IdleTimeout => "idle_timeout",
            Self::PacketTooLarge(_) => "packet_too_large",
            Self::Takeover => "takeover",
            Self::Protocol => "protocol",
            Self::PacketIdReused => "packet_id_reused",
            Self::UnclearRepeat => "unclear_repeat",
            Self::Overloaded => "overloaded",
        }
    }

    /// Returns true if other credentials (certificate, key, trust anchors, user, password) may help.
    pub fn concerns_credentials(self) -> bool {
        matches!(
            self,
            Self::TlsTrust
                | Self::TlsName
                | Self::TlsClientCertificate
                | Self::BadCredentials
                | Self::NotAuthorized
        )
    }

    /// Returns true if the failure needs operator action. Such failures use the maximum delay at once,
    /// because an earlier retry changes nothing and may lock an account.
    pub fn needs_operator(self) -> bool {
        matches!(
            self,
            Self::ProxyRefused
                | Self::TlsProtocol
                | Self::TlsCipher
                | Self::TlsTrust
                | Self::TlsName
                | Self::TlsExpiredServer
                | Self::TlsFiles
                | Self::TlsClientCertificate
                | Self::BadCredentials
                | Self::NotAuthorized
                | Self::IdentifierRejected
                | Self::ProtocolVersion
                | Self::Takeover
        )
    }
}

impl ConnectionFailure {
    /// Creates a failure of a known kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Returns the label of the kind, see [`FailureKind::label`].
    pub fn label(&self) -> &'static str {
        self.kind.label()
    }

    /// Returns true if it needs operator action, see [`FailureKind::needs_operator`].
    pub fn needs_operator(&self) -> bool {
        self.kind.needs_operator()
    }
}

/// Facts that an explanation may name. Holds no secret.
#[derive(Debug, Clone, Copy)]
pub struct FailureContext<'a> {
    /// Tenant of the configuration.
    pub tenant: &'a str,
    /// Section `mqtt` of the configuration.
    pub mqtt: &'a MqttConfig,
    /// Time since CONNACK, `None` before it.
    pub uptime: Option<Duration>,
    /// TLS configuration, if TLS is enabled.
    pub(super) tls: Option<&'a LoadedTls>,
    /// Wall-clock time of the explanation.
    pub now: OffsetDateTime,
}

impl<'a> FailureContext<'a> {
    /// Creates the context of a connection without a CONNACK.
    pub fn new(tenant: &'a str, mqtt: &'a MqttConfig, now: OffsetDateTime) -> Self {
        Self { tenant, mqtt, uptime: None, tls: None, now }
    }

    /// Adds the time since CONNACK.
    #[must_use]
    pub fn up_for(mut self, uptime: Duration) -> Self {
        self.uptime = Some(uptime);
        self
    }

    /// Adds the certificates of both sides, so that their faults can be named.
    #[must_use]
    pub fn with_tls(mut self, tls: &'a LoadedTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Returns the client certificate.
    fn certificate(&self) -> Option<&'a CertificateFacts> {
        self.tls.map(|tls| &tls.certificate)
    }

    /// Returns the certificates that the broker presented in the last handshake, with its own first.
    fn presented(&self) -> Vec<CertificateFacts> {
        self.tls.map(|tls| tls.recorder.handshake().chain).unwrap_or_default()
    }

    /// Explains an error of a connection, with its remedy.
    pub fn explain(&self, error: &ConnectionError) -> ConnectionFailure {
        match error {
            ConnectionError::Io(error) => cause::explain_io(self, error),
            ConnectionError::Tls(error) => cause::explain_tls(self, error),
            ConnectionError::MqttState(error) => mqtt::explain_state(self, error),
            ConnectionError::ConnectionRefused(code) => mqtt::explain_connack(self, *code),
            ConnectionError::NotConnAck(_) => mqtt::not_a_connack(self),
            ConnectionError::NetworkTimeout => cause::timed_out(self, None),
            ConnectionError::FlushTimeout => cause::stalled(self),
            ConnectionError::RequestsDone => mqtt::requests_done(),
        }
    }

    /// Explains an attempt that did not lead to a connection.
    pub fn explain_attempt(&self, error: &ConnectError) -> ConnectionFailure {
        match error {
            ConnectError::Lookup(error) => reach::lookup_failed(self, error),
            ConnectError::Unreachable(failed) => reach::explain(self, failed),
            ConnectError::Proxy(error) => proxy::explain(self, error),
            ConnectError::Stalled(address) => cause::timed_out(self, Some(*address)),
            ConnectError::Mqtt(error) => self.explain(error),
        }
    }

    /// Explains a network error on the way to the first hop, which is the proxy if one is
    /// configured and the broker otherwise.
    fn explain_first_hop(&self, error: &std::io::Error) -> ConnectionFailure {
        match &self.mqtt.proxy {
            Some(proxy) => proxy::first_hop(proxy, error),
            None => cause::explain_io(self, error),
        }
    }

    /// Explains `losses` consecutive connections, each closed by the broker shortly after CONNACK,
    /// as two clients with the same client id.
    pub fn takeover(&self, losses: usize) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::Takeover,
            format!(
                "{} closed the last {losses} connections shortly after each was up, as a broker \
                 does when another client connects with the client id {:?}; stop the other \
                 client, or give one of the two its own mqtt.client_id (and both the same \
                 mqtt.share_group)",
                self.broker(),
                self.mqtt.client_id
            ),
        )
    }

    /// Explains a close after `silence` in both directions, which the session detects.
    pub fn idle_timeout(&self, silence: Duration) -> ConnectionFailure {
        let seconds = (silence + Duration::from_millis(500)).as_secs();
        ConnectionFailure::new(
            FailureKind::IdleTimeout,
            format!(
                "the connection to {} was closed after {seconds} s of silence in both directions, \
                 as by a load balancer or firewall with an idle timeout; PINGREQ is sent more often \
                 from now on, but not after a restart: set mqtt.keep_alive to {seconds}s or less",
                self.broker()
            ),
        )
    }

    /// Explains a packet id that was reused too early, which the session detects.
    pub fn packet_id_reused(&self, packet_id: u16) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::PacketIdReused,
            format!(
                "{} sent a different message under packet id {packet_id}, whose first message is not \
                 acknowledged yet (MQTT-2.3.1-4); reconnecting, so that both are redelivered: \
                 if this repeats, report it to the broker's operator",
                self.broker()
            ),
        )
    }

    /// Explains a reconnect for a message that was repeated after its acknowledgement.
    pub fn unclear_repeat(&self) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::UnclearRepeat,
            format!(
                "{} sent a message again after its acknowledgement; reconnecting, because only a new \
                 connection shows whether it still waits for one: if this repeats, raise the \
                 retry interval of the broker",
                self.broker()
            ),
        )
    }

    /// Explains a reconnect for messages that were refused at `bound`.
    pub fn overloaded(&self, bound: &str) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::Overloaded,
            format!(
                "memory for un-acknowledged messages was full ({bound}) and none could be \
                 acknowledged for the whole of mqtt.keep_alive; there is room again, so reconnecting \
                 to receive the messages that stayed with the broker: if this repeats, make the \
                 database faster or set spool.dir",
            ),
        )
    }

    /// Returns the trusted authorities.
    fn anchors(&self) -> &'a [CertificateFacts] {
        self.tls.map_or(&[], |tls| &tls.anchors)
    }

    fn broker(&self) -> String {
        format!("the broker {}:{}", self.mqtt.host, self.mqtt.port)
    }

    /// Returns the name that the broker's certificate must contain.
    fn expected_name(&self) -> &'a str {
        let configured = self.mqtt.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        configured.unwrap_or(&self.mqtt.host)
    }

    fn ca_file(&self) -> Option<&'a Path> {
        self.mqtt.tls.as_ref().and_then(|tls| tls.ca_file.as_deref())
    }

    fn through_proxy(&self) -> String {
        match &self.mqtt.proxy {
            Some(proxy) => format!(" through the proxy {}:{}", proxy.host, proxy.port),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests;
