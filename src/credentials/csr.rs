//! The certificate signing request of the vendor's first step. Nothing here writes a file.

use p256::elliptic_curve::zeroize::Zeroizing;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::algorithm::EcCurve;
use super::key::EcKey;

/// Object identifier of PKCS#9 emailAddress, an `IA5String`.
const EMAIL_ADDRESS: &[u64] = &[1, 2, 840, 113_549, 1, 9, 1];

// Upper bounds of X.520, in characters. OpenSSL and most authorities enforce them.
const COMMON_NAME_MAX: usize = 64;
const ORGANIZATION_MAX: usize = 64;
const PLACE_MAX: usize = 128;
const EMAIL_MAX: usize = 255;

/// The subject of the request, as the vendor's documentation describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestSubject {
    /// Common Name, which is the tenantID.
    pub tenant: String,
    /// Organization Name: the customer's company, even where data access is delegated.
    pub organization: String,
    /// Email Address, to which Centiloc sends expiry notices.
    pub email: String,
    /// Country Name, two letters.
    pub country: Option<String>,
    /// State or Province Name, if given.
    pub state: Option<String>,
    /// Locality Name, if given.
    pub locality: Option<String>,
    /// Organizational Unit Name, if given.
    pub organizational_unit: Option<String>,
}

impl RequestSubject {
    /// Returns every problem of the subject, each with a hint.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(tenant_problem(&self.tenant));
        problems.extend(text_problem("organization", &self.organization, ORGANIZATION_MAX));
        problems.extend(email_problem(&self.email));
        problems.extend(self.country.as_deref().and_then(country_problem));
        for (option, value, max) in [
            ("state", &self.state, PLACE_MAX),
            ("locality", &self.locality, PLACE_MAX),
            ("organizational-unit", &self.organizational_unit, ORGANIZATION_MAX),
        ] {
            problems.extend(value.as_deref().and_then(|value| text_problem(option, value, max)));
        }
        problems
    }

    /// Builds the name, with the attributes in the order that `openssl req` uses.
    fn distinguished_name(&self) -> Result<DistinguishedName, rcgen::Error> {
        let mut name = DistinguishedName::new();
        if let Some(country) = &self.country {
            let code = country.to_ascii_uppercase();
            name.push(DnType::CountryName, DnValue::PrintableString(code.try_into()?));
        }
        let optional =
            [(DnType::StateOrProvinceName, &self.state), (DnType::LocalityName, &self.locality)];
        for (kind, value) in optional {
            push_text(&mut name, kind, value.as_ref());
        }
        push_text(&mut name, DnType::OrganizationName, Some(&self.organization));
        push_text(&mut name, DnType::OrganizationalUnitName, self.organizational_unit.as_ref());
        push_text(&mut name, DnType::CommonName, Some(&self.tenant));
        let email = DnValue::Ia5String(self.email.as_str().try_into()?);
        name.push(DnType::CustomDnType(EMAIL_ADDRESS.to_vec()), email);
        Ok(name)
    }
}

fn push_text(name: &mut DistinguishedName, kind: DnType, value: Option<&String>) {
    if let Some(value) = value {
        name.push(kind, DnValue::Utf8String(value.clone()));
    }
}

/// The reason why a request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The subject has these problems.
    #[error("{}", .0.join("; "))]
    Subject(Vec<String>),
    /// rcgen could not encode or sign the request.
    #[error("could not make the signing request: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// Returns the request as PEM, signed by `key`.
pub fn request_pem(subject: &RequestSubject, key: &EcKey) -> Result<String, RequestError> {
    let problems = subject.problems();
    if !problems.is_empty() {
        return Err(RequestError::Subject(problems));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = subject.distinguished_name()?;
    let request = params.serialize_request(&key_pair(key)?)?;
    Ok(request.pem()?)
}

/// Converts the key for rcgen.
pub(crate) fn key_pair(key: &EcKey) -> Result<KeyPair, rcgen::Error> {
    let der: Zeroizing<Vec<u8>> = key.to_pkcs8_der();
    let algorithm = match key.curve() {
        EcCurve::P256 => &PKCS_ECDSA_P256_SHA256,
        EcCurve::P384 => &PKCS_ECDSA_P384_SHA384,
    };
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der.as_slice()), algorithm)
}

/// Checks the tenant. It prefixes topics, so that characters with a meaning in topic filters are not
/// allowed.
fn tenant_problem(tenant: &str) -> Option<String> {
    let wrong = |c: char| c.is_whitespace() || c.is_control() || "/+#$".contains(c);
    if let Some(c) = tenant.chars().find(|c| wrong(*c)) {
        return Some(format!(
            "--tenant {tenant:?} holds {c:?}; expected the tenantID exactly as Centiloc gave it, \
             without spaces, '/', '+', '#' and '$'"
        ));
    }
    text_problem("tenant", tenant, COMMON_NAME_MAX)
}

