//! Client credentials of the session: TLS files, user name and password. They are loaded and checked
//! before use and kept in memory, so that files that become invalid later cannot end the session.

mod fallback;
pub(in crate::session) mod recording_verifier;
pub mod renewal;
mod source;
pub mod tls;

use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;

pub use self::fallback::{AfterRefusal, CredentialFallback};
pub use self::source::{CredentialSource, CredentialSourceError, SourceFingerprint};
use crate::config::{MqttConfig, TlsConfig};
use crate::credentials::CertificateFacts;

/// One complete set of credentials as loaded. Parts of two sets are never mixed.
#[derive(Debug)]
pub struct ClientCredentials {
    /// Section `mqtt.tls` that names the files.
    section: Option<TlsConfig>,
    /// TLS configuration, `None` without TLS.
    pub tls: Option<tls::LoadedTls>,
    username: Option<String>,
    password: Option<SecretString>,
    fingerprint: SourceFingerprint,
}

/// State of the credentials for the next connection.
#[derive(Debug, Clone)]
pub enum CredentialState {
    /// None have been usable since the start. Holds the cause and its remedy.
    Unusable(String),
    /// The newest valid credentials.
    Ready(Arc<ClientCredentials>),
}

impl ClientCredentials {
    /// Returns the client certificate, if TLS is enabled.
    pub fn certificate(&self) -> Option<&CertificateFacts> {
        self.tls.as_ref().map(|tls| &tls.certificate)
    }

    /// Returns the fingerprint of the settings and files they were loaded from.
    pub fn fingerprint(&self) -> SourceFingerprint {
        self.fingerprint
    }

    /// Writes the credentials into the settings of a connection.
    pub fn apply_to(&self, mqtt: &mut MqttConfig) {
        mqtt.tls.clone_from(&self.section);
        mqtt.username.clone_from(&self.username);
        mqtt.password.clone_from(&self.password);
    }

    /// Returns the file of the private key, for the renewal command shown to the operator.
    pub fn key_file(&self) -> Option<&Path> {
        self.section.as_ref().map(|section| section.key_file.as_path())
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::config::testing;

    #[test]
    fn loaded_credentials_replace_the_configured_ones() {
        let mut mqtt = testing::mqtt();
        mqtt.username = Some("user".into());
        mqtt.password = Some("hunter2".to_owned().into());
        let loaded = CredentialSource::new("acme", &mqtt).load().unwrap();
        let mut other = testing::mqtt();
        loaded.apply_to(&mut other);
        assert_eq!(other.username.as_deref(), Some("user"));
        assert_eq!(other.password.unwrap().expose_secret(), "hunter2");
    }
}
