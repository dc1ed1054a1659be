//! The client certificate with its chain and private key.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::error::{CredentialError, FileRole};
use super::files;
use super::inspect::{CertificateFacts, chain_break, chain_order};
use super::key::EcKey;
use super::pem::PemFile;

/// Days before the expiry of a certificate from which on a warning is given. Renewal takes work at
/// the customer and a working day at Centiloc, and holidays may delay it.
pub const RENEW_DAYS: i64 = 60;

/// A client certificate and its private key, which fit each other.
#[derive(Debug)]
pub struct ClientIdentity {
    /// The certificate and its intermediates, in the order that TLS requires.
    pub chain: Vec<CertificateDer<'static>>,
    /// Facts of the client certificate (the first of the chain).
    pub facts: CertificateFacts,
    /// The private key. Invariant: `facts.belongs_to(&key)`.
    pub key: EcKey,
    /// A warning about the order of the certificates in the file, if any.
    pub chain_note: Option<String>,
    /// A warning that others may read the key file, if they may.
    pub key_exposed: Option<String>,
}

impl ClientIdentity {
    /// Reads the two files and checks that they fit each other.
    pub fn load(cert_file: &Path, key_file: &Path) -> Result<Self, CredentialError> {
        let certificate = PemFile::read(FileRole::Certificate, cert_file);
        let key = PemFile::read(FileRole::Key, key_file);
        if let (Ok(certificate), Ok(key)) = (&certificate, &key)
            && swapped(certificate, key)
        {
            let (certificate, key) = (certificate.name.clone(), key.name.clone());
            return Err(CredentialError::Swapped { certificate, key });
        }
        let (certificate, key_pem) = (certificate?, key?);
        let (ders, facts) = read_certificates(&certificate)?;
        let key = EcKey::from_pem(&key_pem)?;
        let leaf = facts.iter().position(|f| f.belongs_to(&key)).ok_or_else(|| {
            CredentialError::KeyMismatch {
                file: certificate.name.clone(),
                key: key_pem.name.clone(),
                subject: facts[0].subject.clone(),
                found: facts[0].algorithm.to_string(),
            }
        })?;
        let order = chain_order(&facts, leaf);
        let chain_note = chain_note(&certificate, &facts, &order);
        Ok(Self {
            chain: order.iter().map(|i| ders[*i].clone()).collect(),
            facts: facts[leaf].clone(),
            key,
            chain_note,
            key_exposed: files::exposure(key_file),
        })
    }

    /// Returns warnings about the files, each with a hint.
    pub fn warnings(&self, cert_file: &Path, now: OffsetDateTime) -> Vec<String> {
        let file = cert_file.display();
        let mut warnings: Vec<String> = self.key_exposed.iter().cloned().collect();
        warnings.extend(self.chain_note.clone());
        if self.facts.version < 3 {
            warnings.push(version_note(cert_file, &self.facts));
        }
        warnings.extend(validity_note(&self.facts, now).map(|note| format!("{file}: {note}")));
        warnings
    }
}

/// Returns true if each file holds only the content of the other.
fn swapped(certificate: &PemFile, key: &PemFile) -> bool {
    certificate.has_private_key()
        && !certificate.has("CERTIFICATE")
        && key.has("CERTIFICATE")
        && !key.has_private_key()
}

