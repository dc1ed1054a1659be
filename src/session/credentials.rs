//! What a connection proves itself with. It is loaded and looked at before it is used, and kept in
//! memory: files that go bad later cannot take the session down.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use p256::elliptic_curve::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::tls;
use crate::config::{MqttConfig, TlsConfig, read_secret};
use crate::credentials::CertificateFacts;
use crate::credentials::identity::validity_note;
use crate::credentials::inspect::TenantMatch;
use crate::files;

/// More than any file read here holds; what is behind it cannot matter.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Where credentials come from: settings and the files they name.
#[derive(Debug, Clone)]
pub struct Sources {
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

/// Credentials as loaded, whole: never a part of one set with a part of another.
#[derive(Debug)]
pub struct Credentials {
    /// The section the TLS files were named in.
    section: Option<TlsConfig>,
    /// Ready for a connection; `None` without TLS.
    pub tls: Option<tls::Loaded>,
    username: Option<String>,
    password: Option<SecretString>,
    made_from: Fingerprint,
}

/// The credentials for the next connection.
#[derive(Debug, Clone)]
pub enum Material {
    /// There were no usable ones since the start; why, with the cure.
    Unusable(String),
    /// The last good ones.
    Ready(Arc<Credentials>),
}

/// Settings and contents of files, digested: tells whether anything changed, however it was done
/// (written in place, renamed, a symbolic link put elsewhere).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Sources {
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
    pub fn fingerprint(&self) -> Result<Fingerprint, String> {
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
        Ok(Fingerprint(hasher.finalize().into()))
    }

    /// Reads everything; the complaint names the file and the cure.
    pub fn load(&self) -> Result<Credentials, String> {
        let made_from = self.fingerprint()?;
        let tls = match &self.tls {
            Some(section) => {
                let mut loaded = tls::client_config(section).map_err(|e| e.to_string())?;
                loaded.warnings.extend(self.foreign_certificate(section, &loaded.certificate));
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
        Ok(Credentials { section, tls, username, password, made_from })
    }

    /// Whether `new` may take the place of credentials that work: what `load` cannot tell.
    pub fn judge(
        &self,
        new: &Credentials,
        old: &Credentials,
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
        match self.foreign_certificate(section, facts) {
            Some(problem) if !same_name => Err(problem),
            _ => Ok(()),
        }
    }

    /// Explains a certificate whose common name is not the tenant.
    fn foreign_certificate(&self, section: &TlsConfig, facts: &CertificateFacts) -> Option<String> {
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

impl Credentials {
    /// The client certificate.
    pub fn certificate(&self) -> Option<&CertificateFacts> {
        self.tls.as_ref().map(|tls| &tls.certificate)
    }

    /// What they were made from.
    pub fn made_from(&self) -> Fingerprint {
        self.made_from
    }

    /// Puts them into the settings that a connection is made from.
    pub fn apply_to(&self, mqtt: &mut MqttConfig) {
        mqtt.tls.clone_from(&self.section);
        mqtt.username.clone_from(&self.username);
        mqtt.password.clone_from(&self.password);
    }

    /// The file of the private key, for the command that renews.
    pub fn key_file(&self) -> Option<&Path> {
        self.section.as_ref().map(|section| section.key_file.as_path())
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
