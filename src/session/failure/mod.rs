//! Turns what rumqttc reports into a cause and a cure: the one place where connection failures
//! become sentences.
//!
//! Where a cause surfaces depends on the moment. A client certificate refused under TLS 1.2 ends
//! the handshake; under TLS 1.3 the handshake is over by then, and the alert comes out of the
//! first read, wrapped as a packet error. `docs/connection-errors.md` lists every kind; a test
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

/// A failed or lost connection, explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectionFailure {
    /// The class of the cause.
    pub kind: FailureKind,
    /// Cause and cure, for a person.
    pub message: String,
}

/// The class of a failure. Its label is the `reason` of `reconnects_total` and of `connection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The host name could not be resolved.
    Dns,
    /// Nothing listens on the port.
    TcpRefused,
    /// No route, or a firewall refused.
    TcpUnreachable,
    /// No answer in time, at whatever step.
    Timeout,
    /// The HTTP proxy could not be used, or could not reach the broker.
    Proxy,
    /// The HTTP proxy refused us: credentials or policy (status 4xx).
    ProxyRefused,
    /// The peer does not speak TLS, or not a version of ours.
    TlsProtocol,
    /// No cipher, curve or signature in common with the broker.
    TlsCipher,
    /// The broker's certificate comes from nobody we trust.
    TlsTrust,
    /// The broker's certificate is for another name.
    TlsName,
    /// The broker's certificate is not valid now.
    TlsExpiredServer,
    /// Our own certificate, key or CA file cannot be used.
    TlsFiles,
    /// The broker refused our certificate.
    TlsClientCertificate,
    /// CONNACK 4.
    BadCredentials,
    /// CONNACK 5.
    NotAuthorized,
    /// CONNACK 2.
    IdentifierRejected,
    /// CONNACK 3, or the broker's own trouble.
    ServerUnavailable,
    /// CONNACK 1.
    ProtocolVersion,
    /// The connection died silently.
    KeepAliveLost,
    /// The broker or something on the way closed the connection.
    ClosedByBroker,
    /// The connection was closed after nothing had been sent either way for a while. Seen by the
    /// session, and made with [`FailureContext::idle_timeout`].
    IdleTimeout,
    /// A packet larger than accepted; its remaining length in bytes, which the limit must reach.
    PacketTooLarge(usize),
    /// Another client took the client id over. Never seen in one failure: recognised by the
    /// session from a pattern, and made with [`FailureContext::takeover`].
    Takeover,
    /// Something that MQTT 3.1.1 does not allow.
    Protocol,
    /// A packet id was given to another message before the first was acknowledged. Seen by the
    /// session, and made with [`FailureContext::packet_id_reused`].
    PacketIdReused,
    /// A message was repeated after its acknowledgement. Seen by the session, and made with
    /// [`FailureContext::unclear_repeat`].
    UnclearRepeat,
    /// Nothing was released for a whole keep-alive. Seen by the session, and made with
    /// [`FailureContext::overloaded`].
    Overloaded,
}

impl FailureKind {
    /// One of each.
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

    /// As in `reconnects_total{reason}`.
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

    /// Whether other credentials (certificate, key, trust anchors, user, password) may help.
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

    /// Whether only a person can mend it: such failures wait the longest at once, since trying
    /// again sooner changes nothing and may lock an account.
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
    /// A failure of a known kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// See [`FailureKind::label`].
    pub fn label(&self) -> &'static str {
        self.kind.label()
    }

    /// See [`FailureKind::needs_a_person`].
    pub fn needs_operator(&self) -> bool {
        self.kind.needs_operator()
    }
}

/// What a sentence may have to name. Holds no secret.
#[derive(Debug, Clone, Copy)]
pub struct FailureContext<'a> {
    /// The configured tenant.
    pub tenant: &'a str,
    /// The broker and how it is reached.
    pub mqtt: &'a MqttConfig,
    /// How long the connection had been up; `None` before CONNACK.
    pub uptime: Option<Duration>,
    /// What TLS is done with, where it is.
    pub(super) tls: Option<&'a LoadedTls>,
    /// Now.
    pub now: OffsetDateTime,
}

