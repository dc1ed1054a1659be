//! A probe of the broker that does not affect the live session: another client id, a clean session, no
//! shared subscription, no acknowledgement. It runs step by step and reports each result.
//!
//! A member of a share group takes messages from the other members. So the probe subscribes to the
//! topics themselves, never to `$share/…`. It receives a copy of each message and drops it, and
//! every other subscriber still receives its own.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::ConnectionError;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::PROTOCOL_MAX_PACKET;
use super::connection::SubscriptionGrants;
use super::credentials::recording_verifier::HandshakeInfo;
use super::credentials::tls::{self, LoadedTls};
use super::failure::{ConnectionFailure, FailureContext, FailureKind};
use super::transport::connector::{self, ConnectError};
use super::transport::mqtt::{BrokerStream, LoginOptions, NetworkTransport};
use super::transport::{IncomingPacket, OutgoingPacket, Transport};
use crate::config::MqttConfig;
use crate::credentials::CertificateFacts;
use crate::race::{self, EVERY, FailedAttempt, RaceOutcome, ReachedAddress};

/// Gives up sending DISCONNECT after this long. Closing the socket ends the connection too.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Result of a step, in the order of the steps.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeFinding {
    /// The name of the broker or proxy has these addresses.
    Resolved(Vec<SocketAddr>),
    /// An address accepted a TCP connection.
    Reached {
        /// Address of the broker or proxy.
        address: SocketAddr,
        /// Time that connecting took.
        took: Duration,
    },
    /// An address did not accept a TCP connection, while another did.
    NotReached {
        /// Address of the broker or proxy.
        address: SocketAddr,
        /// Cause of the failure.
        problem: String,
    },
    /// The proxy opened a tunnel to the broker.
    Tunnelled,
    /// The TLS handshake succeeded, and the broker has proven its identity.
    Secured {
        /// Negotiated TLS version.
        version: &'static str,
        /// Certificate of the broker.
        certificate: Box<CertificateFacts>,
    },
    /// CONNACK 0: certificate, user, password and client id were accepted.
    Accepted,
    /// A topic filter was granted at QoS 1.
    Granted(String),
    /// A topic filter was not granted at QoS 1. The connection stays open.
    NotGranted {
        /// Topic filter of the SUBSCRIBE.
        filter: String,
        /// Problem, with its remedy.
        problem: String,
    },
    /// A step failed, and later steps were not tried.
    Failed {
        /// The step that failed.
        step: ProbeStep,
        /// Explanation of the failure.
        failure: ConnectionFailure,
        /// Certificate that the broker presented, if the handshake got that far.
        presented: Option<Box<CertificateFacts>>,
    },
}

/// Steps of a probe, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeStep {
    /// Name lookup of the broker or proxy.
    Name,
    /// TCP connection to an address.
    Tcp,
    /// Tunnel through the HTTP proxy.
    Proxy,
    /// TLS, up to the broker's proof of its identity.
    Tls,
    /// CONNECT and CONNACK. With TLS 1.3 it includes the broker's check of the client certificate.
    Login,
    /// Subscription to a topic filter.
    Subscription(String),
}

/// A broker to be probed.
#[derive(Debug)]
pub struct Probe {
    tenant: String,
    /// Section `mqtt` as configured, except for the client id.
    mqtt: MqttConfig,
    /// Topic filters without shared subscriptions.
    filters: Vec<String>,
}

/// Failure that ends the probe and becomes the last finding.
type ProbeFailure = (ProbeStep, ConnectionFailure);

impl Probe {
    /// Creates a probe of `mqtt` with its own client id.
    pub fn new(tenant: &str, mqtt: &MqttConfig) -> Self {
        let plain = MqttConfig { share_group: None, ..mqtt.clone() };
        let filters = crate::topic::filters(&plain, tenant);
        let client_id = format!("{tenant}-check-{:08x}", rand::random::<u32>());
        Self { tenant: tenant.to_owned(), mqtt: MqttConfig { client_id, ..plain }, filters }
    }

    /// Returns the client id of the probe.
    pub fn client_id(&self) -> &str {
        &self.mqtt.client_id
    }