/// Reads every certificate of a file, and its facts.
pub(crate) fn read_certificates(
    file: &PemFile,
) -> Result<(Vec<CertificateDer<'static>>, Vec<CertificateFacts>), CredentialError> {
    let ders = file.certificates()?;
    let facts = ders
        .iter()
        .enumerate()
        .map(|(i, der)| {
            CertificateFacts::from_der(der)
                .map_err(|detail| file.damaged(format!("certificate {}: {detail}", i + 1)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok((ders, facts))
}

fn chain_note(file: &PemFile, facts: &[CertificateFacts], order: &[usize]) -> Option<String> {
    if order.windows(2).any(|pair| pair[0] > pair[1]) {
        return Some(format!(
            "{}: the certificates are not in order; they are sent in the right one, but put the \
             client certificate first, each followed by its issuer",
            file.name
        ));
    }
    let ordered: Vec<_> = order.iter().map(|i| facts[*i].clone()).collect();
    chain_break(&ordered).map(|at| {
        format!(
            "{}: certificate {} ({}) is not followed by its issuer ({}); remove what does not \
             belong to the chain",
            file.name,
            at + 1,
            ordered[at].subject,
            ordered[at].issuer
        )
    })
}

/// Returns the warning about a certificate of an old version.
pub(crate) fn version_note(cert_file: &Path, facts: &CertificateFacts) -> String {
    format!(
        "{} is an X.509 version {} certificate (without extensions): it is used, but many \
         servers refuse such certificates; ask Centiloc for a version 3 one at the next renewal",
        cert_file.display(),
        facts.version
    )
}

/// Returns a warning if a client certificate is not valid now, or expires soon.
pub fn validity_note(facts: &CertificateFacts, now: OffsetDateTime) -> Option<String> {
    let days = facts.days_left(now);
    if facts.not_yet_valid(now) {
        Some(format!(
            "the certificate is not valid before {}, and it is {} by this machine's clock; set \
             the clock, or wait",
            date(facts.not_before),
            date(now)
        ))
    } else if facts.expired(now) {
        Some(format!("the certificate expired on {}; {RENEW} at once", date(facts.not_after)))
    } else if days <= RENEW_DAYS {
        Some(format!(
            "the certificate expires in {days} days, on {}; {RENEW} now",
            date(facts.not_after)
        ))
    } else {
        None
    }
}

/// Hint for a renewal. The key stays the same.
const RENEW: &str = "make a request with centiloc-bridge csr --key and send it to Centiloc's \
                     support";

/// Formats a time for a message.
pub(crate) fn date(time: OffsetDateTime) -> String {
    crate::timestamp::shown(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::algorithm::EcCurve;
    use crate::credentials::testing::{LeafSpec, TestFiles, TestPki, openssl};
    use std::os::unix::fs::PermissionsExt;
    use time::Duration;

    fn failure(files: &TestFiles, cert: &str, key: &str) -> CredentialError {
        ClientIdentity::load(&files.path(cert), &files.path(key)).expect_err("must be refused")
    }

    #[test]
    fn every_key_format_and_curve_loads() {
        for curve in EcCurve::ALL {
            let issued = TestPki::new().issue(&LeafSpec::client("acme").curve(curve));
            let files = TestFiles::new();
            files.write("cert.pem", &issued.pem);
            let sec1 = files.write("sec1.pem", issued.key.to_sec1_pem().as_str());
            let pkcs8 =
                openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", &sec1.display().to_string()], &[]);
            files.write("pkcs8.pem", pkcs8);
            for key in ["sec1.pem", "pkcs8.pem"] {
                let loaded = ClientIdentity::load(&files.path("cert.pem"), &files.path(key));
                let loaded = loaded.expect("fits");
                assert_eq!(loaded.facts.common_name.as_deref(), Some("acme"));
                assert_eq!(loaded.key.curve(), curve);
                let now = OffsetDateTime::now_utc();
                assert_eq!(loaded.warnings(&files.path("cert.pem"), now), [""; 0]);
            }
        }
    }

    #[test]
    fn a_mismatched_key_names_both_files() {
        let files = TestFiles::new();
        files.write("cert.pem", &TestPki::new().issue(&LeafSpec::client("acme")).pem);
        files.write("key.pem", EcKey::generate(EcCurve::P256).to_sec1_pem().as_str());
        let text = failure(&files, "cert.pem", "key.pem").to_string();
        assert!(text.contains("does not belong to it (its subject is "), "{text}");
        assert!(text.contains("CN = acme"), "{text}");
        assert!(text.contains("cert.pem") && text.contains("key.pem"), "{text}");
    }

    #[test]
    fn swapped_files_are_recognised() {
        let issued = TestPki::new().issue(&LeafSpec::client("acme"));
        let files = TestFiles::new();
        files.write("cert.pem", &issued.pem);
        files.write("key.pem", issued.key.to_sec1_pem().as_str());
        let swapped = failure(&files, "key.pem", "cert.pem");
        assert!(matches!(swapped, CredentialError::Swapped { .. }), "{swapped}");
        let twice = failure(&files, "key.pem", "key.pem");
        assert!(matches!(twice, CredentialError::KeyForCertificate { .. }), "{twice}");
        let twice = failure(&files, "cert.pem", "cert.pem");
        assert!(matches!(twice, CredentialError::CertificateForKey { .. }), "{twice}");
    }

    #[test]
    fn one_file_with_both_serves_for_both() {
        let issued = TestPki::new().issue(&LeafSpec::client("acme"));
        let files = TestFiles::new();
        let both = format!("{}{}", issued.key.to_sec1_pem().as_str(), issued.pem);
        let path = files.write("both.pem", both);
        assert!(ClientIdentity::load(&path, &path).is_ok());
    }

    #[test]
    fn unordered_chains_are_sorted_with_a_warning() {
        let root = TestPki::new();
        let middle = root.intermediate("Middle");
        let issued = middle.issue(&LeafSpec::client("acme"));
        let files = TestFiles::new();
        files.write("key.pem", issued.key.to_sec1_pem().as_str());
        let in_order = format!("{}{}", issued.pem, middle.authority_pem());
        files.write("good.pem", &in_order);
        files.write("bad.pem", format!("{}{}", middle.authority_pem(), issued.pem));
        let good =
            ClientIdentity::load(&files.path("good.pem"), &files.path("key.pem")).expect("good");
        let bad =
            ClientIdentity::load(&files.path("bad.pem"), &files.path("key.pem")).expect("bad");
        assert_eq!(good.chain, bad.chain);
        assert_eq!(good.chain_note, None);
        assert!(bad.chain_note.expect("a note").contains("client certificate first"));
        files.write("odd.pem", format!("{}{}", issued.pem, TestPki::new().authority_pem()));
        let odd =
            ClientIdentity::load(&files.path("odd.pem"), &files.path("key.pem")).expect("odd");
        assert!(odd.chain_note.expect("a note").contains("not followed by its issuer"));
    }

    #[test]
    fn exposed_keys_and_old_certificates_warn() {
        let issued = TestPki::new().issue(&LeafSpec::client("acme").version_1());
        let files = TestFiles::new();
        let cert = files.write("cert.pem", &issued.pem);
        let key = files.write("key.pem", issued.key.to_sec1_pem().as_str());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let loaded = ClientIdentity::load(&cert, &key).expect("v1 is accepted");
        let warnings = loaded.warnings(&cert, OffsetDateTime::now_utc());
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("chmod 600"), "{warnings:?}");
        assert!(warnings[1].contains("X.509 version 1"), "{warnings:?}");
    }

    #[test]
    fn validity_notes_cover_every_period() {
        let files = TestFiles::new();
        let issued = TestPki::new().issue(&LeafSpec::client("acme"));
        files.write("cert.pem", &issued.pem);
        files.write("key.pem", issued.key.to_sec1_pem().as_str());
        let id =
            ClientIdentity::load(&files.path("cert.pem"), &files.path("key.pem")).expect("fits");
        let note = |now| validity_note(&id.facts, now).unwrap_or_default();
        assert!(note(id.facts.not_before - Duration::DAY).contains("this machine's clock"));
        assert_eq!(note(id.facts.not_after - Duration::days(70)), "");
        assert!(note(id.facts.not_after - Duration::days(50)).contains("expires in 50 days"));
        assert!(note(id.facts.not_after + Duration::DAY).contains("expired on"));
    }
}
