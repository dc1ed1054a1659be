//! Keys, certificates and certificate signing requests: reading their files, describing their
//! contents, and explaining errors in them.
//!
//! Nothing here opens a connection. [`crate::session::credentials::tls`] builds the TLS configuration
//! from these parts.

pub mod algorithm;
pub mod anchors;
pub mod csr;
pub mod error;
pub mod expiry;
pub mod files;
pub mod identity;
pub mod inspect;
pub mod key;
pub mod pem;
#[cfg(test)]
pub(crate) mod testing;

pub use algorithm::EcCurve;
pub use error::CredentialError;
pub use identity::ClientIdentity;
pub use inspect::CertificateFacts;
pub use key::EcKey;
