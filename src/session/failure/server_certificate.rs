//! Explanations of broker certificates that the bridge does not accept.

use rustls::CertificateError;
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;

use super::{ConnectionFailure, FailureContext, FailureKind};
use crate::credentials::CertificateFacts;
use crate::credentials::identity::date;

pub(super) fn explain(context: &FailureContext<'_>, error: &CertificateError) -> ConnectionFailure {
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
            ConnectionFailure::new(
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
            ConnectionFailure::new(
                FailureKind::TlsExpiredServer,
                format!(
                    "the certificate of {broker} only becomes valid{when}, and it is {} by this \
                     machine's clock; the clock is probably wrong: set it",
                    date(context.now)
                ),
            )
        }
        CertificateError::Revoked => ConnectionFailure::new(
            FailureKind::TlsTrust,
            format!("the certificate of {broker} was revoked; ask the broker's operator"),
        ),
        other => ConnectionFailure::new(
            FailureKind::TlsTrust,
            format!("the certificate of {broker} cannot be trusted: {}", detail(context, other)),
        ),
    }
}

/// Explains a certificate without a path to a trust anchor.
fn unknown(context: &FailureContext<'_>) -> ConnectionFailure {
    let anchors = match context.ca_file() {
        Some(path) => format!("mqtt.tls.ca_file {}", path.display()),
        None => "the built-in Centiloc CA".to_owned(),
    };
    let presented = context.presented();
    let gap = ChainEnd::of(&presented, context.anchors());
    let cause = gap.cause(&anchors).unwrap_or_else(|| format!("was not signed by {anchors}"));
    let remedy = gap.remedy().unwrap_or_else(|| other_authority(context));
    ConnectionFailure::new(
        FailureKind::TlsTrust,
        format!(
            "the certificate of {}{} {cause}; {remedy}",
            context.broker(),
            context.through_proxy()
        ),
    )
}

fn other_authority(context: &FailureContext<'_>) -> String {
    match context.ca_file() {
        Some(_) => {
            "put the CA certificate of the broker's operator there, or for Centiloc's own broker \
             begin_disconnect mqtt.tls.ca_file out"
        }
        None => {
            "for your own broker, set mqtt.tls.ca_file; for Centiloc's broker, a device in between \
             (such as a firewall that inspects TLS) presents its own certificate and must let \
             this connection pass unchanged"
        }
    }
    .to_owned()
}

/// End of the chain that the broker presented.
enum ChainEnd<'a> {
    /// No certificate was presented.
    Unknown,
    /// A certificate that names itself as its issuer.
    SelfSigned,
    /// An authority with the name of a trusted one, but another key.
    OtherKey(&'a CertificateFacts),
    /// The broker's own certificate, presented alone.
    Alone(&'a CertificateFacts),
    /// One of several certificates, whose issuer is missing.
    Cut(&'a CertificateFacts),
}

impl<'a> ChainEnd<'a> {
    fn of(presented: &'a [CertificateFacts], anchors: &[CertificateFacts]) -> Self {
        let Some(leaf) = presented.first() else { return Self::Unknown };
        let mut end = leaf;
        // Bounded by the number of certificates, in case of a cycle.
        for _ in presented {
            let issuer = presented.iter().find(|other| end.names_as_issuer(other));
            end = issuer.unwrap_or(end);
        }
        if anchors.iter().any(|anchor| end.names_as_issuer(anchor)) {
            Self::OtherKey(end)
        } else if leaf.self_issued() {
            Self::SelfSigned
        } else if presented.len() == 1 {
            Self::Alone(leaf)
        } else {
            Self::Cut(end)
        }
    }

    fn cause(&self, anchors: &str) -> Option<String> {
        Some(match self {
            Self::Unknown => return None,
            Self::SelfSigned => format!("is self-signed and is not in {anchors}"),
            Self::OtherKey(end) => format!(
                "was not signed by {anchors}, although its issuer has the same name ({}): the \
                 authority has another key now",
                end.issuer
            ),
            Self::Alone(leaf) => format!(
                "was issued by {}, which is not in {anchors}, and the broker sent no intermediate \
                 certificate",
                leaf.issuer
            ),
            Self::Cut(end) => format!(
                "was not signed by {anchors}: the chain that the broker sent ends at {}, issued by \
                 {}",
                end.subject, end.issuer
            ),
        })
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Alone(leaf) => Some(format!(
                "if {} is an intermediate authority, have the broker send its certificate too (the \
                 full chain); if it is your own root, put its certificate into \
                 mqtt.tls.ca_file; else a device in between (such as a firewall that inspects \
                 TLS) presents its own certificate",
                leaf.issuer
            )),
            Self::OtherKey(_) => {
                Some("ask the broker's operator for the authority's new certificate".to_owned())
            }
            Self::Unknown | Self::SelfSigned | Self::Cut(_) => None,
        }
    }
}

fn wrong_name(context: &FailureContext<'_>, error: &CertificateError) -> ConnectionFailure {
    let (broker, expected) = (context.broker(), context.expected_name());
    let message = match error {
        CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            format!(
                "the certificate of {broker} is not for {expected:?} but for {}; connect by a name \
                 that it contains, or set mqtt.tls.server_name to one",
                names.join(", ")
            )
        }
        _ => {
            let presented = context.presented();
            let common_name = presented.first().and_then(|leaf| leaf.common_name.as_deref());
            let common_name = common_name
                .map(|name| format!(" (the common name {name:?} does not count)"))
                .unwrap_or_default();
            format!(
                "the certificate of {broker} has no subjectAltName{common_name}; have it reissued \
                 with a subjectAltName for {expected:?}"
            )
        }
    };
    ConnectionFailure::new(FailureKind::TlsName, message)
}

/// Describes the signing key if it is of a kind that cannot be verified.
fn signer(context: &FailureContext<'_>) -> String {
    let presented = context.presented();
    let known = || presented.iter().chain(context.anchors());
    known()
        .filter_map(|signed| known().find(|issuer| signed.names_as_issuer(issuer)))
        .find(|issuer| !issuer.algorithm.can_be_verified())
        .map_or_else(
            || "an unsupported algorithm".to_owned(),
            |issuer| format!("{} of {}", issuer.algorithm, issuer.subject),
        )
}

/// Returns the bare name: webpki formats it as `DnsName("…")` or `IpAddress(…)`.
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

/// Explains rarer causes. The library shows some of them only in its debug format.
fn detail(context: &FailureContext<'_>, error: &CertificateError) -> String {
    let shown = error.to_string();
    if shown.contains("CaUsedAsEndEntity") {
        "it is a CA certificate used as a server's, as `openssl req -x509` makes by default; \
         issue a separate one for the server (basicConstraints CA:FALSE)"
            .to_owned()
    } else if shown.contains("UnsupportedCertVersion") {
        "it is not an X.509 version 3 certificate; reissue it with a subjectAltName".to_owned()
    } else {
        match error {
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "it was not issued for a server (extended key usage serverAuth)".to_owned()
            }
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                format!(
                    "it is signed with {}, which cannot be verified; have it issued by an authority \
                     with a key on P-256 or P-384, Ed25519, or RSA from 2048 bits, and SHA-2",
                    signer(context)
                )
            }
            _ => format!("{shown}; ask the broker's operator"),
        }
    }
}