impl<'a> FailureContext<'a> {
    /// Of a connection that has not had its CONNACK.
    pub fn new(tenant: &'a str, mqtt: &'a MqttConfig, now: OffsetDateTime) -> Self {
        Self { tenant, mqtt, uptime: None, tls: None, now }
    }

    /// Of a connection that was up for as long.
    #[must_use]
    pub fn up_for(mut self, uptime: Duration) -> Self {
        self.uptime = Some(uptime);
        self
    }

    /// With the certificates of both sides, so that their faults can be named.
    #[must_use]
    pub fn with_tls(mut self, tls: &'a LoadedTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Returns the client certificate.
    fn certificate(&self) -> Option<&'a CertificateFacts> {
        self.tls.map(|tls| &tls.certificate)
    }

    /// Returns what the broker presented in the last handshake: its own certificate first.
    fn presented(&self) -> Vec<CertificateFacts> {
        self.tls.map(|tls| tls.recorder.handshake().chain).unwrap_or_default()
    }

    /// What `error` means and what to do about it.
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

    /// Explains an attempt that led to no connection.
    pub fn explain_attempt(&self, error: &ConnectError) -> ConnectionFailure {
        match error {
            ConnectError::Lookup(error) => reach::lookup_failed(self, error),
            ConnectError::Unreachable(failed) => reach::explain(self, failed),
            ConnectError::Proxy(error) => proxy::explain(self, error),
            ConnectError::Stalled(address) => cause::timed_out(self, Some(*address)),
            ConnectError::Mqtt(error) => self.explain(error),
        }
    }

    /// What a network error means that was met on the way to the first hop: the proxy where one is
    /// configured, else the broker.
    fn explain_first_hop(&self, error: &std::io::Error) -> ConnectionFailure {
        match &self.mqtt.proxy {
            Some(proxy) => proxy::first_hop(proxy, error),
            None => cause::explain_io(self, error),
        }
    }

    /// The pattern of two clients with one id, as the session recognises it: `losses`
    /// connections in a row, each closed by the broker shortly after it was up.
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

    /// Explains a close after `silence` in both directions, which the session notices.
    pub fn idle_timeout(&self, silence: Duration) -> ConnectionFailure {
        let seconds = (silence + Duration::from_millis(500)).as_secs();
        ConnectionFailure::new(
            FailureKind::IdleTimeout,
            format!(
                "the connection to {} was closed after {seconds} s in which nothing was sent either \
                 way, as by a load balancer or firewall with an idle timeout; PINGREQ is sent more \
                 often from now on, but not after a restart: set mqtt.keep_alive to {seconds}s or \
                 less",
                self.broker()
            ),
        )
    }

    /// Explains a packet id that was reused too early, which the session notices.
    pub fn packet_id_reused(&self, packet_id: u16) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::PacketIdReused,
            format!(
                "{} sent a different message under packet id {packet_id}, whose first message is not \
                 acknowledged yet (MQTT-2.3.1-4); connecting again, so that both are delivered anew: \
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
                "{} sent a message again after its acknowledgement; connecting again, because only a \
                 new connection shows whether it still waits for one: if this repeats, raise the \
                 retry interval of the broker",
                self.broker()
            ),
        )
    }

    /// Explains a reconnect for messages that had found no room at `bound`.
    pub fn overloaded(&self, bound: &str) -> ConnectionFailure {
        ConnectionFailure::new(
            FailureKind::Overloaded,
            format!(
                "messages found no room ({bound}) and stayed with the broker, because nothing could be \
                 acknowledged for the whole of mqtt.keep_alive; there is room again, so connecting \
                 to receive them: if this repeats, make the database faster or set spool.dir",
            ),
        )
    }

    /// Returns the authorities that are trusted.
    fn anchors(&self) -> &'a [CertificateFacts] {
        self.tls.map_or(&[], |tls| &tls.anchors)
    }

    fn broker(&self) -> String {
        format!("the broker {}:{}", self.mqtt.host, self.mqtt.port)
    }

    /// The name that the broker's certificate must carry.
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
