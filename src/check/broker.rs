//! The broker: the findings of a probe as lines.

use std::net::SocketAddr;

use crate::config::{Config, Mqtt};
use crate::credentials::CertificateFacts;
use crate::credentials::identity::date;
use crate::credentials::preflight::{Check, Status};
use crate::session::failure::ConnectionFailure;
use crate::session::probe::{Probe, ProbeFinding, ProbeStep};

use super::Report;

pub(super) const NAME: &str = "broker_name";
pub(super) const TCP: &str = "broker_tcp";
pub(super) const PROXY: &str = "broker_proxy";
pub(super) const TLS: &str = "broker_tls";
pub(super) const LOGIN: &str = "broker_login";
pub(super) const SUBSCRIPTION: &str = "subscription";

/// Addresses shown of a name: enough to recognise it.
const SHOWN_ADDRESSES: usize = 4;

/// The lines of a broker that lets us in.
pub(super) fn expected(config: &Config) -> Vec<&'static str> {
    let mut names = vec![NAME, TCP];
    names.extend(config.mqtt.proxy.as_ref().map(|_| PROXY));
    names.extend(config.mqtt.tls.as_ref().map(|_| TLS));
    names.extend([LOGIN, SUBSCRIPTION]);
    names
}

pub(super) async fn report(config: &Config) -> Report {
    let probe = Probe::new(&config.tenant, &config.mqtt);
    let mut findings = Vec::new();
    probe.run(&mut findings).await;
    let lines = Lines { mqtt: &config.mqtt, client_id: probe.client_id() };
    let checks = findings.iter().map(|finding| lines.line(finding)).collect();
    let mut report = Report { checks, not_checked: Vec::new() };
    report.note_missing(&expected(config));
    report
}

struct Lines<'a> {
    mqtt: &'a Mqtt,
    client_id: &'a str,
}

impl Lines<'_> {
    fn line(&self, finding: &ProbeFinding) -> Check {
        match finding {
            ProbeFinding::Resolved(addresses) => Check::ok(NAME, self.resolved(addresses)),
            ProbeFinding::Reached { address, took } => {
                Check::ok(TCP, format!("{address} accepted after {} ms", took.as_millis()))
            }
            ProbeFinding::NotReached { address, problem } => Check::trouble(
                TCP,
                Status::Warning,
                format!("{address} {problem}"),
                "every address of the name to accept a connection",
                "the others are used meanwhile; have the address repaired or taken out of the DNS",
            ),
            ProbeFinding::Tunnelled => {
                let (host, port) = (&self.mqtt.host, self.mqtt.port);
                Check::ok(PROXY, format!("the proxy lets CONNECT through to {host}:{port}"))
            }
            ProbeFinding::Secured { version, certificate } => {
                Check::ok(TLS, format!("{version}, {}", presented(certificate)))
            }
            ProbeFinding::Accepted => Check::ok(LOGIN, self.accepted()),
            ProbeFinding::Granted(filter) => Check::ok(SUBSCRIPTION, self.granted(filter)),
            ProbeFinding::NotGranted { problem, .. } => not_granted(problem),
            ProbeFinding::Failed { step, failure, presented } => {
                failed(step, failure, presented.as_deref())
            }
        }
    }

    fn resolved(&self, addresses: &[SocketAddr]) -> String {
        let (what, host) = match &self.mqtt.proxy {
            Some(proxy) => ("the proxy ", &proxy.host),
            None => ("", &self.mqtt.host),
        };
        let shown: Vec<_> =
            addresses.iter().take(SHOWN_ADDRESSES).map(|a| a.ip().to_string()).collect();
        let more = if addresses.len() > SHOWN_ADDRESSES { ", …" } else { "" };
        format!("{what}{host} is {}{more}", shown.join(", "))
    }

    fn accepted(&self) -> String {
        let user = match &self.mqtt.username {
            Some(username) => format!("user {username:?}"),
            None => "no user name".to_owned(),
        };
        format!(
            "accepted (CONNACK 0), {user}; asked under the client id {:?} and a clean session, \
             apart from the live one",
            self.client_id
        )
    }

    fn granted(&self, filter: &str) -> String {
        match &self.mqtt.share_group {
            None => format!("{filter} is granted at QoS 1"),
            Some(group) => format!(
                "{filter} is granted at QoS 1; asked without $share/{group}, as one more member \
                 of the group would take messages from the bridges in it"
            ),
        }
    }
}

fn not_granted(problem: &str) -> Check {
    let see = "ask Centiloc support for the topic";
    super::from_sentence(SUBSCRIPTION, Status::Failed, problem, "QoS 1", see)
}

fn failed(
    step: &ProbeStep,
    failure: &ConnectionFailure,
    certificate: Option<&CertificateFacts>,
) -> Check {
    let (name, expected) = match step {
        ProbeStep::Name => (NAME, "a name that can be resolved"),
        ProbeStep::Tcp => (TCP, "an answer on the port"),
        ProbeStep::Proxy => (PROXY, "a proxy that lets CONNECT through"),
        ProbeStep::Tls => (TLS, "TLS with a broker whose certificate can be trusted"),
        ProbeStep::Login => {
            (LOGIN, "CONNACK 0: certificate, user, password and client id accepted")
        }
        ProbeStep::Subscription(_) => (SUBSCRIPTION, "QoS 1"),
    };
    let see = format!("see {} in docs/connection-errors.md", failure.label());
    let mut check = super::from_sentence(name, Status::Failed, &failure.message, expected, &see);
    if let ProbeStep::Subscription(filter) = step {
        check.found = format!("{filter}: {}", check.found);
    }
    if let Some(certificate) = certificate {
        check.found = format!("{} (it presented {})", check.found, presented(certificate));
    }
    check
}

fn presented(certificate: &CertificateFacts) -> String {
    let names = match certificate.alternative_names.as_slice() {
        [] => String::new(),
        names => format!(" for {}", names.join(", ")),
    };
    format!(
        "certificate {}{names}, issued by {}, valid until {}",
        certificate.subject,
        certificate.issuer,
        date(certificate.not_after)
    )
}