    /// Runs all steps until one fails and appends the findings. Lookup and connecting together, and
    /// each subscription, are bounded by `mqtt.connect_timeout`.
    pub async fn run(&self, findings: &mut Vec<ProbeFinding>) {
        let tls = match &self.mqtt.tls {
            None => Ok(None),
            Some(section) => tls::client_config(section).map(Some),
        };
        let ended = match &tls {
            Ok(tls) => self.steps(tls.as_ref(), findings).await,
            // Without the files, lookup and TCP can still be checked.
            Err(error) => self.reach(self.deadline(), findings).await.and_then(|_| {
                Err((
                    ProbeStep::Tls,
                    ConnectionFailure::new(FailureKind::TlsFiles, error.to_string()),
                ))
            }),
        };
        if let Err((step, failure)) = ended {
            let presented = match (&step, tls) {
                (ProbeStep::Tls, Ok(Some(loaded))) => loaded.recorder.handshake().chain,
                _ => Vec::new(),
            };
            let presented = presented.into_iter().next().map(Box::new);
            findings.push(ProbeFinding::Failed { step, failure, presented });
        }
    }

    async fn steps(
        &self,
        tls: Option<&LoadedTls>,
        findings: &mut Vec<ProbeFinding>,
    ) -> Result<(), ProbeFailure> {
        let deadline = self.deadline();
        let (mut stream, address) = self.reach(deadline, findings).await?;
        let context = self.failure_context(tls);
        let within = StepLimit { deadline, address, context };
        within.run(ProbeStep::Proxy, connector::tunnel(&self.mqtt, &mut stream)).await?;
        findings.extend(self.mqtt.proxy.as_ref().map(|_| ProbeFinding::Tunnelled));
        let stream = self.secure(&within, tls, stream, findings).await?;
        let login = LoginOptions { clean_session: true, max_packet_size: PROTOCOL_MAX_PACKET };
        let login = NetworkTransport::login(&self.mqtt, stream, login);
        let transport = within.run(ProbeStep::Login, login).await?.transport;
        findings.push(ProbeFinding::Accepted);
        self.subscribe_all(transport, context, findings).await
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.mqtt.connect_timeout
    }

    /// Resolves the name and tries every address. The first to accept is used for the later steps.
    async fn reach(
        &self,
        deadline: Instant,
        findings: &mut Vec<ProbeFinding>,
    ) -> Result<(TcpStream, SocketAddr), ProbeFailure> {
        let fail = |step, error| (step, self.failure_context(None).explain_attempt(&error));
        let addresses = connector::resolve(&self.mqtt, deadline)
            .await
            .map_err(|error| fail(ProbeStep::Name, error))?;
        findings.push(ProbeFinding::Resolved(addresses.clone()));
        Self::reach_any(&race::order(&addresses, &[]), deadline, findings)
            .await
            .map_err(|error| fail(ProbeStep::Tcp, error))
    }

    async fn reach_any(
        addresses: &[SocketAddr],
        deadline: Instant,
        findings: &mut Vec<ProbeFinding>,
    ) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let RaceOutcome { reached, failed } = race::connect_tcp(addresses, EVERY, deadline).await;
        if reached.is_empty() {
            return Err(ConnectError::Unreachable(failed));
        }
        findings.extend(
            reached.iter().map(|&ReachedAddress { address, took, .. }| ProbeFinding::Reached {
                address,
                took,
            }),
        );
        let failed = failed.into_iter().filter(FailedAttempt::is_noteworthy);
        findings.extend(failed.map(|FailedAttempt { address, cause }| ProbeFinding::NotReached {
            address,
            problem: cause.to_string(),
        }));
        // Unwrap safety: `reached` is not empty.
        let first = reached.into_iter().next().expect("a connection");
        Ok((first.stream, first.address))
    }

    /// Performs the TLS handshake. Under TLS 1.2 the broker refuses the client certificate here,
    /// after it has proven its own identity, which counts as a failure of the login.
    async fn secure(
        &self,
        within: &StepLimit<'_>,
        tls: Option<&LoadedTls>,
        stream: TcpStream,
        findings: &mut Vec<ProbeFinding>,
    ) -> Result<BrokerStream, ProbeFailure> {
        let secured =
            within.run(ProbeStep::Tls, connector::start_tls(&self.mqtt, tls, stream)).await;
        let HandshakeInfo { chain, version } =
            tls.map(|tls| tls.recorder.handshake()).unwrap_or_default();
        let proven = version.is_some();
        if let (Some(version), Some(certificate)) = (version, chain.into_iter().next()) {
            findings.push(ProbeFinding::Secured { version, certificate: Box::new(certificate) });
        }
        secured.map_err(|(step, failure)| (if proven { ProbeStep::Login } else { step }, failure))
    }

    fn failure_context<'a>(&'a self, tls: Option<&'a LoadedTls>) -> FailureContext<'a> {
        let context = FailureContext::new(&self.tenant, &self.mqtt, OffsetDateTime::now_utc());
        match tls {
            Some(loaded) => context.with_tls(loaded),
            None => context,
        }
    }
}

