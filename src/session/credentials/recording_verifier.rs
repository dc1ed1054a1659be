//! Records what a TLS handshake showed: which certificates the broker presented, and which version was
//! agreed on. The TLS library keeps both to itself.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use crate::credentials::CertificateFacts;

/// What one handshake has shown so far.
#[derive(Debug, Clone, Default)]
pub(in crate::session) struct HandshakeInfo {
    /// What the broker presented, accepted or not: its own certificate first.
    pub chain: Vec<CertificateFacts>,
    /// The version, once the broker has proven that the certificate is its own.
    pub version: Option<&'static str>,
}

/// The handshake of the newest connection.
#[derive(Debug, Clone, Default)]
pub(in crate::session) struct HandshakeRecorder(Arc<Mutex<HandshakeInfo>>);

impl HandshakeRecorder {
    /// Forgets the last handshake.
    pub fn reset(&self) {
        self.note(|handshake| *handshake = HandshakeInfo::default());
    }

    /// Returns what has been recorded since.
    pub fn handshake(&self) -> HandshakeInfo {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut HandshakeInfo)) {
        // What a panic left behind is whole: each note is one assignment.
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A verifier that judges as the one inside it does.
#[derive(Debug)]
pub(in crate::session) struct RecordingVerifier {
    inner: Arc<dyn ServerCertVerifier>,
    recorder: HandshakeRecorder,
}

impl RecordingVerifier {
    /// Records with `recorder` what `inner` is asked to verify.
    pub fn around(inner: Arc<dyn ServerCertVerifier>, recorder: HandshakeRecorder) -> Arc<Self> {
        Arc::new(Self { inner, recorder })
    }
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map_while(|der| CertificateFacts::from_der(der).ok()).collect();
        self.recorder.note(|handshake| handshake.chain = chain);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = self.inner.verify_tls12_signature(message, certificate, signature)?;
        self.recorder.note(|handshake| handshake.version = Some("TLS 1.2"));
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = self.inner.verify_tls13_signature(message, certificate, signature)?;
        self.recorder.note(|handshake| handshake.version = Some("TLS 1.3"));
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
