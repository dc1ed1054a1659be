//! Keys, certificates and certificate signing requests: reading them from files, telling what
//! they hold, and saying in words what is wrong with them.
//!
//! Nothing here opens a connection: the TLS configuration made from these parts is
//! [`crate::session::credentials::tls`].

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
pub mod preflight;
#[cfg(test)]
pub(crate) mod testing;

pub use error::CredentialError;
pub use identity::Identity;
pub use inspect::CertificateFacts;
pub use key::{Curve, EcKey};
