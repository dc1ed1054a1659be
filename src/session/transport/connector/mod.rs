//! Opens connections to the broker in steps: name lookup, TCP, HTTP proxy, TLS, CONNECT.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_http_proxy::{
    HttpError, http_connect_tokio, http_connect_tokio_with_basic_auth as http_connect_with_password,
};
use rumqttc::tokio_rustls::TlsConnector;
use rumqttc::{ConnectionError, TlsError};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::mqtt::{BrokerStream, LoginOptions, NetworkTransport};
use super::{AcceptedConnection, BrokerConnector, ConnectFuture, ConnectRequest};
use crate::config::{MqttConfig, ProxyConfig};
use crate::race::{self, FIRST, FailedAttempt, RaceOutcome, ReachedAddress, SuspectAddresses};
use crate::session::credentials::tls::LoadedTls;

/// Error of an attempt to connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name of the broker or proxy could not be resolved.
    #[error("could not resolve the name: {0}")]
    Lookup(io::Error),
    /// No address of the broker or proxy accepted a TCP connection.
    #[error("no address accepted a connection")]
    Unreachable(Vec<FailedAttempt>),
    /// The HTTP proxy refused the connection.
    #[error("the proxy failed: {0}")]
    Proxy(#[from] HttpError),
    /// The time-out passed after this address had accepted the TCP connection.
    #[error("{0} did not complete the connection in time")]
    Stalled(SocketAddr),
    /// The TLS handshake or MQTT login failed.
    #[error(transparent)]
    Mqtt(#[from] ConnectionError),
}

/// Connector over TCP and TLS that uses the first address of the broker to answer.
#[derive(Debug, Default)]
pub struct NetworkConnector {
    suspects: SuspectAddresses,
}

impl BrokerConnector for NetworkConnector {
    fn connect<'a>(&'a self, request: &'a ConnectRequest<'a>) -> ConnectFuture<'a> {
        let tls = request.credentials.tls.as_ref();
        let login = LoginOptions { clean_session: false, max_packet_size: request.max_packet_size };
        Box::pin(self.open(request.mqtt, tls, login))
    }
}

impl NetworkConnector {
    /// Opens a connection that resumes the durable session or, with `clean_session`, deletes it.
    pub(in crate::session) async fn open(
        &self,
        mqtt: &MqttConfig,
        tls: Option<&LoadedTls>,
        login: LoginOptions,
    ) -> Result<AcceptedConnection, ConnectError> {
        let deadline = Instant::now() + mqtt.connect_timeout;
        let resolved = resolve(mqtt, deadline).await?;
        self.open_any(&resolved, mqtt, tls, login, deadline).await
    }

    async fn open_any(
        &self,
        resolved: &[SocketAddr],
        mqtt: &MqttConfig,
        tls: Option<&LoadedTls>,
        login: LoginOptions,
        deadline: Instant,
    ) -> Result<AcceptedConnection, ConnectError> {
        let addresses = self.suspects.order(resolved);
        let RaceOutcome { mut reached, failed } =
            race::connect_tcp(&addresses, FIRST, deadline).await;
        let Some(ReachedAddress { stream, address, .. }) = reached.pop() else {
            return Err(ConnectError::Unreachable(failed));
        };
        report_failed(&failed, address);
        let result = timeout_at(deadline, complete_handshake(mqtt, tls, stream, login)).await;
        let result = result.unwrap_or(Err(ConnectError::Stalled(address)));
        self.suspects.note(address, result.is_ok());
        result
    }
}

fn report_failed(failed: &[FailedAttempt], connected: SocketAddr) {
    for FailedAttempt { address, cause } in failed.iter().filter(|failed| failed.is_noteworthy()) {
        tracing::warn!(
            %address,
            error = %cause,
            %connected,
            "could not connect to an address of the broker or proxy; using another address"
        );
    }
}

/// Returns the first hop: the proxy if one is configured, else the broker.
fn first_hop(mqtt: &MqttConfig) -> (&str, u16) {
    match &mqtt.proxy {
        Some(proxy) => (proxy.host.as_str(), proxy.port),
        None => (mqtt.host.as_str(), mqtt.port),
    }
}

/// Resolves the addresses of the first hop.
pub(in crate::session) async fn resolve(
    mqtt: &MqttConfig,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let (host, port) = first_hop(mqtt);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let lookup = timeout_at(deadline, tokio::net::lookup_host((host, port))).await;
    let unanswered = |_| {
        let seconds = mqtt.connect_timeout.as_secs_f64();
        io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {seconds} s"))
    };
    let addresses: Vec<_> =
        lookup.map_err(unanswered).flatten().map_err(ConnectError::Lookup)?.collect();
    if addresses.is_empty() {
        return Err(ConnectError::Lookup(io::Error::other("the name has no address")));
    }
    Ok(addresses)
}

/// Completes the steps after TCP: proxy, TLS and MQTT login.
async fn complete_handshake(
    mqtt: &MqttConfig,
    tls: Option<&LoadedTls>,
    mut stream: TcpStream,
    login: LoginOptions,
) -> Result<AcceptedConnection, ConnectError> {
    tunnel(mqtt, &mut stream).await?;
    let stream = start_tls(mqtt, tls, stream).await?;
    Ok(NetworkTransport::login(mqtt, stream, login).await?)
}

/// Opens a tunnel through the HTTP proxy, if one is configured.
pub(in crate::session) async fn tunnel(
    mqtt: &MqttConfig,
    stream: &mut TcpStream,
) -> Result<(), HttpError> {
    let Some(ProxyConfig { credentials, .. }) = &mqtt.proxy else { return Ok(()) };
    let host = if mqtt.host.contains(':') { &format!("[{}]", mqtt.host) } else { &mqtt.host };
    match credentials {
        None => http_connect_tokio(stream, host, mqtt.port).await,
        Some((user, password)) => {
            let password = password.expose_secret();
            http_connect_with_password(stream, host, mqtt.port, user, password).await
        }
    }
}

/// Performs the TLS handshake, if TLS is configured. The broker's certificate is checked for
/// `mqtt.host`.
pub(in crate::session) async fn start_tls(
    mqtt: &MqttConfig,
    tls: Option<&LoadedTls>,
    stream: TcpStream,
) -> Result<BrokerStream, ConnectionError> {
    let Some(loaded) = tls else { return Ok(Box::new(stream)) };
    loaded.recorder.reset();
    let name = ServerName::try_from(mqtt.host.clone()).map_err(TlsError::from)?;
    let connector = TlsConnector::from(Arc::clone(&loaded.config));
    let secured = connector.connect(name, stream).await.map_err(TlsError::from)?;
    Ok(Box::new(secured))
}

#[cfg(test)]
mod tests;
