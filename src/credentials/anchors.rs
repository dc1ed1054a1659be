//! Trust anchors: the authorities that may sign the broker's certificate.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::error::{CredentialError, FileRole};
use super::identity::{date, read_certificates};
use super::inspect::CertificateFacts;
use super::pem::PemFile;

/// The Centiloc public CA in PEM, a root, as published in the vendor's documentation.
pub const CENTILOC_CA: &str = include_str!("centiloc-ca.pem");

/// The trusted authorities, at least one.
#[derive(Debug)]
pub struct TrustAnchors {
    /// The certificates of the authorities.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The facts of the certificates, in the same order.
    pub facts: Vec<CertificateFacts>,
}

impl TrustAnchors {
    /// Reads the bundle, or returns the built-in Centiloc CA.
    pub fn load(ca_file: Option<&Path>) -> Result<Self, CredentialError> {
        let Some(path) = ca_file else {
            return Ok(Self::built_in());
        };
        let file = PemFile::read(FileRole::Anchors, path)?;
        let (certificates, facts) = read_certificates(&file)?;
        if facts.iter().all(is_server_certificate) {
            return Err(CredentialError::AnchorIsServer {
                file: file.name,
                subject: facts[0].subject.clone(),
                issuer: facts[0].issuer.clone(),
            });
        }
        if facts.iter().all(|facts| !facts.algorithm.can_be_verified()) {
            return Err(CredentialError::UnverifiableAnchor {
                file: file.name,
                subject: facts[0].subject.clone(),
                found: facts[0].algorithm.to_string(),
            });
        }
        Ok(Self { certificates, facts })
    }

    fn built_in() -> Self {
        // Unwrap safety: the certificate is part of the program, and a test reads it.
        let der = CertificateDer::from_pem_slice(CENTILOC_CA.as_bytes()).expect("built-in CA");
        let facts = CertificateFacts::from_der(&der).expect("built-in CA");
        Self { certificates: vec![der], facts: vec![facts] }
    }

    /// Returns warnings about authorities that are expired or have no effect, each with a hint.
    pub fn warnings(&self, ca_file: Option<&Path>, now: OffsetDateTime) -> Vec<String> {
        let name = ca_file.map_or_else(|| "built-in CA".to_owned(), |p| p.display().to_string());
        let stale = self.facts.iter().filter(|facts| facts.expired(now)).map(|facts| {
            format!(
                "{name}: the authority {} expired on {}; ask the broker's operator for its \
                 successor",
                facts.subject,
                date(facts.not_after)
            )
        });
        let servers = self.facts.iter().filter(|facts| is_server_certificate(facts)).map(|facts| {
            format!(
                "{name}: {} is a server's own certificate and has no effect here; only \
                 authorities do",
                facts.subject
            )
        });
        let unverifiable = self.facts.iter().filter(|facts| !facts.algorithm.can_be_verified());
        let unverifiable = unverifiable.map(|facts| {
            format!(
                "{name}: the authority {} has {}, whose signatures cannot be verified; it has no \
                 effect here",
                facts.subject, facts.algorithm
            )
        });
        stale.chain(servers).chain(unverifiable).collect()
    }
}

/// Returns true for a certificate of another issuer that may not issue certificates: the server's
/// own, given to pin it. A self-signed certificate without CA rights works as its own anchor.
fn is_server_certificate(facts: &CertificateFacts) -> bool {
    !facts.authority && !facts.self_issued()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::testing::{LeafSpec, TestFiles, TestPki, self_signed};

    #[test]
    fn without_a_file_the_vendor_is_trusted() {
        let anchors = TrustAnchors::load(None).expect("built in");
        assert_eq!(anchors.facts.len(), 1);
        assert_eq!(anchors.facts[0].common_name.as_deref(), Some("Root CA Issuer"));
        assert!(anchors.warnings(None, OffsetDateTime::now_utc()).is_empty());
    }

    #[test]
    fn a_server_certificate_is_no_anchor() {
        let pki = TestPki::new();
        let files = TestFiles::new();
        let path = files.write("ca.pem", &pki.issue(&LeafSpec::server("localhost")).pem);
        let text = TrustAnchors::load(Some(&path)).expect_err("must be refused").to_string();
        assert!(text.contains("a server's own certificate"), "{text}");
        assert!(text.contains("issuer CN = Test Root"), "{text}");
    }

    #[test]
    fn server_certificates_among_authorities_warn() {
        let pki = TestPki::new();
        let files = TestFiles::new();
        let leaf = pki.issue(&LeafSpec::server("localhost")).pem;
        let path = files.write("ca.pem", format!("{leaf}{}{CENTILOC_CA}", pki.authority_pem()));
        let anchors = TrustAnchors::load(Some(&path)).expect("two authorities");
        assert_eq!(anchors.certificates.len(), 3);
        let warnings = anchors.warnings(Some(&path), OffsetDateTime::now_utc());
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("has no effect"), "{warnings:?}");
    }

    #[test]
    fn authority_on_unsupported_curve_is_named() {
        let (pki, files) = (TestPki::new(), TestFiles::new());
        let p521 = self_signed("secp521r1");
        let path = files.write("ca.pem", &p521);
        let text = TrustAnchors::load(Some(&path)).expect_err("must be refused").to_string();
        assert!(text.contains("CN = Odd Root") && text.contains("P-521"), "{text}");
        let path = files.write("ca.pem", format!("{p521}{}", pki.authority_pem()));
        let anchors = TrustAnchors::load(Some(&path)).expect("one of two");
        let warnings = anchors.warnings(Some(&path), OffsetDateTime::now_utc());
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("P-521"), "{warnings:?}");
    }

    #[test]
    fn a_private_key_as_trust_anchor_is_refused() {
        let files = TestFiles::new();
        let issued = TestPki::new().issue(&LeafSpec::client("acme"));
        let path = files.write("ca.pem", issued.key.to_sec1_pem().as_str());
        let text = TrustAnchors::load(Some(&path)).expect_err("must be refused").to_string();
        assert!(text.contains("mqtt.tls.ca_file"), "{text}");
        assert!(!text.contains("tls-cert.pem"), "the hint concerns the authority: {text}");
    }
}
