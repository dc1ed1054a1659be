//! Tests of misconfigured broker certificates and ciphers, each with its own explanation.

use super::*;
use crate::credentials::testing::{LeafSpec, TestPki, openssl};
use crate::session::credentials::tls::testing::{
    OpenSslServer, TLS12, TLS13, TlsSetting, serve_tls,
};

async fn fail_at(port: u16, setting: &TlsSetting) -> ConnectionFailure {
    fail(&mqtt("localhost", port, Some(setting.tls.clone()))).await
}

#[tokio::test]
async fn certificate_without_subject_alt_name_is_explained() {
    let setting =
        TlsSetting::with(&LeafSpec::server("localhost").nameless(), &LeafSpec::client("acme"));
    for version in [TLS12, TLS13] {
        let port = serve_tls(&setting.server, version, None, &CONNACK_ACCEPTED);
        let failure = fail_at(port, &setting).await;
        let words = ["no subjectAltName (the common name \"localhost\" does not count)"];
        expect(&failure, FailureKind::TlsName, &words);
    }
}

#[tokio::test]
async fn missing_intermediate_is_explained() {
    let setting = TlsSetting::new();
    let issued = setting.pki.intermediate("Site Issuer").issue(&LeafSpec::server("localhost"));
    let port = serve_tls(&issued, TLS13, None, &CONNACK_ACCEPTED);
    let words = ["issued by CN = Site Issuer", "sent no intermediate", "full chain", "ca.pem"];
    expect(&fail_at(port, &setting).await, FailureKind::TlsTrust, &words);
}

#[tokio::test]
async fn authority_with_a_new_key_is_explained() {
    let setting = TlsSetting::new();
    let renewed = TestPki::new().issue(&LeafSpec::server("localhost"));
    let port = serve_tls(&renewed, TLS13, None, &CONNACK_ACCEPTED);
    let words = ["same name (CN = Test Root)", "authority's new certificate"];
    expect(&fail_at(port, &setting).await, FailureKind::TlsTrust, &words);
}

#[tokio::test]
async fn broker_without_common_cipher_is_explained() {
    let setting = TlsSetting::new();
    // The server offers only outdated CBC and SHA-1.
    let server = OpenSslServer::start(&setting, &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"]);
    let failure = fail_at(server.port, &setting).await;
    expect(&failure, FailureKind::TlsCipher, &["handshake_failure", "no cipher, key exchange"]);
}

/// Returns the path of a file of the setting.
fn path(setting: &TlsSetting, name: &str) -> String {
    setting.files.path(name).display().to_string()
}

/// Creates a key on the curve and a certificate for it, signed by the authority in `ca`.
fn issue(setting: &TlsSetting, curve: &str, (name, ca): (&str, &str), extensions: &str) {
    let key = path(setting, &format!("{name}-key.pem"));
    let curve = format!("ec_paramgen_curve:{curve}");
    let subject = format!("/CN={name}");
    let request = openssl(
        &["req", "-new", "-newkey", "ec", "-pkeyopt", &curve, "-nodes", "-subj", &subject]
            .into_iter()
            .chain(["-keyout", &key])
            .collect::<Vec<_>>(),
        b"",
    );
    let extensions = setting.files.write("extensions", extensions).display().to_string();
    let (ca, ca_key) =
        (path(setting, &format!("{ca}.pem")), path(setting, &format!("{ca}-key.pem")));
    let certificate = openssl(
        &["x509", "-req", "-days", "30", "-set_serial", "7", "-extfile", &extensions]
            .into_iter()
            .chain(["-CA", &ca, "-CAkey", &ca_key])
            .collect::<Vec<_>>(),
        &request,
    );
    setting.files.write(&format!("{name}.pem"), certificate);
}

const FOR_LOCALHOST: &str = "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n";

fn with_authority_key() -> TlsSetting {
    let setting = TlsSetting::new();
    let key = setting.pki.as_issued().key;
    setting.files.write("ca-key.pem", key.to_sec1_pem().as_str());
    setting
}

#[tokio::test]
async fn broker_key_on_unsupported_curve_is_explained() {
    let setting = with_authority_key();
    issue(&setting, "secp521r1", ("server", "ca"), FOR_LOCALHOST);
    for version in ["-tls1_2", "-tls1_3"] {
        let server = OpenSslServer::start(&setting, &[version]);
        let failure = fail_at(server.port, &setting).await;
        expect(&failure, FailureKind::TlsCipher, &["not P-521", "P-256 or P-384"]);
    }
}

#[tokio::test]
async fn authority_on_unsupported_curve_is_explained() {
    let setting = with_authority_key();
    let authority = "basicConstraints=critical,CA:TRUE\n";
    issue(&setting, "secp521r1", ("odd", "ca"), authority);
    issue(&setting, "prime256v1", ("server", "odd"), FOR_LOCALHOST);
    let chain = path(&setting, "odd.pem");
    let server = OpenSslServer::start(&setting, &["-tls1_3", "-cert_chain", &chain]);
    let failure = fail_at(server.port, &setting).await;
    let words = ["signed with an EC key on secp521r1 (P-521) of CN = odd", "cannot be verified"];
    expect(&failure, FailureKind::TlsTrust, &words);
}
