//! Tests of explanations that need no peer.

use std::io;

use rustls::CertificateError;

use super::*;
use crate::session::failure::cause::{closed, explain_tls, lookup_detail};
use crate::session::failure::server_certificate as certificates;

fn explain_with(
    mqtt: &MqttConfig,
    explain: impl FnOnce(&FailureContext<'_>) -> ConnectionFailure,
) -> ConnectionFailure {
    explain(&FailureContext::new("acme", mqtt, OffsetDateTime::now_utc()))
}

#[test]
fn other_credentials_help_with_these_failures_only() {
    let helped: Vec<_> =
        FailureKind::ALL.into_iter().filter(|kind| kind.concerns_credentials()).collect();
    assert_eq!(
        helped,
        [
            FailureKind::TlsTrust,
            FailureKind::TlsName,
            FailureKind::TlsClientCertificate,
            FailureKind::BadCredentials,
            FailureKind::NotAuthorized,
        ]
    );
    for kind in FailureKind::ALL {
        let failure = ConnectionFailure::new(kind, "text");
        assert_eq!(failure.label(), kind.label());
        assert_eq!(failure.needs_operator(), kind.needs_operator());
    }
}

#[test]
fn idle_timeouts_are_rounded_to_seconds() {
    let mqtt = mqtt("broker.example", 8883, None);
    for (silence, seconds) in [(59_600, "60 s"), (60_400, "60 s"), (60_600, "61 s")] {
        let failure = explain_with(&mqtt, |c| c.idle_timeout(Duration::from_millis(silence)));
        expect(&failure, FailureKind::IdleTimeout, &[&format!("after {seconds} of silence")]);
    }
}

#[test]
fn lookups_are_explained_in_the_words_of_the_resolver() {
    let error = io::Error::other("failed to lookup address information: Name not known");
    assert_eq!(lookup_detail(&error), "Name not known");
    assert_eq!(lookup_detail(&io::Error::other("nothing")), "nothing");
}

#[test]
fn broken_handshakes_name_proxy_and_cause() {
    let direct = mqtt("broker.example", 8883, None);
    let proxied = behind_proxy("proxy.example", 3128);
    let broken = |kind: io::ErrorKind| rumqttc::TlsError::Io(kind.into());
    let reset = broken(io::ErrorKind::ConnectionReset);
    let failure = explain_with(&proxied, |c| explain_tls(c, &reset));
    let words = "in the middle of the TLS handshake through the proxy proxy.example:3128;";
    expect(&failure, FailureKind::ClosedByBroker, &[words]);
    let failure = explain_with(&direct, |c| explain_tls(c, &reset));
    expect(&failure, FailureKind::ClosedByBroker, &["in the middle of the TLS handshake;"]);
    let late = broken(io::ErrorKind::TimedOut);
    let failure = explain_with(&direct, |c| explain_tls(c, &late));
    expect(&failure, FailureKind::Timeout, &["mqtt.connect_timeout"]);
    let wrapped = rumqttc::TlsError::Io(io::Error::other(rustls::Error::NoCertificatesPresented));
    let failure = explain_with(&direct, |c| explain_tls(c, &wrapped));
    expect(&failure, FailureKind::TlsTrust, &["presented no certificate"]);
}

#[test]
fn only_a_first_answer_shows_a_port_without_tls() {
    let mqtt = mqtt("broker.example", 8883, None);
    let invalid = || {
        let error = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        rumqttc::TlsError::TLS(error)
    };
    let failure = explain_with(&mqtt, |c| explain_tls(c, &invalid()));
    expect(&failure, FailureKind::TlsProtocol, &["does not speak TLS"]);
    let failure =
        explain_with(&mqtt, |c| explain_tls(&c.up_for(Duration::from_secs(9)), &invalid()));
    expect(&failure, FailureKind::TlsProtocol, &["check that no firewall"]);
    assert!(!failure.message.contains("does not speak TLS"));
}

#[test]
fn ends_soon_after_connack_suggest_other_causes() {
    let mqtt = mqtt("broker.example", 8883, None);
    let after = |uptime| explain_with(&mqtt, |c| closed(&c.up_for(uptime)));
    let soon = after(Duration::from_millis(500));
    expect(&soon, FailureKind::ClosedByBroker, &["500 ms after accepting it", "\"acme\""]);
    let late = after(Duration::from_secs(3600));
    expect(&late, FailureKind::ClosedByBroker, &["after 3600 s", "restart"]);
}

#[test]
fn proxies_that_break_are_explained() {
    let proxied = behind_proxy("proxy.example", 3128);
    let reset = async_http_proxy::HttpError::IoError(io::ErrorKind::ConnectionRefused.into());
    let failure = explain_with(&proxied, |c| proxy::explain(c, &reset));
    expect(&failure, FailureKind::Proxy, &["proxy.example:3128"]);
    assert!(!failure.message.contains("did not answer as an HTTP proxy"), "{failure}");
    let asked = async_http_proxy::HttpError::HttpCode200(407);
    let failure = explain_with(&proxied, |c| proxy::explain(c, &asked));
    expect(&failure, FailureKind::ProxyRefused, &["asks for credentials"]);
    let mut proxied = proxied;
    let credentials = ("user".to_owned(), "hunter2".to_owned().into());
    proxied.proxy.as_mut().unwrap().credentials = Some(credentials);
    let failure = explain_with(&proxied, |c| proxy::explain(c, &asked));
    expect(&failure, FailureKind::ProxyRefused, &["does not accept the user"]);
}

#[test]
fn server_certificates_of_other_purposes_are_explained() {
    let mqtt = mqtt("broker.example", 8883, None);
    let failure =
        explain_with(&mqtt, |c| certificates::explain(c, &CertificateError::InvalidPurpose));
    expect(&failure, FailureKind::TlsTrust, &["serverAuth"]);
}

#[test]
fn unknown_authorities_name_the_setting() {
    let mqtt = mqtt("broker.example", 8883, None);
    let failure =
        explain_with(&mqtt, |c| certificates::explain(c, &CertificateError::UnknownIssuer));
    expect(&failure, FailureKind::TlsTrust, &["for your own broker, set mqtt.tls.ca_file"]);
}

#[test]
fn handshake_failures_without_a_configuration_are_alerts() {
    let mqtt = mqtt("broker.example", 8883, None);
    let alert = rustls::AlertDescription::HandshakeFailure;
    let failure = explain_with(&mqtt, |c| alert::explain(c, alert));
    let words = "refused the client certificate (TLS alert handshake_failure)";
    expect(&failure, FailureKind::TlsClientCertificate, &[words]);
}
