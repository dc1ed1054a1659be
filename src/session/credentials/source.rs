//! What a connection proves itself with. It is loaded and looked at before it is used, and kept in
//! memory: files that go bad later cannot take the session down.

use std::path::{Path, PathBuf};

use p256::elliptic_curve::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{ClientCredentials, tls};
use crate::config::{MqttConfig, TlsConfig, read_secret};
use crate::credentials::CertificateFacts;
use crate::credentials::identity::validity_note;
use crate::credentials::inspect::TenantMatch;
use crate::files;

/// More than any file read here holds; what is behind it cannot matter.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Where credentials come from: settings and the files they name.
#[derive(Debug, Clone)]
pub struct CredentialSource {
    /// Whose certificate it must be.
    pub tenant: String,
    /// Section `mqtt.tls`.
    pub tls: Option<TlsConfig>,
    /// `mqtt.username`.
    pub username: Option<String>,
    /// The password as read with the configuration.
    pub password: Option<SecretString>,
    /// The file it came from, if one: read again.
    pub password_file: Option<PathBuf>,
}

/// Settings and contents of files, digested: tells whether anything changed, however it was done
/// (written in place, renamed, a symbolic link put elsewhere).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFingerprint([u8; 32]);

impl CredentialSource {
    /// As configured.
    pub fn new(tenant: &str, mqtt: &MqttConfig) -> Self {
        Self {
            tenant: tenant.to_owned(),
            tls: mqtt.tls.clone(),
            username: mqtt.username.clone(),
            password: mqtt.password.clone(),
            password_file: mqtt.password_file.clone(),
        }
    }

    /// What settings and files hold now. Fails if a file does not answer, and names it.
    pub fn fingerprint(&self) -> Result<SourceFingerprint, String> {
        let mut hasher = Sha256::new();
        let mut add = |part: &[u8]| {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        };
        // Paths too: what is said about the files must name the right ones.
        add(format!("{:?} {:?}", self.tls, self.password_file).as_bytes());
        add(self.username.as_deref().unwrap_or_default().as_bytes());
        match &self.password_file {
            Some(file) => add(&content("mqtt.password_file", file)?),
            None => add(self.password.as_ref().map_or("", |p| p.expose_secret()).as_bytes()),
        }
        if let Some(tls) = &self.tls {
            add(&content("mqtt.tls.cert_file", &tls.cert_file)?);
            add(&content("mqtt.tls.key_file", &tls.key_file)?);
            match &tls.ca_file {
                Some(file) => add(&content("mqtt.tls.ca_file", file)?),
                None => add(&[]),
            }
        }
        Ok(SourceFingerprint(hasher.finalize().into()))
    }

    /// Reads everything; the complaint names the file and the cure.
    pub fn load(&self) -> Result<ClientCredentials, String> {
        let fingerprint = self.fingerprint()?;
        let tls = match &self.tls {
            Some(section) => {
                let mut loaded = tls::client_config(section).map_err(|e| e.to_string())?;
                loaded.warnings.extend(self.tenant_mismatch(section, &loaded.certificate));
                Some(loaded)
            }
            None => None,
        };
        let password =
            match &self.password_file {
                Some(file) => Some(read_secret(file).map_err(|problem| {
                    format!("mqtt.password_file {} {problem}", file.display())
                })?),
                None => self.password.clone(),
            };
        let (section, username) = (self.tls.clone(), self.username.clone());
        Ok(ClientCredentials { section, tls, username, password, fingerprint })
    }

    /// Whether `new` may take the place of credentials that work: what `load` cannot tell.
    pub fn judge(
        &self,
        new: &ClientCredentials,
        old: &ClientCredentials,
        now: OffsetDateTime,
    ) -> Result<(), String> {
        let (Some(section), Some(facts)) = (&self.tls, new.certificate()) else { return Ok(()) };
        let file = section.cert_file.display();
        if facts.expired(now) || facts.not_yet_valid(now) {
            let note = validity_note(facts, now).unwrap_or_default();
            return Err(format!("mqtt.tls.cert_file {file}: {note}"));
        }
        // A broker of one's own may use other names; then the old certificate had it too.
        let same_name = old.certificate().is_some_and(|old| old.common_name == facts.common_name);
        match self.tenant_mismatch(section, facts) {
            Some(problem) if !same_name => Err(problem),
            _ => Ok(()),
        }
    }

    /// Explains a certificate whose common name is not the tenant.
    fn tenant_mismatch(&self, section: &TlsConfig, facts: &CertificateFacts) -> Option<String> {
        if facts.fits_tenant(&self.tenant) == TenantMatch::Exact {
            return None;
        }
        Some(format!(
            "mqtt.tls.cert_file {}: its common name is {:?}, not the tenant {:?}; use the \
             certificate that Centiloc issued for this tenant",
            section.cert_file.display(),
            facts.common_name.as_deref().unwrap_or_default(),
            self.tenant
        ))
    }
}

/// A file's content, or what keeps it from being read: that may change too. Fails if the file does not
/// answer.
fn content(key: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    match files::read(path, MAX_FILE_BYTES) {
        Err(error) if files::is_no_answer(&error) => Err(format!(
            "{key} {} cannot be read ({error}); see whether the file system that holds it is there",
            path.display()
        )),
        read => Ok(read.unwrap_or_else(|error| error.to_string().into_bytes().into())),
    }
}
