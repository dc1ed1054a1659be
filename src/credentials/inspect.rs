//! The fields of a certificate that operators and checks need. Pure: time is an argument.

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use x509_parser::x509::AttributeTypeAndValue;

use super::algorithm::KeyAlgorithm;
use super::key::EcKey;

/// The fields of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Subject CN, which is the tenant in a client certificate of Centiloc.
    pub common_name: Option<String>,
    /// Subject O, the customer's company.
    pub organization: Option<String>,
    /// Subject emailAddress, to which Centiloc sends expiry notices.
    pub email: Option<String>,
    /// The whole subject, for messages.
    pub subject: String,
    /// The whole issuer, for messages.
    pub issuer: String,
    /// Serial number, hexadecimal with colons.
    pub serial: String,
    /// Begin of the validity period.
    pub not_before: OffsetDateTime,
    /// End of the validity period.
    pub not_after: OffsetDateTime,
    /// X.509 version, 1 to 3. Only version 3 has extensions.
    pub version: u32,
    /// Public key algorithm and curve.
    pub algorithm: KeyAlgorithm,
    /// Subject alternative names: DNS names, addresses, e-mail addresses, URIs.
    pub alternative_names: Vec<String>,
    /// True if Basic Constraints allow it to issue certificates.
    pub authority: bool,
    /// DER of the subject, for comparison with issuers.
    subject_der: Vec<u8>,
    /// DER of the issuer, for comparison with subjects.
    issuer_der: Vec<u8>,
    /// The bits of the public key.
    public_point: Vec<u8>,
}

/// The reason why bytes are not one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    /// The bytes are not an X.509 certificate in DER.
    #[error("it is not a valid X.509 certificate")]
    NotX509,
    /// More bytes follow the certificate.
    #[error("there is more data after the certificate in its section")]
    TrailingData,
}

/// Result of comparing a certificate's common name with the configured tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantMatch {
    /// The two are equal.
    Exact,
    /// The two differ in upper and lower case. Topics are case-sensitive, so that one is wrong.
    CaseDiffers,
    /// The certificate names another tenant, or has no common name.
    Other,
}

impl CertificateFacts {
    /// Parses one certificate in DER.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, InvalidCertificate> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| InvalidCertificate::NotX509)?;
        if !rest.is_empty() {
            return Err(InvalidCertificate::TrailingData);
        }
        let subject = certificate.subject();
        Ok(Self {
            common_name: subject.iter_common_name().next().map(text),
            organization: subject.iter_organization().next().map(text),
            email: subject.iter_email().next().map(text),
            subject: name(subject),
            issuer: name(certificate.issuer()),
            serial: certificate.raw_serial_as_string(),
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
            version: certificate.version().0 + 1,
            algorithm: KeyAlgorithm::of(certificate.public_key()),
            alternative_names: alternative_names(&certificate),
            authority: certificate.is_ca(),
            subject_der: subject.as_raw().to_vec(),
            issuer_der: certificate.issuer().as_raw().to_vec(),
            public_point: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// Returns the whole days until the end of validity, rounded down, negative once expired.
    pub fn days_left(&self, now: OffsetDateTime) -> i64 {
        (self.not_after - now).whole_seconds().div_euclid(24 * 60 * 60)
    }

    /// Returns true if its validity has not begun.
    pub fn not_yet_valid(&self, now: OffsetDateTime) -> bool {
        now < self.not_before
    }

    /// Returns true if its validity has ended.
    pub fn expired(&self, now: OffsetDateTime) -> bool {
        now > self.not_after
    }

    /// Returns true if subject and issuer are the same, as in a root or a self-signed certificate.
    pub fn self_issued(&self) -> bool {
        self.subject_der == self.issuer_der
    }

    /// Returns true if `self` names `issuer` as its issuer.
    pub fn names_as_issuer(&self, issuer: &Self) -> bool {
        self.issuer_der == issuer.subject_der
    }

    /// Compares the common name with the tenant.
    pub fn fits_tenant(&self, tenant: &str) -> TenantMatch {
        match self.common_name.as_deref() {
            Some(name) if name == tenant => TenantMatch::Exact,
            Some(name) if name.to_lowercase() == tenant.to_lowercase() => TenantMatch::CaseDiffers,
            _ => TenantMatch::Other,
        }
    }

    /// Returns true if `key` is the private key of this certificate.
    pub fn belongs_to(&self, key: &EcKey) -> bool {
        match self.algorithm {
            KeyAlgorithm::Ec(curve) => key.has_public_key(curve, &self.public_point),
            KeyAlgorithm::Other { .. } => false,
        }
    }
}

/// Returns the index of the first certificate that does not name the next one as its issuer.
pub fn chain_break(chain: &[CertificateFacts]) -> Option<usize> {
    chain.windows(2).position(|pair| !pair[0].names_as_issuer(&pair[1]))
}

/// Returns the order that TLS requires of the chain that starts at `leaf`: each certificate followed
/// by its issuer, and unrelated ones at the end in their given order. It is a permutation of
/// `0..chain.len()`.
pub fn chain_order(chain: &[CertificateFacts], leaf: usize) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..chain.len()).filter(|i| *i != leaf).collect();
    let mut order = vec![leaf];
    let mut last = leaf;
    while let Some(at) = rest.iter().position(|i| chain[last].names_as_issuer(&chain[*i])) {
        last = rest.remove(at);
        order.push(last);
    }
    order.extend(rest);
    order
}

