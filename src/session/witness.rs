//! Remembers what a TLS handshake showed: which certificate the broker presented, and which version
//! was agreed on. rumqttc keeps both to itself.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use crate::credentials::CertificateFacts;

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// What the broker presented, accepted or not.
    pub certificate: Option<CertificateFacts>,
    /// The version, once the broker has proven that the certificate is its own.
    pub version: Option<&'static str>,
}

/// A verifier that judges as the one inside it does.
#[derive(Debug)]
pub(super) struct Witness {
    inner: Arc<dyn ServerCertVerifier>,
    seen: Arc<Mutex<Seen>>,
}

impl Witness {
    /// Puts a witness around `inner`; what it sees can be read from `seen`.
    pub fn around(inner: Arc<dyn ServerCertVerifier>, seen: Arc<Mutex<Seen>>) -> Arc<Self> {
        Arc::new(Self { inner, seen })
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        // What a panic left behind is whole: each note is one assignment.
        note(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.note(|seen| seen.certificate = CertificateFacts::from_der(end_entity).ok());
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = self.inner.verify_tls12_signature(message, certificate, signature)?;
        self.note(|seen| seen.version = Some("TLS 1.2"));
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = self.inner.verify_tls13_signature(message, certificate, signature)?;
        self.note(|seen| seen.version = Some("TLS 1.3"));
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
