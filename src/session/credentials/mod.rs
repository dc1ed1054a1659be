//! What a connection proves itself with. It is loaded and looked at before it is used, and kept in
//! memory: files that go bad later cannot take the session down.

mod fallback;
pub(in crate::session) mod recording_verifier;
pub mod renewal;
mod source;
pub mod tls;

use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;

pub use self::fallback::{AfterRefusal, CredentialFallback};
pub use self::source::{CredentialSource, SourceFingerprint};
use crate::config::{MqttConfig, TlsConfig};
use crate::credentials::CertificateFacts;

/// Credentials as loaded, whole: never a part of one set with a part of another.
#[derive(Debug)]
pub struct ClientCredentials {
    /// The section the TLS files were named in.
    section: Option<TlsConfig>,
    /// Ready for a connection; `None` without TLS.
    pub tls: Option<tls::LoadedTls>,
    username: Option<String>,
    password: Option<SecretString>,
    fingerprint: SourceFingerprint,
}

/// The credentials for the next connection.
#[derive(Debug, Clone)]
pub enum CredentialState {
    /// There were no usable ones since the start; why, with the cure.
    Unusable(String),
    /// The last good ones.
    Ready(Arc<ClientCredentials>),
}

impl ClientCredentials {
    /// The client certificate.
    pub fn certificate(&self) -> Option<&CertificateFacts> {
        self.tls.as_ref().map(|tls| &tls.certificate)
    }

    /// What they were made from.
    pub fn fingerprint(&self) -> SourceFingerprint {
        self.fingerprint
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