fn text(attribute: &AttributeTypeAndValue<'_>) -> String {
    match attribute.as_str() {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(attribute.as_slice()).into_owned(),
    }
}

/// Formats a name in the order and with the short names that OpenSSL prints.
pub(crate) fn name(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter_attributes()
        .map(|attribute| {
            let oid = attribute.attr_type().to_id_string();
            let key = match oid.as_str() {
                "2.5.4.3" => "CN",
                "2.5.4.6" => "C",
                "2.5.4.7" => "L",
                "2.5.4.8" => "ST",
                "2.5.4.10" => "O",
                "2.5.4.11" => "OU",
                "2.5.4.5" => "serialNumber",
                "1.2.840.113549.1.9.1" => "emailAddress",
                other => other,
            };
            format!("{key} = {}", text(attribute))
        })
        .collect();
    if parts.is_empty() { "(empty)".to_owned() } else { parts.join(", ") }
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
                Some((*text).to_owned())
            }
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        })
        .collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::algorithm::EcCurve;
    use crate::credentials::testing::{LeafSpec, TestPki};
    use proptest::prelude::*;
    use rustls_pki_types::pem::PemObject;
    use time::Duration;
    use time::macros::datetime;

    fn facts(pem: &str) -> CertificateFacts {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        CertificateFacts::from_der(&der).expect("X.509")
    }

    #[test]
    fn the_built_in_authority_is_the_vendors_root() {
        let facts = facts(include_str!("centiloc-ca.pem"));
        assert_eq!(facts.subject, "C = FR, O = Centiloc, CN = Root CA Issuer");
        assert_eq!(facts.serial, "27:6c:e9:94:28:f6:10:b7:bc:e7:09:0c:69:7c:d5:82");
        assert_eq!(facts.not_before, datetime!(2022-10-14 07:49:41 UTC));
        assert_eq!(facts.not_after, datetime!(2121-05-08 07:49:41 UTC));
        assert_eq!(facts.algorithm, KeyAlgorithm::Ec(EcCurve::P256));
        assert_eq!(facts.alternative_names, ["centiloc.com", "www.centiloc.com"]);
        assert_eq!((facts.version, facts.authority, facts.self_issued()), (3, true, true));
    }

    #[test]
    fn days_left_round_down_past_expiry() {
        let facts = facts(include_str!("centiloc-ca.pem"));
        assert_eq!(facts.days_left(facts.not_after - Duration::hours(47)), 1);
        assert_eq!(facts.days_left(facts.not_after), 0);
        assert_eq!(facts.days_left(facts.not_after + Duration::SECOND), -1);
        assert!(!facts.expired(facts.not_after) && !facts.not_yet_valid(facts.not_before));
        assert!(facts.expired(facts.not_after + Duration::SECOND));
        assert!(facts.not_yet_valid(facts.not_before - Duration::SECOND));
    }

    #[test]
    fn common_name_matches_the_tenant_exactly() {
        let facts = facts(&TestPki::new().issue(&LeafSpec::client("Acme-1")).pem);
        assert_eq!(facts.fits_tenant("Acme-1"), TenantMatch::Exact);
        assert_eq!(facts.fits_tenant("acme-1"), TenantMatch::CaseDiffers);
        assert_eq!(facts.fits_tenant("acme"), TenantMatch::Other);
        assert_eq!(facts.email.as_deref(), Some("it@example.com"));
    }

    #[test]
    fn version_1_certificates_are_read() {
        let pki = TestPki::new();
        let facts = facts(&pki.issue(&LeafSpec::client("acme").version_1()).pem);
        assert_eq!((facts.version, facts.authority), (1, false));
        assert_eq!(facts.common_name.as_deref(), Some("acme"));
    }

    #[test]
    fn shuffled_chains_are_sorted_with_strangers_last() {
        let pki = TestPki::new();
        let middle = pki.intermediate("Middle");
        let chain = [
            facts(&pki.authority_pem()),
            facts(&pki.intermediate("Stranger").authority_pem()),
            facts(&middle.authority_pem()),
            facts(&middle.issue(&LeafSpec::client("acme")).pem),
        ];
        assert_eq!(chain_order(&chain, 3), [3, 2, 0, 1]);
        assert_eq!(chain_break(&chain), Some(0));
        let ordered: Vec<_> = [3, 2, 0].iter().map(|i| chain[*i].clone()).collect();
        assert_eq!(chain_break(&ordered), None);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(CertificateFacts::from_der(&CertificateDer::from(bytes)).is_err());
        }
    }
}
