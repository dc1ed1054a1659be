//! Errors of key and certificate files. Every message names the key of the configuration and the file,
//! describes the content found, and ends with a hint.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The key or option that names a file. It determines the required content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRole {
    /// The file named by `mqtt.tls.ca_file`.
    Anchors,
    /// The file named by `mqtt.tls.cert_file`.
    Certificate,
    /// The file named by `mqtt.tls.key_file`.
    Key,
    /// The file named by `--key` of the command `csr`.
    KeyOption,
    /// The file named by `sslrootcert` of `database.url`.
    DatabaseRoot,
    /// The file named by `sslcert` of `database.url`.
    DatabaseCertificate,
    /// The file named by `sslkey` of `database.url`.
    DatabaseKey,
}

impl FileRole {
    fn setting(self) -> &'static str {
        match self {
            Self::Anchors => "mqtt.tls.ca_file",
            Self::Certificate => "mqtt.tls.cert_file",
            Self::Key => "mqtt.tls.key_file",
            Self::KeyOption => "--key",
            Self::DatabaseRoot => "sslrootcert of database.url",
            Self::DatabaseCertificate => "sslcert of database.url",
            Self::DatabaseKey => "sslkey of database.url",
        }
    }

    /// Returns a description of the required content, to follow "expected".
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Anchors => {
                "the PEM certificate of the authority that signed the broker's certificate"
            }
            Self::Certificate => {
                "the PEM client certificate that Centiloc sent back (tls-cert.pem)"
            }
            Self::Key | Self::KeyOption => {
                "the PEM private key made with the signing request (private-key.pem)"
            }
            Self::DatabaseRoot => {
                "the PEM certificate of the authority that signed the database's certificate"
            }
            Self::DatabaseCertificate => "a PEM client certificate for the database",
            Self::DatabaseKey => "the PEM private key of the client certificate for the database",
        }
    }
}

/// A file and the key that names it. Every message begins with the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredFile {
    /// The key or option that names the file.
    pub role: FileRole,
    /// The path as configured.
    pub path: PathBuf,
}

impl ConfiguredFile {
    /// Joins the file `path` with its role.
    pub fn new(role: FileRole, path: &Path) -> Self {
        Self { role, path: path.to_owned() }
    }
}

impl fmt::Display for ConfiguredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role.setting(), self.path.display())
    }
}

/// The reason why a key or certificate file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "the messages describe the variants, and the fields are the parts they name"
)]
pub enum CredentialError {
    #[error("could not read {file}: {source}; {hint}")]
    Unreadable { file: ConfiguredFile, source: io::Error, hint: &'static str },
    #[error("{file} is empty; expected {}", file.role.expected())]
    Empty { file: ConfiguredFile },
    #[error(
        "{file} is larger than {limit} bytes, so it is no key or certificate; expected {}",
        file.role.expected()
    )]
    TooLarge { file: ConfiguredFile, limit: u64 },
    #[error("{file} is damaged UTF-16 text; save it as UTF-8 or ASCII")]
    Utf16 { file: ConfiguredFile },
    #[error("{file} is binary ({found}), not PEM; convert it: {hint}")]
    Binary { file: ConfiguredFile, found: &'static str, hint: String },
    #[error("{file} holds no PEM section (-----BEGIN …-----); expected {}", file.role.expected())]
    NoPem { file: ConfiguredFile },
    #[error("{file} holds {found}; expected {}", file.role.expected())]
    WrongContent { file: ConfiguredFile, found: String },
    #[error(
        "{file} holds the signing request, not the certificate; set it to the certificate that \
         Centiloc sent back for it (tls-cert.pem)"
    )]
    RequestForCertificate { file: ConfiguredFile },
    #[error(
        "{file} holds a private key, not a certificate; set it to the certificate that Centiloc \
         sent back (tls-cert.pem), and mqtt.tls.key_file to the key"
    )]
    KeyForCertificate { file: ConfiguredFile },
    #[error(
        "{file} holds a certificate, not a private key; set it to the key made with the signing \
         request (private-key.pem)"
    )]
    CertificateForKey { file: ConfiguredFile },
    #[error(
        "mqtt.tls.cert_file and mqtt.tls.key_file are swapped: {certificate} is a private key \
         and {key} a certificate; exchange the two settings",
        certificate = certificate.path.display(), key = key.path.display()
    )]
    Swapped { certificate: ConfiguredFile, key: ConfiguredFile },
    #[error(
        "{file} holds a private key protected by a passphrase, which cannot be entered when the \
         service starts; write it without one: openssl pkey -in {path} -out plain-key.pem, then \
         chmod 600 plain-key.pem",
        path = file.path.display()
    )]
    EncryptedKey { file: ConfiguredFile },
    #[error("{file} holds {found} private keys and it is not clear which one to use; keep one")]
    SeveralKeys { file: ConfiguredFile, found: usize },
    #[error("{file} is damaged: {detail}; copy it again in full, from -----BEGIN to -----END")]
    Damaged { file: ConfiguredFile, detail: String },
    #[error(
        "{file} is {found}: {reason}; make a new key and a signing request for it with \
         centiloc-bridge csr"
    )]
    RefusedKey { file: ConfiguredFile, found: String, reason: &'static str },
    #[error(
        "{file}: the private key {key} does not belong to it (its subject is {subject}, its \
         public key {found}); use the key made with the request for this certificate",
        key = key.path.display()
    )]
    KeyMismatch { file: ConfiguredFile, key: ConfiguredFile, subject: String, found: String },
    #[error(
        "{file} holds a server's own certificate (subject {subject}), which cannot be a trust \
         anchor; set it to the certificate of the authority that signed it (issuer {issuer}), or \
         omit mqtt.tls.ca_file for the built-in Centiloc CA"
    )]
    AnchorIsServer { file: ConfiguredFile, subject: String, issuer: String },
    #[error(
        "{file}: the authority {subject} has {found}, whose signatures cannot be verified; ask the \
         broker's operator for an authority with a key on P-256 or P-384, RSA or Ed25519"
    )]
    UnverifiableAnchor { file: ConfiguredFile, subject: String, found: String },
    #[error("{file}: certificate {place} cannot be a trust anchor: {detail}; remove or replace it")]
    UnusableAnchor { file: ConfiguredFile, place: usize, detail: String },
}
