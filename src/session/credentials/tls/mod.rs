//! TLS configuration of the broker connection: trust anchors and client certificate.
//!
//! The files are read when they change, not for each connection, so that a valid configuration
//! stays in use when they become invalid ([`super::renewal`]).

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use time::OffsetDateTime;

use super::recording_verifier::{HandshakeRecorder, RecordingVerifier};
use crate::config::TlsConfig;
use crate::credentials::anchors::TrustAnchors;
use crate::credentials::error::{ConfiguredFile, FileRole};
use crate::credentials::{CertificateFacts, ClientIdentity, CredentialError};

/// Reason why no TLS configuration could be built. It needs operator action.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A key or certificate file is invalid or unreadable.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// `mqtt.tls.server_name` is not a valid name.
    #[error(
        "mqtt.tls.server_name {0:?} is neither a host name nor an address; set it to the name \
         that stands in the broker's certificate, or leave it out"
    )]
    ServerName(String),
    /// The TLS library rejected files that passed the bridge's own checks.
    #[error("could not configure TLS: {0}")]
    Library(#[from] rustls::Error),
    /// The TLS library rejected the trust anchors.
    #[error("could not configure the trust anchors: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// A TLS configuration with facts for the operator.
#[derive(Debug)]
pub struct LoadedTls {
    /// Configuration for a TLS connector.
    pub config: Arc<ClientConfig>,
    /// Facts of the client certificate.
    pub certificate: CertificateFacts,
    /// Problems that need attention but do not prevent a connection, each with its remedy.
    pub warnings: Vec<String>,
    /// Facts of the trusted certificate authorities.
    pub(in crate::session) anchors: Vec<CertificateFacts>,
    /// Recorder of the handshakes made with `config`.
    pub(in crate::session) recorder: HandshakeRecorder,
}

/// Reads the configured files and builds the TLS configuration: version 1.2 or 1.3, the given trust
/// anchors (the built-in Centiloc CA without `ca_file`), and the client certificate.
///
/// The name in the broker's certificate is checked against the host that is connected to, or
/// against `server_name` if that is set (SNI still names the host).
pub fn client_config(tls: &TlsConfig) -> Result<LoadedTls, TlsError> {
    let now = OffsetDateTime::now_utc();
    let identity = ClientIdentity::load(&tls.cert_file, &tls.key_file)?;
    let anchors = TrustAnchors::load(tls.ca_file.as_deref())?;
    let mut warnings = identity.warnings(&tls.cert_file, now);
    warnings.extend(anchors.warnings(tls.ca_file.as_deref(), now));

    let provider = Arc::new(ring::default_provider());
    let recorder = HandshakeRecorder::default();
    let verifier = verifier(tls, &anchors, Arc::clone(&provider))?;
    let verifier = RecordingVerifier::around(verifier, recorder.clone());
    let resolver = SingleCertAndKey::from(certified_key(&identity)?);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(resolver));
    let (config, certificate) = (Arc::new(config), identity.facts);
    Ok(LoadedTls { config, certificate, warnings, anchors: anchors.facts, recorder })
}

/// Returns certificate and key without rustls' own parser, which rejects X.509 version 1.
/// [`ClientIdentity`] has already checked that the key matches.
fn certified_key(identity: &ClientIdentity) -> Result<CertifiedKey, rustls::Error> {
    let der = identity.key.to_pkcs8_der();
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der.as_slice()));
    Ok(CertifiedKey::new(identity.chain.clone(), ring::sign::any_ecdsa_type(&der)?))
}

fn verifier(
    tls: &TlsConfig,
    anchors: &TrustAnchors,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let roots = Arc::new(root_store(tls, anchors)?);
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider).build()?;
    match &tls.server_name {
        None => Ok(inner),
        Some(name) => {
            let expected = ServerName::try_from(name.clone())
                .map_err(|_| TlsError::ServerName(name.clone()))?;
            Ok(Arc::new(NamedVerifier { inner, expected }))
        }
    }
}

fn root_store(tls: &TlsConfig, anchors: &TrustAnchors) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (place, certificate) in anchors.certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| CredentialError::UnusableAnchor {
            file: ConfiguredFile::new(
                FileRole::Anchors,
                tls.ca_file.as_deref().unwrap_or("".as_ref()),
            ),
            place: place + 1,
            detail: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// Verifier that checks the certificate for the configured name instead of the host, for a broker
/// that is reached by an address or an internal name.
#[derive(Debug)]
struct NamedVerifier {
    inner: Arc<WebPkiServerVerifier>,
    expected: ServerName<'static>,
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _connected_to: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let expected = &self.expected;
        self.inner.verify_server_cert(end_entity, intermediates, expected, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
