//! Tests of TLS failures with both versions, against servers by rustls and OpenSSL.

use std::net::Shutdown;

use rustls::CertificateError;

use super::*;
use crate::credentials::testing::{LeafSpec, TestPki};
use crate::session::credentials::tls::testing::{
    OpenSslServer, TLS12, TLS13, TlsSetting, serve_tls,
};

#[tokio::test]
async fn each_refusal_of_the_client_certificate_is_explained() {
    use rustls::CertificateError as E;
    let cases = [
        (E::BadEncoding, "bad_certificate", "exactly as Centiloc sent it"),
        (E::Expired, "certificate_expired", "renew it"),
        (E::Revoked, "certificate_revoked", "support for a new one"),
        (E::UnknownIssuer, "unknown_ca", "not issued by an authority this broker trusts"),
        (E::BadSignature, "decrypt_error", "private key is not its own"),
        (E::InvalidPurpose, "unsupported_certificate", "kind or purpose"),
        (E::ApplicationVerificationFailure, "access_denied", "subscription is active"),
        (E::InvalidOcspResponse, "bad_certificate_status_response", "revocation status"),
        (
            E::Other(rustls::OtherError(std::sync::Arc::new(std::io::Error::other("policy")))),
            "certificate_unknown",
            "does not state the reason",
        ),
    ];
    let setting = TlsSetting::new();
    for (verdict, alert, remedy) in cases {
        for version in [TLS12, TLS13] {
            let port =
                serve_tls(&setting.server, version, Some(verdict.clone()), &CONNACK_ACCEPTED);
            let failure = fail(&mqtt("localhost", port, Some(setting.tls.clone()))).await;
            let alert = format!("refused the client certificate (TLS alert {alert})");
            expect(&failure, FailureKind::TlsClientCertificate, &[&alert, remedy]);
        }
    }
}

#[tokio::test]
async fn missing_and_foreign_client_certificates_are_explained() {
    let setting = TlsSetting::new();
    for (version, alert) in [("-tls1_2", "handshake_failure"), ("-tls1_3", "certificate_required")]
    {
        let server = OpenSslServer::start(&setting, &[version]);
        let broker = mqtt("localhost", server.port, Some(setting.tls.clone()));
        let failure = fail_with(&broker, Some(anonymous(&setting))).await;
        expect(&failure, FailureKind::TlsClientCertificate, &[alert, "mqtt.tls.cert_file"]);

        let mut stranger = setting.tls.clone();
        let issued = TestPki::new().intermediate("Stranger").issue(&LeafSpec::client("acme"));
        stranger.cert_file = setting.files.write("stranger.pem", &issued.pem);
        stranger.key_file = setting.files.write("its-key.pem", issued.key.to_sec1_pem().as_str());
        let server = OpenSslServer::start(&setting, &[version]);
        let failure = fail(&mqtt("localhost", server.port, Some(stranger))).await;
        expect(&failure, FailureKind::TlsClientCertificate, &["unknown_ca"]);
    }
}

/// Returns a configuration that presents no client certificate, which the bridge itself never builds.
fn anonymous(setting: &TlsSetting) -> LoadedTls {
    let loaded = client_config(&setting.tls).unwrap();
    let mut config = (*loaded.config).clone();
    config.client_auth_cert_resolver = std::sync::Arc::new(NoCertificate);
    LoadedTls { config: std::sync::Arc::new(config), ..loaded }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn fault_of_client_certificate_precedes_the_alert() {
    let expired =
        TlsSetting::with(&LeafSpec::server("localhost"), &LeafSpec::client("acme").days(-400, -35));
    for version in ["-tls1_2", "-tls1_3"] {
        let server = OpenSslServer::start(&expired, &[version]);
        let failure = fail(&mqtt("localhost", server.port, Some(expired.tls.clone()))).await;
        expect(
            &failure,
            FailureKind::TlsClientCertificate,
            &["certificate_expired", "the certificate expired on 20", "csr --key"],
        );
    }
    // The server accepts the certificate and then closes without an alert.
    let port = serve_tls(&expired.server, TLS13, None, b"");
    let failure = fail(&mqtt("localhost", port, Some(expired.tls.clone()))).await;
    let words = ["before answering CONNECT: the certificate expired on 20"];
    expect(&failure, FailureKind::TlsClientCertificate, &words);
    let other = TlsSetting::with(&LeafSpec::server("localhost"), &LeafSpec::client("other"));
    let verdict = CertificateError::ApplicationVerificationFailure;
    let port = serve_tls(&other.server, TLS13, Some(verdict), &CONNACK_ACCEPTED);
    let failure = fail(&mqtt("localhost", port, Some(other.tls.clone()))).await;
    expect(
        &failure,
        FailureKind::TlsClientCertificate,
        &["common name is \"other\"", "tenant is \"acme\""],
    );
}

#[tokio::test]
async fn untrusted_server_certificate_is_explained() {
    for version in [TLS12, TLS13] {
        let setting = TlsSetting::new();
        let mut tls = setting.tls.clone();
        tls.ca_file = None;
        let port = serve_tls(&setting.server, version, None, &CONNACK_ACCEPTED);
        let failure = fail(&mqtt("localhost", port, Some(tls))).await;
        expect(&failure, FailureKind::TlsTrust, &["built-in Centiloc CA", "mqtt.tls.ca_file"]);

        let failure = fail(&mqtt("127.0.0.1", port, Some(setting.tls.clone()))).await;
        expect(&failure, FailureKind::TlsName, &["\"127.0.0.1\" but for localhost;"]);

        for (from, to, word) in [(-400, -35, "expired on 20"), (35, 400, "becomes valid on 20")] {
            let leaf = LeafSpec::server("localhost").days(from, to);
            let setting = TlsSetting::with(&leaf, &LeafSpec::client("acme"));
            let port = serve_tls(&setting.server, version, None, &CONNACK_ACCEPTED);
            let failure = fail(&mqtt("localhost", port, Some(setting.tls.clone()))).await;
            expect(&failure, FailureKind::TlsExpiredServer, &[word, "this machine's clock"]);
        }
    }
}

#[tokio::test]
async fn ca_certificate_of_a_server_is_explained() {
    let setting = TlsSetting::new();
    let port = serve_tls(&setting.pki.as_issued(), TLS13, None, &CONNACK_ACCEPTED);
    let failure = fail(&mqtt("localhost", port, Some(setting.tls.clone()))).await;
    expect(&failure, FailureKind::TlsTrust, &["CA certificate used as a server's"]);
}

#[tokio::test]
async fn port_without_tls_and_hangup_are_distinguished() {
    let setting = TlsSetting::new();
    let port = answering(b"\x20\x02\x00\x05 not TLS at all");
    let failure = fail(&mqtt("localhost", port, Some(setting.tls.clone()))).await;
    expect(&failure, FailureKind::TlsProtocol, &["does not speak TLS", "mqtt.port"]);
    let port = serve(|mut stream| {
        read_some(&mut stream);
        let _ = stream.shutdown(Shutdown::Both);
    });
    let failure = fail(&mqtt("localhost", port, Some(setting.tls.clone()))).await;
    expect(&failure, FailureKind::ClosedByBroker, &["TLS handshake"]);
}

#[tokio::test]
async fn accepted_certificate_leads_to_connack() {
    let setting = TlsSetting::new();
    for version in [TLS12, TLS13] {
        let port = serve_tls(&setting.server, version, None, &[0x20, 2, 0, 5]);
        let failure = fail(&mqtt("localhost", port, Some(setting.tls.clone()))).await;
        expect(&failure, FailureKind::NotAuthorized, &[]);
    }
}
