//! The part of `check` that needs neither broker nor database: everything that can be known about
//! the client certificate, its key and the trust anchors from the files alone.

use std::path::Path;

use serde::Serialize;
use time::OffsetDateTime;

use super::anchors::Anchors;
use super::error::{CredentialError, Role};
use super::files;
use super::identity::{Identity, RENEW_DAYS, date, read_certificates, validity_note, version_note};
use super::inspect::{CertificateFacts, TenantFit};
use super::key::EcKey;
use super::pem::PemFile;
use crate::config::Tls;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but wants attention.
    Warning,
    /// Does not work.
    Failed,
}

/// One line of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked; people script against it.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What was expected; empty where `found` is it.
    pub expected: String,
    /// The cure; empty where nothing is to be done.
    pub what_to_do: String,
}

impl Check {
    /// As it should be.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        let (expected, what_to_do) = (String::new(), String::new());
        Self { name, status: Status::Ok, found: found.into(), expected, what_to_do }
    }

    /// Not as it should be.
    pub fn trouble(
        name: &'static str,
        status: Status,
        found: impl Into<String>,
        expected: impl Into<String>,
        what_to_do: impl Into<String>,
    ) -> Self {
        let (found, expected, what_to_do) = (found.into(), expected.into(), what_to_do.into());
        Self { name, status, found, expected, what_to_do }
    }

    /// Failed with an error or warned with a note of the form "cause; cure".
    pub fn from_sentence(
        name: &'static str,
        status: Status,
        sentence: &str,
        expected: impl Into<String>,
    ) -> Self {
        let (found, cure) = sentence.split_once("; ").unwrap_or((sentence, ""));
        let (found, what_to_do) = (found.to_owned(), cure.to_owned());
        Self { name, status, found, expected: expected.into(), what_to_do }
    }

    fn failed(name: &'static str, error: &CredentialError, role: Role) -> Self {
        Self::from_sentence(name, Status::Failed, &error.to_string(), role.expected())
    }

    fn noted(name: &'static str, note: Option<&str>, found: String, expected: &str) -> Self {
        match note {
            None => Self::ok(name, found),
            Some(note) => Self::from_sentence(name, Status::Warning, note, expected),
        }
    }
}

/// Every check of the files in `mqtt.tls`. What depends on a file that cannot be read is left
/// out: the failure of the file is in the list.
pub fn tls_files(tenant: &str, tls: &Tls, now: OffsetDateTime) -> Vec<Check> {
    let mut checks = identity_checks(tenant, tls, now);
    checks.push(trust_anchor(tls.ca_file.as_deref(), now));
    checks
}

fn identity_checks(tenant: &str, tls: &Tls, now: OffsetDateTime) -> Vec<Check> {
    let loaded = Identity::load(&tls.cert_file, &tls.key_file);
    if let Err(error @ CredentialError::Swapped { .. }) = &loaded {
        return vec![Check::failed("client_certificate", error, Role::Certificate)];
    }
    let certificate = PemFile::read(Role::Certificate, &tls.cert_file)
        .and_then(|file| read_certificates(&file))
        .map(|(_, facts)| facts);
    let key = PemFile::read(Role::Key, &tls.key_file).and_then(|file| EcKey::from_pem(&file));
    let mut checks = vec![client_certificate(&certificate), private_key(&key)];
    if key.is_ok() {
        checks.push(key_file_mode(&tls.key_file));
    }
    match &loaded {
        Ok(identity) => {
            checks.push(Check::ok("key_fits_certificate", "the key belongs to the certificate"));
            checks.extend(of_the_certificate(tenant, tls, identity, now));
        }
        Err(error @ CredentialError::KeyMismatch { .. }) => {
            checks.push(Check::failed("key_fits_certificate", error, Role::Key));
        }
        Err(_) => {}
    }
    checks
}

fn client_certificate(read: &Result<Vec<CertificateFacts>, CredentialError>) -> Check {
    match read {
        Ok(facts) => {
            let first = &facts[0];
            let found = format!("subject {}, issued by {}", first.subject, first.issuer);
            Check::ok("client_certificate", found)
        }
        Err(error) => Check::failed("client_certificate", error, Role::Certificate),
    }
}

fn private_key(read: &Result<EcKey, CredentialError>) -> Check {
    match read {
        Ok(key) => Check::ok("private_key", format!("an EC key on {}", key.curve())),
        Err(error) => Check::failed("private_key", error, Role::Key),
    }
}

fn key_file_mode(path: &Path) -> Check {
    let note = files::exposure(path);
    let found = "nobody can read the private key who should not".to_owned();
    Check::noted("key_file_mode", note.as_deref(), found, "mode 0600 or 0400")
}

fn of_the_certificate(
    tenant: &str,
    tls: &Tls,
    identity: &Identity,
    now: OffsetDateTime,
) -> Vec<Check> {
    let facts = &identity.facts;
    let version = (facts.version < 3).then(|| version_note(&tls.cert_file, facts));
    let found = format!("X.509 version {}", facts.version);
    vec![
        certificate_tenant(tenant, facts),
        certificate_validity(facts, now),
        Check::noted("certificate_version", version.as_deref(), found, "X.509 version 3"),
        Check::noted(
            "certificate_chain",
            identity.chain_note.as_deref(),
            match identity.chain.len() {
                1 => "the certificate alone".to_owned(),
                n => format!("{n} certificates, each followed by its issuer"),
            },
            "the client certificate first, each followed by its issuer",
        ),
    ]
}

