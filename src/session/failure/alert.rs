//! TLS alerts: explanations of the alert with which the broker ended a handshake.

use rustls::AlertDescription as Alert;

use super::{ConnectionFailure, FailureContext, FailureKind, cause};
use crate::credentials::identity::validity_note;
use crate::credentials::inspect::TenantMatch;

/// Meaning of an alert: its name in the standard, its kind, and the cause with its remedy.
pub(super) struct AlertMeaning {
    pub(super) name: &'static str,
    pub(super) kind: FailureKind,
    pub(super) text: &'static str,
}

/// Returns the meaning of an alert. The name is empty for an alert without a specific meaning.
pub(super) fn meaning(alert: Alert) -> AlertMeaning {
    use FailureKind::{ServerUnavailable, TlsCipher, TlsClientCertificate, TlsName, TlsProtocol};
    let (name, kind, text) = match alert {
        Alert::BadCertificate => (
            "bad_certificate",
            TlsClientCertificate,
            "it could not use the certificate, or its signature or purpose is wrong; configure \
             the certificate exactly as Centiloc sent it",
        ),
        Alert::UnknownCA => (
            "unknown_ca",
            TlsClientCertificate,
            "it was not issued by an authority this broker trusts; configure the certificate \
             that Centiloc sent back, with its intermediates if there are any",
        ),
        Alert::CertificateExpired => (
            "certificate_expired",
            TlsClientCertificate,
            "it is outside its validity by the broker's clock; renew it: centiloc-bridge csr --key",
        ),
        Alert::CertificateRequired => (
            "certificate_required",
            TlsClientCertificate,
            "none reached it; check mqtt.tls.cert_file, and that no proxy or firewall ends TLS \
             in between",
        ),
        Alert::CertificateUnknown => (
            "certificate_unknown",
            TlsClientCertificate,
            "it does not state the reason; ask Centiloc's support whether the certificate is valid",
        ),
        Alert::CertificateRevoked => (
            "certificate_revoked",
            TlsClientCertificate,
            "it was revoked; ask Centiloc's support for a new one",
        ),
        Alert::UnsupportedCertificate => (
            "unsupported_certificate",
            TlsClientCertificate,
            "its kind or purpose does not fit (client authentication, a version 3 certificate, \
             P-256); ask Centiloc's support for another",
        ),
        Alert::NoCertificate => {
            ("no_certificate", TlsClientCertificate, "none reached it; check mqtt.tls.cert_file")
        }
        Alert::AccessDenied => (
            "access_denied",
            TlsClientCertificate,
            "it is valid, but access is denied to it; ask Centiloc's support whether the \
             subscription is active",
        ),
        Alert::DecryptError => (
            "decrypt_error",
            TlsClientCertificate,
            "a signature did not verify: the certificate does not come from the authority it \
             names, or the private key is not its own",
        ),
        Alert::BadCertificateStatusResponse => (
            "bad_certificate_status_response",
            TlsClientCertificate,
            "its revocation status could not be verified; ask Centiloc's support",
        ),
        Alert::HandshakeFailure => (
            "handshake_failure",
            TlsClientCertificate,
            "with TLS 1.2 this usually means that no acceptable client certificate reached it; \
             else there is no cipher or signature in common. Check mqtt.tls.cert_file and that \
             the key is on P-256",
        ),
        Alert::ProtocolVersion => (
            "protocol_version",
            TlsProtocol,
            "it accepts neither TLS 1.2 nor 1.3; it must be upgraded",
        ),
        Alert::InsufficientSecurity => {
            ("insufficient_security", TlsCipher, "it requires ciphers that the bridge lacks")
        }
        Alert::UnrecognisedName => (
            "unrecognized_name",
            TlsName,
            "it does not serve the name in mqtt.host; connect by the name it is known by",
        ),
        Alert::NoApplicationProtocol => (
            "no_application_protocol",
            TlsProtocol,
            "the port belongs to another protocol than MQTT; check mqtt.port",
        ),
        Alert::InternalError => {
            ("internal_error", ServerUnavailable, "it reports an internal error; retrying")
        }
        Alert::UserCanceled => {
            ("user_canceled", ServerUnavailable, "it cancelled the handshake; retrying")
        }
        _ => (
            "",
            TlsProtocol,
            "if this repeats, check that no firewall inspects or alters the traffic",
        ),
    };
    AlertMeaning { name, kind, text }
}

pub(super) fn explain(context: &FailureContext<'_>, alert: Alert) -> ConnectionFailure {
    if alert == Alert::HandshakeFailure && context.tls.is_some() && context.presented().is_empty() {
        return cause::nothing_in_common(context, "it ended TLS with the alert handshake_failure");
    }
    let AlertMeaning { name, kind, text } = meaning(alert);
    let code = u8::from(alert);
    let name = if name.is_empty() { format!("number {code}") } else { name.to_owned() };
    let broker = context.broker();
    let message = match kind {
        FailureKind::TlsClientCertificate => {
            let own = own_fault(context).unwrap_or_else(|| text.to_owned());
            format!("{broker} refused the client certificate (TLS alert {name}): {own}")
        }
        _ => format!("{broker} ended TLS with the alert {name}: {text}"),
    };
    ConnectionFailure::new(kind, message)
}

/// Returns a fault of the client certificate itself, which is a likelier cause than the alert's.
fn own_fault(context: &FailureContext<'_>) -> Option<String> {
    let facts = context.certificate()?;
    if let Some(note) = outside_validity(context) {
        return Some(note);
    }
    if facts.fits_tenant(context.tenant) == TenantMatch::Exact {
        return None;
    }
    Some(format!(
        "its common name is {:?}, but the tenant is {:?}; configure the certificate of this tenant",
        facts.common_name.as_deref().unwrap_or_default(),
        context.tenant
    ))
}

/// Returns a note if the client certificate is not valid now.
pub(super) fn outside_validity(context: &FailureContext<'_>) -> Option<String> {
    let facts = context.certificate()?;
    let outside = facts.expired(context.now) || facts.not_yet_valid(context.now);
    if outside { validity_note(facts, context.now) } else { None }
}
