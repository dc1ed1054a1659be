//! A certificate verifier that records the certificates presented by the broker and the TLS version.
//! The TLS library exposes neither.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use crate::credentials::CertificateFacts;

/// Facts recorded from one handshake so far.
#[derive(Debug, Clone, Default)]
pub(in crate::session) struct HandshakeInfo {
    /// Certificates that the broker presented, accepted or not, with its own first.
    pub chain: Vec<CertificateFacts>,
    /// TLS version, once the broker has proven ownership of its certificate.
    pub version: Option<&'static str>,
}

/// Shared record of the most recent handshake.
#[derive(Debug, Clone, Default)]
pub(in crate::session) struct HandshakeRecorder(Arc<Mutex<HandshakeInfo>>);

impl HandshakeRecorder {
    /// Clears the record before a new handshake.
    pub fn reset(&self) {
        self.note(|handshake| *handshake = HandshakeInfo::default());
    }

    /// Returns the facts recorded since the last reset.
    pub fn handshake(&self) -> HandshakeInfo {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut HandshakeInfo)) {
        // A panic cannot leave a partial record, because each update is one assignment.
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Verifier that records its arguments and delegates the decision to an inner one.
#[derive(Debug)]
pub(in crate::session) struct RecordingVerifier {
    inner: Arc<dyn ServerCertVerifier>,
    recorder: HandshakeRecorder,
}

impl RecordingVerifier {
    /// Wraps `inner` and records its arguments with `recorder`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_handshake_begins_unknown() {
        let recorder = HandshakeRecorder::default();
        recorder.note(|handshake| handshake.version = Some("TLS 1.3"));
        recorder.reset();
        assert_eq!(recorder.handshake().version, None);
    }
}
