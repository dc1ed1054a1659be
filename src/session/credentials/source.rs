//! Source of client credentials: the settings that name the files, their loading and their checks.

use std::io;
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

/// Limit of bytes read from a file. Valid files are far smaller.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Settings that name the credentials and their files.
#[derive(Debug, Clone)]
pub struct CredentialSource {
    /// Tenant that the certificate must be issued for.
    pub tenant: String,
    /// Section `mqtt.tls` of the configuration.
    pub tls: Option<TlsConfig>,
    /// User name, `mqtt.username`.
    pub username: Option<String>,
    /// Password as read with the configuration.
    pub password: Option<SecretString>,
    /// File of the password, if it has one, which is read again at each load.
    pub password_file: Option<PathBuf>,
}

/// Reason why credentials cannot be used, with its remedy.
#[derive(Debug, thiserror::Error)]
pub enum CredentialSourceError {
    /// Reading a file timed out.
    #[error(
        "{key} {} cannot be read ({error}); check that its file system is mounted and reachable",
        path.display()
    )]
    ReadTimeout {
        /// Configuration key that names the file.
        key: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the read.
        error: io::Error,
    },
    /// The TLS files are invalid.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The password file is invalid.
    #[error("mqtt.password_file {} {problem}", path.display())]
    Password {
        /// Path of the file.
        path: PathBuf,
        /// Problem and remedy, which follow the path in a sentence.
        problem: String,
    },
    /// The certificate is not valid now.
    #[error("mqtt.tls.cert_file {}: {note}", path.display())]
    OutsideValidity {
        /// Path of the file.
        path: PathBuf,
        /// Period of validity, with the remedy.
        note: String,
    },
    /// The certificate was issued for another tenant.
    #[error("{0}")]
    TenantMismatch(String),
}

/// Digest of settings and file contents. Detects a change however it was made (written in place,
/// renamed, or a symbolic link replaced).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFingerprint([u8; 32]);

impl CredentialSource {
    /// Returns the source named by the configuration.
    pub fn new(tenant: &str, mqtt: &MqttConfig) -> Self {
        Self {
            tenant: tenant.to_owned(),
            tls: mqtt.tls.clone(),
            username: mqtt.username.clone(),
            password: mqtt.password.clone(),
            password_file: mqtt.password_file.clone(),
        }
    }

    /// Computes the fingerprint of the current settings and files. Fails if reading a file times out.
    pub fn fingerprint(&self) -> Result<SourceFingerprint, CredentialSourceError> {
        let mut hasher = Sha256::new();
        let mut add = |part: &[u8]| {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        };
        // Includes the paths, because messages about the files must name the current ones.
        add(format!("{:?} {:?}", self.tls, self.password_file).as_bytes());
        add(self.username.as_deref().unwrap_or_default().as_bytes());
        match &self.password_file {
            Some(file) => add(&read_content("mqtt.password_file", file)?),
            None => add(self.password.as_ref().map_or("", |p| p.expose_secret()).as_bytes()),
        }
        if let Some(tls) = &self.tls {
            add(&read_content("mqtt.tls.cert_file", &tls.cert_file)?);
            add(&read_content("mqtt.tls.key_file", &tls.key_file)?);
            match &tls.ca_file {
                Some(file) => add(&read_content("mqtt.tls.ca_file", file)?),
                None => add(&[]),
            }
        }
        Ok(SourceFingerprint(hasher.finalize().into()))
    }

    /// Loads the credentials. The error names the file and the remedy.
    pub fn load(&self) -> Result<ClientCredentials, CredentialSourceError> {
        let fingerprint = self.fingerprint()?;
        let tls = match &self.tls {
            Some(section) => {
                let mut loaded = tls::client_config(section)?;
                loaded.warnings.extend(self.tenant_mismatch(section, &loaded.certificate));
                Some(loaded)
            }
            None => None,
        };
        let password = match &self.password_file {
            Some(path) => Some(read_secret(path).map_err(|problem| {
                CredentialSourceError::Password { path: path.clone(), problem: problem.to_string() }
            })?),
            None => self.password.clone(),
        };
        let (section, username) = (self.tls.clone(), self.username.clone());
        Ok(ClientCredentials { section, tls, username, password, fingerprint })
    }

    /// Checks that `new` may replace working credentials, beyond the checks of [`Self::load`].
    pub fn check_replacement(
        &self,
        new: &ClientCredentials,
        old: &ClientCredentials,
        now: OffsetDateTime,
    ) -> Result<(), CredentialSourceError> {
        let (Some(section), Some(facts)) = (&self.tls, new.certificate()) else { return Ok(()) };
        if facts.expired(now) || facts.not_yet_valid(now) {
            let note = validity_note(facts, now).unwrap_or_default();
            let path = section.cert_file.clone();
            return Err(CredentialSourceError::OutsideValidity { path, note });
        }
        // The operator's own broker may use other names. Then the old certificate has the same name.
        let same_name = old.certificate().is_some_and(|old| old.common_name == facts.common_name);
        match self.tenant_mismatch(section, facts) {
            Some(problem) if !same_name => Err(CredentialSourceError::TenantMismatch(problem)),
            _ => Ok(()),
        }
    }

    /// Returns the problem of a certificate whose common name is not the tenant.
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

/// Returns the content of a file, or the text of its read error, since that may change too. Fails if
/// reading the file times out.
fn read_content(
    key: &'static str,
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, CredentialSourceError> {
    content_of(files::read(path, MAX_FILE_BYTES))
        .map_err(|error| CredentialSourceError::ReadTimeout { key, path: path.to_owned(), error })
}

/// Replaces the error of a read by its text, unless the read timed out.
fn content_of(read: io::Result<Zeroizing<Vec<u8>>>) -> io::Result<Zeroizing<Vec<u8>>> {
    match read {
        Err(error) if files::is_no_answer(&error) => Err(error),
        read => Ok(read.unwrap_or_else(|error| error.to_string().into_bytes().into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_that_time_out_fail() {
        assert_eq!(*content_of(Ok(b"content".to_vec().into())).unwrap(), b"content");
        let absent = content_of(Err(io::Error::new(io::ErrorKind::NotFound, "absent")));
        assert_eq!(*absent.unwrap(), b"absent");
        let late = content_of(Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
