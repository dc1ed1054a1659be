//! Checks of the broker: the findings of a probe as lines.

use std::net::SocketAddr;

use super::line::{CheckLine, CheckStatus};
use super::names;
use super::report::CheckReport;
use crate::config::{Config, MqttConfig};
use crate::credentials::CertificateFacts;
use crate::credentials::identity::date;
use crate::session::failure::ConnectionFailure;
use crate::session::probe::{Probe, ProbeFinding, ProbeStep};

/// Most addresses shown of a name: enough to recognise it.
const SHOWN_ADDRESSES: usize = 4;

/// Returns the names of the lines of a broker that accepts the connection.
pub(super) fn expected(config: &Config) -> Vec<&'static str> {
    let mut names = vec![names::BROKER_NAME, names::BROKER_TCP];
    names.extend(config.mqtt.proxy.as_ref().map(|_| names::BROKER_PROXY));
    names.extend(config.mqtt.tls.as_ref().map(|_| names::BROKER_TLS));
    names.extend([names::BROKER_LOGIN, names::SUBSCRIPTION]);
    names
}

pub(super) async fn report(config: &Config) -> CheckReport {
    let probe = Probe::new(&config.tenant, &config.mqtt);
    let mut findings = Vec::new();
    probe.run(&mut findings).await;
    let lines = BrokerLines { mqtt: &config.mqtt, client_id: probe.client_id() };
    let checks = findings.iter().map(|finding| lines.line(finding)).collect();
    let mut report = CheckReport { checks, not_checked: Vec::new() };
    report.note_missing(&expected(config));
    report
}

struct BrokerLines<'a> {
    mqtt: &'a MqttConfig,
    client_id: &'a str,
}

impl BrokerLines<'_> {
    fn line(&self, finding: &ProbeFinding) -> CheckLine {
        match finding {
            ProbeFinding::Resolved(addresses) => {
                CheckLine::ok(names::BROKER_NAME, self.resolved(addresses))
            }
            ProbeFinding::Reached { address, took } => CheckLine::ok(
                names::BROKER_TCP,
                format!("{address} accepted after {} ms", took.as_millis()),
            ),
            ProbeFinding::NotReached { address, problem } => CheckLine::problem(
                names::BROKER_TCP,
                CheckStatus::Warning,
                format!("{address} {problem}"),
                "every address of the name to accept a connection",
                "the others are used meanwhile; repair the address, or remove it from the DNS",
            ),
            ProbeFinding::Tunnelled => {
                let (host, port) = (&self.mqtt.host, self.mqtt.port);
                CheckLine::ok(
                    names::BROKER_PROXY,
                    format!("the proxy allows CONNECT to {host}:{port}"),
                )
            }
            ProbeFinding::Secured { version, certificate } => {
                CheckLine::ok(names::BROKER_TLS, format!("{version}, {}", presented(certificate)))
            }
            ProbeFinding::Accepted => CheckLine::ok(names::BROKER_LOGIN, self.accepted()),
            ProbeFinding::Granted(filter) => {
                CheckLine::ok(names::SUBSCRIPTION, self.granted(filter))
            }
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
            "accepted (CONNACK 0), {user}; tried with the client id {:?} and a clean session, which \
             does not affect the live one",
            self.client_id
        )
    }

    fn granted(&self, filter: &str) -> String {
        match &self.mqtt.share_group {
            None => format!("{filter} is granted at QoS 1"),
            Some(group) => format!(
                "{filter} is granted at QoS 1; tried without $share/{group}, because one more \
                 member of the group would take messages from the bridges in it"
            ),
        }
    }
}

fn not_granted(problem: &str) -> CheckLine {
    let remedy = "ask Centiloc support for the topic";
    CheckLine::from_sentence_or(names::SUBSCRIPTION, CheckStatus::Failed, problem, "QoS 1", remedy)
}

fn failed(
    step: &ProbeStep,
    failure: &ConnectionFailure,
    certificate: Option<&CertificateFacts>,
) -> CheckLine {
    let (name, expected) = match step {
        ProbeStep::Name => (names::BROKER_NAME, "a name that can be resolved"),
        ProbeStep::Tcp => (names::BROKER_TCP, "an answer on the port"),
        ProbeStep::Proxy => (names::BROKER_PROXY, "a proxy that allows CONNECT"),
        ProbeStep::Tls => (names::BROKER_TLS, "TLS with a broker whose certificate can be trusted"),
        ProbeStep::Login => {
            (names::BROKER_LOGIN, "CONNACK 0: certificate, user, password and client id accepted")
        }
        ProbeStep::Subscription(_) => (names::SUBSCRIPTION, "QoS 1"),
    };
    let remedy = format!("see {} in docs/connection-errors.md", failure.label());
    let mut check =
        CheckLine::from_sentence_or(name, CheckStatus::Failed, &failure.message, expected, &remedy);
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
