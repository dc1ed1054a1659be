//! Why the broker's certificate was refused by us.

use rustls::CertificateError;
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;

use super::{Context, Failure, FailureKind};
use crate::credentials::identity::date;

pub(super) fn explain(context: &Context<'_>, error: &CertificateError) -> Failure {
    let broker = context.broker();
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => unknown(context),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            wrong_name(context, error)
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let when = match error {
                CertificateError::ExpiredContext { not_after, .. } => on(*not_after),
                _ => String::new(),
            };
            Failure::new(
                FailureKind::TlsExpiredServer,
                format!(
                    "the certificate of {broker} expired{when}, and it is {} by this machine's \
                     clock; set the clock if it is wrong, else ask the broker's operator to renew",
                    date(context.now)
                ),
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let when = match error {
                CertificateError::NotValidYetContext { not_before, .. } => on(*not_before),
                _ => String::new(),
            };
            Failure::new(
                FailureKind::TlsExpiredServer,
                format!(
                    "the certificate of {broker} only becomes valid{when}, and it is {} by this \
                     machine's clock; the clock is probably wrong: set it",
                    date(context.now)
                ),
            )
        }
        CertificateError::Revoked => Failure::new(
            FailureKind::TlsTrust,
            format!("the certificate of {broker} was revoked; ask the broker's operator"),
        ),
        other => Failure::new(
            FailureKind::TlsTrust,
            format!("the certificate of {broker} cannot be trusted: {}", detail(other)),
        ),
    }
}

fn unknown(context: &Context<'_>) -> Failure {
    let anchors = match context.ca_file() {
        Some(path) => format!("mqtt.tls.ca_file {}", path.display()),
        None => "the built-in Centiloc CA".to_owned(),
    };
    let cure = match context.ca_file() {
        Some(_) => {
            "put the CA certificate of the broker's operator there, or for Centiloc's own broker \
             leave mqtt.tls.ca_file out"
        }
        None => {
            "for a broker of your own set mqtt.tls.ca_file; for Centiloc's, something between \
             (a firewall that inspects TLS) presents its own certificate and must let this \
             connection through untouched"
        }
    };
    Failure::new(
        FailureKind::TlsTrust,
        format!(
            "the certificate of {}{} was not signed by {anchors}; {cure}",
            context.broker(),
            context.through_proxy()
        ),
    )
}

fn wrong_name(context: &Context<'_>, error: &CertificateError) -> Failure {
    let carries = match error {
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            format!(" but for {}", names.join(", "))
        }
        _ => " (it carries no usable name)".to_owned(),
    };
    Failure::new(
        FailureKind::TlsName,
        format!(
            "the certificate of {} is not for {:?}{carries}; connect by a name that it carries, \
             or set mqtt.tls.server_name to one",
            context.broker(),
            context.expected_name()
        ),
    )
}

/// The name itself: webpki writes `DnsName("…")` or `IpAddress(…)`.
fn bare(name: &str) -> &str {
    let inside = name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')'));
    inside.trim_matches('"')
}

fn on(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .map(|time| format!(" on {}", date(time)))
        .unwrap_or_default()
}

/// Rarer causes. The library names some of them only in its debug form.
fn detail(error: &CertificateError) -> String {
    let shown = error.to_string();
    if shown.contains("CaUsedAsEndEntity") {
        "it is a CA certificate used as a server's, as `openssl req -x509` makes by default; \
         issue the server one of its own (basicConstraints CA:FALSE)"
            .to_owned()
    } else if shown.contains("UnsupportedCertVersion") {
        "it is not an X.509 version 3 certificate; issue the server one with a subjectAltName"
            .to_owned()
    } else {
        match error {
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "it was not issued for a server (extended key usage serverAuth)".to_owned()
            }
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                "it is signed with an algorithm we do not know; P-256, P-384, RSA from 2048 bits \
                 and Ed25519 with SHA-2 are accepted"
                    .to_owned()
            }
            _ => format!("{shown}; ask the broker's operator"),
        }
    }
}