fn certificate_tenant(tenant: &str, facts: &CertificateFacts) -> Check {
    let name = "certificate_tenant";
    let cure = match facts.fits_tenant(tenant) {
        TenantFit::Exact => {
            return Check::ok(name, format!("the certificate is the tenant {tenant:?}'s"));
        }
        TenantFit::CaseDiffers => {
            "write tenant exactly as in the certificate: topics are case-sensitive"
        }
        TenantFit::Other => "set tenant to your tenantID, or use the certificate of this tenant",
    };
    Check {
        name,
        status: Status::Failed,
        found: match &facts.common_name {
            Some(common_name) => format!("the certificate's common name is {common_name:?}"),
            None => "the certificate has no common name".to_owned(),
        },
        expected: format!("the tenant {tenant:?}"),
        what_to_do: cure.to_owned(),
    }
}

fn certificate_validity(facts: &CertificateFacts, now: OffsetDateTime) -> Check {
    let name = "certificate_validity";
    let Some(note) = validity_note(facts, now) else {
        let days = facts.days_left(now);
        return Check::ok(name, format!("{days} days left, until {}", date(facts.not_after)));
    };
    let usable = !facts.expired(now) && !facts.not_yet_valid(now);
    let status = if usable { Status::Warning } else { Status::Failed };
    Check::from_sentence(name, status, &note, format!("valid for more than {RENEW_DAYS} days"))
}

fn trust_anchor(ca_file: Option<&Path>, now: OffsetDateTime) -> Check {
    let name = "trust_anchor";
    let anchors = match Anchors::load(ca_file) {
        Ok(anchors) => anchors,
        Err(error) => return Check::failed(name, &error, Role::Anchors),
    };
    let found = match (ca_file, anchors.facts.as_slice()) {
        (None, _) => "the built-in Centiloc CA".to_owned(),
        (Some(_), [only]) => only.subject.clone(),
        (Some(_), many) => format!("{} authorities", many.len()),
    };
    let warnings = anchors.warnings(ca_file, now);
    Check::noted(name, warnings.first().map(String::as_str), found, Role::Anchors.expected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::key::Curve;
    use crate::credentials::testing::{Files, Leaf, Pki};
    use std::os::unix::fs::PermissionsExt;

    fn setting(leaf: &Leaf) -> (Files, Tls) {
        let (pki, files) = (Pki::new(), Files::new());
        let issued = pki.issue(leaf);
        let tls = Tls {
            ca_file: Some(files.write("ca.pem", pki.authority_pem())),
            cert_file: files.write("tls-cert.pem", &issued.pem),
            key_file: files.write("private-key.pem", issued.key.to_sec1_pem().as_str()),
            server_name: None,
        };
        (files, tls)
    }

    fn troubles(tls: &Tls) -> Vec<(&'static str, Status)> {
        let checks = tls_files("acme", tls, OffsetDateTime::now_utc());
        for check in &checks {
            let told = !check.what_to_do.is_empty() && !check.expected.is_empty();
            assert_eq!(told, check.status != Status::Ok, "a trouble has a cure: {check:?}");
        }
        let bad = checks.iter().filter(|check| check.status != Status::Ok);
        bad.map(|check| (check.name, check.status)).collect()
    }

    #[test]
    fn a_good_setting_passes_every_check() {
        let (_files, tls) = setting(&Leaf::client("acme"));
        assert_eq!(troubles(&tls), []);
        let checks = tls_files("acme", &tls, OffsetDateTime::now_utc());
        let names: Vec<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(
            names,
            [
                "client_certificate",
                "private_key",
                "key_file_mode",
                "key_fits_certificate",
                "certificate_tenant",
                "certificate_validity",
                "certificate_version",
                "certificate_chain",
                "trust_anchor"
            ]
        );
    }

    #[test]
    fn each_trouble_fails_or_warns_in_its_own_check() {
        use Status::{Failed, Warning};
        let cases: [(Leaf, &str, Status); 6] = [
            (Leaf::client("other"), "certificate_tenant", Failed),
            (Leaf::client("ACME"), "certificate_tenant", Failed),
            (Leaf::client("acme").days(-365, -1), "certificate_validity", Failed),
            (Leaf::client("acme").days(1, 365), "certificate_validity", Failed),
            (Leaf::client("acme").days(-335, 50), "certificate_validity", Warning),
            (Leaf::client("acme").version_1(), "certificate_version", Warning),
        ];
        for (leaf, name, status) in cases {
            let (_files, tls) = setting(&leaf);
            assert_eq!(troubles(&tls), [(name, status)]);
        }
    }

    #[test]
    fn a_strangers_key_an_open_key_and_a_wrong_anchor_are_reported_together() {
        let (files, mut tls) = setting(&Leaf::client("acme"));
        files.write("private-key.pem", EcKey::generate(Curve::P256).to_sec1_pem().as_str());
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&tls.key_file, open).unwrap();
        tls.ca_file = Some(tls.cert_file.clone());
        assert_eq!(
            troubles(&tls),
            [
                ("key_file_mode", Status::Warning),
                ("key_fits_certificate", Status::Failed),
                ("trust_anchor", Status::Failed)
            ]
        );
    }

    #[test]
    fn swapped_files_are_one_trouble_and_two_missing_files_are_two() {
        let (files, mut tls) = setting(&Leaf::client("acme"));
        std::mem::swap(&mut tls.cert_file, &mut tls.key_file);
        assert_eq!(troubles(&tls), [("client_certificate", Status::Failed)]);
        tls.cert_file = files.path("nowhere.pem");
        tls.key_file = files.path("nowhere-else.pem");
        assert_eq!(
            troubles(&tls),
            [("client_certificate", Status::Failed), ("private_key", Status::Failed)]
        );
    }
}