fn text_problem(option: &str, value: &str, max: usize) -> Option<String> {
    if value.trim().is_empty() {
        Some(format!("--{option} is empty; give it a value, or omit the option if it is optional"))
    } else if value.trim() != value || value.chars().any(char::is_control) {
        Some(format!(
            "--{option} {value:?} has spaces at its ends or control characters; remove them"
        ))
    } else if value.chars().count() > max {
        Some(format!(
            "--{option} is longer than the {max} characters that X.520 allows; shorten it"
        ))
    } else {
        None
    }
}

fn email_problem(email: &str) -> Option<String> {
    let plausible = email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.contains('@')
            && domain.split('.').count() > 1
            && domain.split('.').all(|label| !label.is_empty() && !label.starts_with('-'))
    });
    let printable = email.bytes().all(|b| b.is_ascii_graphic());
    if plausible && printable && email.len() <= EMAIL_MAX {
        return None;
    }
    Some(format!(
        "--email {email:?} is not an e-mail address; expected one in ASCII such as \
         it@example.com: Centiloc sends expiry notices there"
    ))
}

fn country_problem(country: &str) -> Option<String> {
    if country.len() == 2 && country.bytes().all(|b| b.is_ascii_alphabetic()) {
        return None;
    }
    Some(format!(
        "--country {country:?} is not a country code; expected two letters (ISO 3166), such as FR"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::testing::openssl;
    use proptest::prelude::*;

    fn subject() -> RequestSubject {
        RequestSubject {
            tenant: "acme".into(),
            organization: "Acme Santé".into(),
            email: "it@example.com".into(),
            ..RequestSubject::default()
        }
    }

    #[test]
    fn openssl_verifies_requests_of_both_curves() {
        let full = RequestSubject {
            country: Some("fr".into()),
            state: Some("Occitanie".into()),
            locality: Some("Toulouse".into()),
            organizational_unit: Some("IT".into()),
            ..subject()
        };
        for (curve, bits) in [(EcCurve::P256, "256 bit"), (EcCurve::P384, "384 bit")] {
            let pem = request_pem(&full, &EcKey::generate(curve)).expect("a request");
            let args = ["req", "-verify", "-noout", "-text", "-nameopt", "RFC2253,-esc_msb,utf8"];
            let text = String::from_utf8(openssl(&args, pem.as_bytes())).unwrap();
            assert!(
                text.contains(
                    "Subject: emailAddress=it@example.com,CN=acme,OU=IT,O=Acme Santé,\
                     L=Toulouse,ST=Occitanie,C=FR"
                ),
                "{text}"
            );
            assert!(text.contains(bits), "{text}");
        }
    }

    #[test]
    fn subject_fields_have_their_string_types() {
        let subject = RequestSubject { country: Some("FR".into()), ..subject() };
        let pem = request_pem(&subject, &EcKey::generate(EcCurve::P256)).expect("a request");
        let text = String::from_utf8(openssl(&["asn1parse"], pem.as_bytes())).unwrap();
        assert!(text.contains("IA5STRING         :it@example.com"), "{text}");
        assert!(text.contains("PRINTABLESTRING   :FR"), "{text}");
    }

    #[test]
    fn problems_of_the_subject_are_reported_together() {
        let bad = RequestSubject {
            tenant: "ac/me".into(),
            organization: String::new(),
            email: "nobody".into(),
            country: Some("France".into()),
            ..RequestSubject::default()
        };
        let error = request_pem(&bad, &EcKey::generate(EcCurve::P256)).expect_err("refused");
        let text = error.to_string();
        for option in ["--tenant", "--organization", "--email", "--country"] {
            assert!(text.contains(option), "{text}");
        }
    }

    #[test]
    fn implausible_addresses_are_refused() {
        for email in ["", "a", "a@b", "@b.c", "a@b..c", "a b@c.d", "é@b.fr", "a@b@c.d", "a@.d"] {
            assert!(email_problem(email).is_some(), "{email}");
        }
        for email in ["a@b.fr", "first.last+tag@mail.example.co.uk"] {
            assert_eq!(email_problem(email), None);
        }
    }

    proptest! {
        #[test]
        fn checked_subjects_become_requests(
            tenant in "\\PC{0,70}", organization in "\\PC{0,70}", email in "[ -~é]{0,20}@[a-z.]{0,20}",
            country in prop::option::of("[A-Za-z0-9]{1,3}"), state in prop::option::of("\\PC{0,130}"),
        ) {
            let subject =
                RequestSubject { tenant, organization, email, country, state, ..RequestSubject::default() };
            let made = request_pem(&subject, &EcKey::P256(p256::SecretKey::from_slice(&[7; 32]).unwrap()));
            prop_assert_eq!(made.is_ok(), subject.problems().is_empty());
        }
    }
}