/// Deadline of a step and the context that explains its failure.
#[derive(Clone, Copy)]
struct StepLimit<'a> {
    deadline: Instant,
    /// Address of the connection.
    address: SocketAddr,
    context: FailureContext<'a>,
}

impl StepLimit<'_> {
    async fn run<T, E: Into<ConnectError>>(
        &self,
        step: ProbeStep,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ProbeFailure> {
        let error = match timeout_at(self.deadline, work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.into(),
            Err(_) => ConnectError::Stalled(self.address),
        };
        Err((step, self.context.explain_attempt(&error)))
    }
}

impl Probe {
    /// Subscribes to one filter at a time, so that a broker that disconnects shows at which.
    async fn subscribe_all(
        &self,
        mut transport: Box<dyn Transport>,
        context: FailureContext<'_>,
        findings: &mut Vec<ProbeFinding>,
    ) -> Result<(), ProbeFailure> {
        let opened = Instant::now();
        for (packet_id, filter) in (1..).zip(&self.filters) {
            let asked = Self::subscribe(transport.as_mut(), packet_id, filter);
            let finding = match timeout_at(self.deadline(), asked).await {
                Ok(Ok(granted)) => subscription_finding(filter, &granted),
                Ok(Err(error)) => Err(context.up_for(opened.elapsed()).explain(&error)),
                Err(_) => Err(self.not_answered()),
            };
            findings.push(
                finding.map_err(|failure| (ProbeStep::Subscription(filter.clone()), failure))?,
            );
        }
        // Without it, the broker logs a lost client.
        let _ =
            timeout(DISCONNECT_TIMEOUT, transport.write(vec![OutgoingPacket::Disconnect])).await;
        Ok(())
    }

    async fn subscribe(
        transport: &mut dyn Transport,
        packet_id: u16,
        filter: &str,
    ) -> Result<Vec<Option<u8>>, ConnectionError> {
        let filters = vec![filter.to_owned()];
        transport.write(vec![OutgoingPacket::Subscribe { packet_id, filters }]).await?;
        loop {
            // Copies of messages that arrive first can be dropped.
            if let IncomingPacket::SubAck { granted, .. } = transport.read().await? {
                return Ok(granted);
            }
        }
    }

    fn not_answered(&self) -> ConnectionFailure {
        let seconds = self.mqtt.connect_timeout.as_secs();
        let message = format!("the broker did not answer SUBSCRIBE within {seconds} s; try again");
        ConnectionFailure::new(FailureKind::Timeout, message)
    }
}

fn subscription_finding(
    filter: &str,
    granted: &[Option<u8>],
) -> Result<ProbeFinding, ConnectionFailure> {
    let filter = filter.to_owned();
    let grants = SubscriptionGrants::new(std::slice::from_ref(&filter), granted)
        .map_err(|error| ConnectionFailure::new(FailureKind::Protocol, error.to_string()))?;
    Ok(match grants.problem() {
        None => ProbeFinding::Granted(filter),
        Some(problem) => ProbeFinding::NotGranted { filter, problem },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::credentials::tls::testing::{BlackHole, serve};

    #[tokio::test]
    async fn every_address_is_tried_and_failures_named() {
        let port = serve(drop);
        let good = SocketAddr::from(([127, 0, 0, 1], port));
        let hole = BlackHole::on(2).await;
        let mut findings = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        let addresses = [hole.address, good];
        let reached = Probe::reach_any(&addresses, deadline, &mut findings).await.unwrap();
        assert_eq!(reached.1, good);
        let [
            ProbeFinding::Reached { address: up, .. },
            ProbeFinding::NotReached { address: down, problem },
        ] = &findings[..]
        else {
            panic!("{findings:?}")
        };
        assert_eq!((*up, *down), (good, hole.address));
        assert!(problem.contains("did not answer within"), "{problem}");
    }
}
