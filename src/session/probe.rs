//! A look at the broker that leaves the live session alone: another client id, a clean session, no
//! shared subscription, no acknowledgement. It goes one step at a time and says how far it came.
//!
//! A member of a share group takes messages from the other members. So the topics themselves are
//! asked for, never `$share/…`: a copy of each message comes here meanwhile and is dropped, and
//! every other subscriber still gets its own.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, Incoming, Outgoing, QoS};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::failure::{Context, Failure, FailureKind};
use super::subscription::Verdict;
use super::tls::{self, Loaded};
use super::transport::mqtt::granted;
use super::witness::{Seen, Witness};
use super::{PROTOCOL_MAX_PACKET, options};
use crate::config::Mqtt;
use crate::credentials::CertificateFacts;

/// A DISCONNECT that does not leave within this is left to the closing socket.
const GOODBYE: Duration = Duration::from_secs(1);

/// One thing found out, in the order of the steps.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The name of the broker, or of the proxy before it, has these addresses.
    Resolved(Vec<SocketAddr>),
    /// One of them accepted a connection.
    Reached {
        /// Which.
        address: SocketAddr,
        /// How long that took.
        took: Duration,
    },
    /// The proxy let us through to the broker.
    Tunnelled,
    /// TLS stands and the broker has proven who it is.
    Secured {
        /// The version.
        version: &'static str,
        /// The broker's certificate.
        certificate: Box<CertificateFacts>,
    },
    /// CONNACK 0: certificate, user, password and client id were accepted.
    Accepted,
    /// A topic filter was granted at QoS 1.
    Granted(String),
    /// A topic filter was not; the connection goes on.
    NotGranted {
        /// Which.
        filter: String,
        /// What is wrong, and the cure.
        problem: String,
    },
    /// A step failed, and the ones after it were not tried.
    Failed {
        /// Which step.
        step: Step,
        /// Why.
        failure: Failure,
        /// What the broker presented, where its certificate was seen.
        presented: Option<Box<CertificateFacts>>,
    },
}

/// The steps of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Name lookup.
    Name,
    /// TCP.
    Tcp,
    /// The HTTP proxy's CONNECT.
    Proxy,
    /// TLS, up to the broker's proof of who it is.
    Tls,
    /// CONNECT and CONNACK; with TLS 1.3 also the broker's verdict on the client certificate.
    Login,
    /// SUBSCRIBE to a filter.
    Subscription(String),
}

/// What is to be probed.
#[derive(Debug)]
pub struct Probe {
    tenant: String,
    /// As configured, but for the client id.
    mqtt: Mqtt,
    /// Topics, never shared subscriptions.
    filters: Vec<String>,
}

/// Ends the probe: pushed as the last finding.
type Broken = (Step, Failure);

impl Probe {
    /// A probe of `mqtt`, under a client id of its own.
    pub fn new(tenant: &str, mqtt: &Mqtt) -> Self {
        let plain = Mqtt { share_group: None, ..mqtt.clone() };
        let filters = crate::topic::filters(&plain, tenant);
        let client_id = format!("{tenant}-check-{:08x}", rand::random::<u32>());
        Self { tenant: tenant.to_owned(), mqtt: Mqtt { client_id, ..plain }, filters }
    }

    /// The client id it uses.
    pub fn client_id(&self) -> &str {
        &self.mqtt.client_id
    }

    /// Goes as far as it can and adds what it finds. Each of name lookup and connecting together,
    /// and each subscription, is bounded by `mqtt.connect_timeout`.
    pub async fn run(&self, findings: &mut Vec<Finding>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        if let Err((step, failure)) = self.steps(&seen, findings).await {
            let presented = match step {
                Step::Tls => look(&seen).certificate.map(Box::new),
                _ => None,
            };
            findings.push(Finding::Failed { step, failure, presented });
        }
    }

