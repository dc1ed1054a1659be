//! Checks of the files in `mqtt.tls`: the client certificate, its key and the trust anchors.

use std::path::Path;

use time::OffsetDateTime;

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::config::TlsConfig;
use crate::credentials::anchors::TrustAnchors;
use crate::credentials::error::{CredentialError, FileRole};
use crate::credentials::files;
use crate::credentials::identity::{
    ClientIdentity, RENEW_DAYS, date, read_certificates, validity_note, version_note,
};
use crate::credentials::inspect::{CertificateFacts, TenantMatch};
use crate::credentials::key::EcKey;
use crate::credentials::pem::PemFile;

/// Runs every check of the files. Checks that depend on an unreadable file are omitted, because the
/// list has the failure of the file.
pub(super) fn checks(tenant: &str, tls: &TlsConfig, now: OffsetDateTime) -> Vec<CheckLine> {
    let mut checks = identity_checks(tenant, tls, now);
    checks.push(trust_anchor(tls.ca_file.as_deref(), now));
    checks
}

fn failed(name: &'static str, error: &CredentialError, role: FileRole) -> CheckLine {
    CheckLine::from_sentence(name, CheckStatus::Failed, &error.to_string(), role.expected())
}

fn identity_checks(tenant: &str, tls: &TlsConfig, now: OffsetDateTime) -> Vec<CheckLine> {
    let loaded = ClientIdentity::load(&tls.cert_file, &tls.key_file);
    if let Err(error @ CredentialError::Swapped { .. }) = &loaded {
        return vec![failed(names::CLIENT_CERTIFICATE, error, FileRole::Certificate)];
    }
    let certificate = PemFile::read(FileRole::Certificate, &tls.cert_file)
        .and_then(|file| read_certificates(&file))
        .map(|(_, facts)| facts);
    let key = PemFile::read(FileRole::Key, &tls.key_file).and_then(|file| EcKey::from_pem(&file));
    let mut checks = vec![client_certificate(&certificate), private_key(&key)];
    if key.is_ok() {
        checks.push(key_file_mode(&tls.key_file));
    }
    match &loaded {
        Ok(identity) => {
            checks.push(CheckLine::ok(
                names::KEY_FITS_CERTIFICATE,
                "the key belongs to the certificate",
            ));
            checks.extend(certificate_checks(tenant, tls, identity, now));
        }
        Err(error @ CredentialError::KeyMismatch { .. }) => {
            checks.push(failed(names::KEY_FITS_CERTIFICATE, error, FileRole::Key));
        }
        Err(_) => {}
    }
    checks
}

fn client_certificate(read: &Result<Vec<CertificateFacts>, CredentialError>) -> CheckLine {
    match read {
        Ok(facts) => {
            let first = &facts[0];
            let found = format!("subject {}, issued by {}", first.subject, first.issuer);
            CheckLine::ok(names::CLIENT_CERTIFICATE, found)
        }
        Err(error) => failed(names::CLIENT_CERTIFICATE, error, FileRole::Certificate),
    }
}

fn private_key(read: &Result<EcKey, CredentialError>) -> CheckLine {
    match read {
        Ok(key) => CheckLine::ok(names::PRIVATE_KEY, format!("an EC key on {}", key.curve())),
        Err(error) => failed(names::PRIVATE_KEY, error, FileRole::Key),
    }
}

fn key_file_mode(path: &Path) -> CheckLine {
    let note = files::exposure(path);
    let found = "no other user can read the private key".to_owned();
    CheckLine::noted(names::KEY_FILE_MODE, note.as_deref(), found, "mode 0600 or 0400")
}

fn certificate_checks(
    tenant: &str,
    tls: &TlsConfig,
    identity: &ClientIdentity,
    now: OffsetDateTime,
) -> Vec<CheckLine> {
    let facts = &identity.facts;
    let version = (facts.version < 3).then(|| version_note(&tls.cert_file, facts));
    let found = format!("X.509 version {}", facts.version);
    vec![
        certificate_tenant(tenant, facts),
        certificate_validity(facts, now),
        CheckLine::noted(names::CERTIFICATE_VERSION, version.as_deref(), found, "X.509 version 3"),
        CheckLine::noted(
            names::CERTIFICATE_CHAIN,
            identity.chain_note.as_deref(),
            match identity.chain.len() {
                1 => "the certificate alone".to_owned(),
                n => format!("{n} certificates, each followed by its issuer"),
            },
            "the client certificate first, each followed by its issuer",
        ),
    ]
}

fn certificate_tenant(tenant: &str, facts: &CertificateFacts) -> CheckLine {
    let name = names::CERTIFICATE_TENANT;
    let remedy = match facts.fits_tenant(tenant) {
        TenantMatch::Exact => {
            return CheckLine::ok(name, format!("the certificate is the tenant {tenant:?}'s"));
        }
        TenantMatch::CaseDiffers => {
            "write tenant exactly as in the certificate: topics are case-sensitive"
        }
        TenantMatch::Other => "set tenant to your tenantID, or use the certificate of this tenant",
    };
    CheckLine {
        name,
        status: CheckStatus::Failed,
        found: match &facts.common_name {
            Some(common_name) => format!("the certificate's common name is {common_name:?}"),
            None => "the certificate has no common name".to_owned(),
        },
        expected: format!("the tenant {tenant:?}"),
        what_to_do: remedy.to_owned(),
    }
}

fn certificate_validity(facts: &CertificateFacts, now: OffsetDateTime) -> CheckLine {
    let name = names::CERTIFICATE_VALIDITY;
    let Some(note) = validity_note(facts, now) else {
        let days = facts.days_left(now);
        return CheckLine::ok(name, format!("{days} days left, until {}", date(facts.not_after)));
    };
    let usable = !facts.expired(now) && !facts.not_yet_valid(now);
    let status = if usable { CheckStatus::Warning } else { CheckStatus::Failed };
    CheckLine::from_sentence(name, status, &note, format!("valid for more than {RENEW_DAYS} days"))
}

fn trust_anchor(ca_file: Option<&Path>, now: OffsetDateTime) -> CheckLine {
    let name = names::TRUST_ANCHOR;
    let anchors = match TrustAnchors::load(ca_file) {
        Ok(anchors) => anchors,
        Err(error) => return failed(name, &error, FileRole::Anchors),
    };
    let found = match (ca_file, anchors.facts.as_slice()) {
        (None, _) => "the built-in Centiloc CA".to_owned(),
        (Some(_), [only]) => only.subject.clone(),
        (Some(_), many) => format!("{} authorities", many.len()),
    };
    let warnings = anchors.warnings(ca_file, now);
    CheckLine::noted(
        name,
        warnings.first().map(String::as_str),
        found,
        FileRole::Anchors.expected(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::algorithm::EcCurve;
    use crate::credentials::testing::{LeafSpec, TestFiles, TestPki};
    use std::os::unix::fs::PermissionsExt;

    fn setting(leaf: &LeafSpec) -> (TestFiles, TlsConfig) {
        let (pki, files) = (TestPki::new(), TestFiles::new());
        let issued = pki.issue(leaf);
        let tls = TlsConfig::of_files(
            Some(files.write("ca.pem", pki.authority_pem())),
            files.write("tls-cert.pem", &issued.pem),
            files.write("private-key.pem", issued.key.to_sec1_pem().as_str()),
        );
        (files, tls)
    }

    fn troubles(tls: &TlsConfig) -> Vec<(&'static str, CheckStatus)> {
        crate::check::tests::troubles(&checks("acme", tls, OffsetDateTime::now_utc()))
    }

    #[test]
    fn a_good_setting_passes_every_check() {
        let (_files, tls) = setting(&LeafSpec::client("acme"));
        assert_eq!(troubles(&tls), []);
        let checks = checks("acme", &tls, OffsetDateTime::now_utc());
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
    fn each_problem_has_its_own_check() {
        use CheckStatus::{Failed, Warning};
        let cases: [(LeafSpec, &str, CheckStatus); 6] = [
            (LeafSpec::client("other"), "certificate_tenant", Failed),
            (LeafSpec::client("ACME"), "certificate_tenant", Failed),
            (LeafSpec::client("acme").days(-365, -1), "certificate_validity", Failed),
            (LeafSpec::client("acme").days(1, 365), "certificate_validity", Failed),
            (LeafSpec::client("acme").days(-335, 50), "certificate_validity", Warning),
            (LeafSpec::client("acme").version_1(), "certificate_version", Warning),
        ];
        for (leaf, name, status) in cases {
            let (_files, tls) = setting(&leaf);
            assert_eq!(troubles(&tls), [(name, status)]);
        }
    }

    #[test]
    fn problems_of_tls_files_are_reported_together() {
        let (files, mut tls) = setting(&LeafSpec::client("acme"));
        files.write("private-key.pem", EcKey::generate(EcCurve::P256).to_sec1_pem().as_str());
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&tls.key_file, open).unwrap();
        tls.ca_file = Some(tls.cert_file.clone());
        assert_eq!(
            troubles(&tls),
            [
                ("key_file_mode", CheckStatus::Warning),
                ("key_fits_certificate", CheckStatus::Failed),
                ("trust_anchor", CheckStatus::Failed)
            ]
        );
    }

    #[test]
    fn swapped_files_are_one_problem() {
        let (files, mut tls) = setting(&LeafSpec::client("acme"));
        std::mem::swap(&mut tls.cert_file, &mut tls.key_file);
        assert_eq!(troubles(&tls), [("client_certificate", CheckStatus::Failed)]);
        tls.cert_file = files.path("nowhere.pem");
        tls.key_file = files.path("nowhere-else.pem");
        assert_eq!(
            troubles(&tls),
            [("client_certificate", CheckStatus::Failed), ("private_key", CheckStatus::Failed)]
        );
    }
}