    async fn steps(
        &self,
        seen: &Arc<Mutex<Seen>>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Broken> {
        let deadline = self.deadline();
        self.reach(deadline, findings).await?;
        let tls = self.load_tls(seen)?;
        let (client, event_loop) = options::clean(&self.mqtt, tls.as_ref(), PROTOCOL_MAX_PACKET);
        let connection = Connection { probe: self, tls: tls.as_ref(), client, event_loop };
        connection.use_it(deadline, seen, findings).await
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.mqtt.connect_timeout
    }

    /// Name lookup and TCP, on a connection of their own: rumqttc tells the steps apart only where
    /// they fail, not where they hang.
    async fn reach(&self, deadline: Instant, findings: &mut Vec<Finding>) -> Result<(), Broken> {
        let (host, port) = match &self.mqtt.proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (self.mqtt.host.as_str(), self.mqtt.port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> =
            match timeout_at(deadline, tokio::net::lookup_host((host, port))).await {
                Ok(Ok(addresses)) => addresses.collect(),
                Ok(Err(error)) => return Err((Step::Name, self.first_hop(&error))),
                Err(_) => return Err((Step::Name, self.lookup_hung(host))),
            };
        findings.push(Finding::Resolved(addresses.clone()));
        let started = Instant::now();
        let address = connect(&addresses, deadline)
            .await
            .map_err(|error| (Step::Tcp, self.first_hop(&error)))?;
        findings.push(Finding::Reached { address, took: started.elapsed() });
        Ok(())
    }

    fn first_hop(&self, error: &io::Error) -> Failure {
        self.context(None).explain_first_hop(error)
    }

    fn lookup_hung(&self, host: &str) -> Failure {
        let seconds = self.mqtt.connect_timeout.as_secs();
        let sentence = format!(
            "the name {host} was not resolved within {seconds} s; check this machine's DNS \
             (/etc/resolv.conf) and that a firewall lets it through"
        );
        Failure::new(FailureKind::Dns, sentence)
    }

    fn load_tls(&self, seen: &Arc<Mutex<Seen>>) -> Result<Option<Loaded>, Broken> {
        let Some(section) = &self.mqtt.tls else { return Ok(None) };
        tls::client_config_with(section, |inner| Witness::around(inner, Arc::clone(seen)))
            .map(Some)
            .map_err(|error| (Step::Tls, Failure::new(FailureKind::TlsFiles, error.to_string())))
    }

    fn context<'a>(&'a self, tls: Option<&'a Loaded>) -> Context<'a> {
        let context = Context::new(&self.tenant, &self.mqtt, OffsetDateTime::now_utc());
        match tls {
            Some(loaded) => context.with_certificate(&loaded.certificate),
            None => context,
        }
    }
}

fn look(seen: &Mutex<Seen>) -> Seen {
    seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Connects to the first address that accepts, and hangs up.
async fn connect(addresses: &[SocketAddr], deadline: Instant) -> io::Result<SocketAddr> {
    let mut last = io::Error::other("could not resolve to any address");
    for address in addresses {
        match timeout_at(deadline, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(*address),
            Ok(Err(error)) => last = error,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        }
    }
    Err(last)
}

/// The MQTT connection of a probe.
struct Connection<'a> {
    probe: &'a Probe,
    tls: Option<&'a Loaded>,
    client: AsyncClient,
    event_loop: Box<EventLoop>,
}

impl Connection<'_> {
    async fn use_it(
        mut self,
        deadline: Instant,
        seen: &Mutex<Seen>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Broken> {
        let login = self.login(deadline).await;
        let Seen { certificate, version } = look(seen);
        let got_through = login.is_ok() || certificate.is_some();
        if self.probe.mqtt.proxy.is_some() && got_through {
            findings.push(Finding::Tunnelled);
        }
        let secured = self.tls.is_none() || version.is_some();
        if let (Some(version), Some(certificate)) = (version, certificate) {
            findings.push(Finding::Secured { version, certificate: Box::new(certificate) });
        }
        login.map_err(|failure| (step_of(&failure, secured), failure))?;
        findings.push(Finding::Accepted);
        let opened = Instant::now();
        for filter in &self.probe.filters {
            let finding = self
                .subscribe(filter, opened)
                .await
                .map_err(|failure| (Step::Subscription(filter.clone()), failure))?;
            findings.push(finding);
        }
        say_goodbye(&self.client, &mut self.event_loop).await;
        Ok(())
    }

    async fn login(&mut self, deadline: Instant) -> Result<(), Failure> {
        let error = match timeout_at(deadline, self.event_loop.poll()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => ConnectionError::NetworkTimeout,
        };
        Err(self.probe.context(self.tls).explain(&error))
    }

    /// One filter at a time: a broker that hangs up over one shows over which.
    async fn subscribe(&mut self, filter: &str, opened: Instant) -> Result<Finding, Failure> {
        let context = self.probe.context(self.tls);
        if let Err(error) = self.client.try_subscribe(filter, QoS::AtLeastOnce) {
            let sentence = format!("SUBSCRIBE could not be sent: {error}");
            return Err(Failure::new(FailureKind::Protocol, sentence));
        }
        let deadline = self.probe.deadline();
        loop {
            match timeout_at(deadline, self.event_loop.poll()).await {
                Ok(Ok(Event::Incoming(Incoming::SubAck(suback)))) => {
                    return judge(filter, &suback.return_codes);
                }
                // Copies of messages that come already are nobody's loss.
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(context.up_for(opened.elapsed()).explain(&error)),
                Err(_) => {
                    let seconds = self.probe.mqtt.connect_timeout.as_secs();
                    return Err(Failure::new(
                        FailureKind::Timeout,
                        format!(
                            "the broker did not answer SUBSCRIBE within {seconds} s; try again"
                        ),
                    ));
                }
            }
        }
    }
}

/// Sends DISCONNECT, so that the broker logs no lost client.
pub(super) async fn say_goodbye(client: &AsyncClient, event_loop: &mut EventLoop) {
    if client.try_disconnect().is_err() {
        return;
    }
    let deadline = Instant::now() + GOODBYE;
    while let Ok(Ok(event)) = timeout_at(deadline, event_loop.poll()).await {
        if let Event::Outgoing(Outgoing::Disconnect) = event {
            return;
        }
    }
}

/// Where a failed login belongs: before the broker has proven who it is, it is TLS that failed.
fn step_of(failure: &Failure, secured: bool) -> Step {
    match failure.kind {
        FailureKind::Dns => Step::Name,
        FailureKind::TcpRefused | FailureKind::TcpUnreachable => Step::Tcp,
        FailureKind::Proxy | FailureKind::ProxyRefused => Step::Proxy,
        _ if secured => Step::Login,
        _ => Step::Tls,
    }
}

fn judge(filter: &str, codes: &[rumqttc::SubscribeReasonCode]) -> Result<Finding, Failure> {
    let filter = filter.to_owned();
    let verdict = Verdict::new(std::slice::from_ref(&filter), &granted(codes))
        .map_err(|problem| Failure::new(FailureKind::Protocol, problem))?;
    Ok(match verdict.problem() {
        None => Finding::Granted(filter),
        Some(problem) => Finding::NotGranted { filter, problem },
    })
}
