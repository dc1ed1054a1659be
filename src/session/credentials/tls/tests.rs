//! Real handshakes with servers by OpenSSL and rustls.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::testing::{OpenSslServer, TLS12, TLS13, TlsSetting, serve_tls};
use super::*;
use crate::credentials::EcCurve;
use crate::credentials::testing::LeafSpec;

/// Connects as `localhost`, sends a line, and returns the line received.
fn exchange(config: Arc<ClientConfig>, port: u16) -> std::io::Result<String> {
    exchange_as("localhost", config, port)
}

fn exchange_as(
    host: &'static str,
    config: Arc<ClientConfig>,
    port: u16,
) -> std::io::Result<String> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let name = ServerName::try_from(host).expect("a name");
    let connection = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(b"abc\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn config(tls: &TlsConfig) -> Arc<ClientConfig> {
    client_config(tls).expect("a configuration").config
}

#[test]
fn openssl_accepts_both_curves_and_tls_versions() {
    for curve in EcCurve::ALL {
        let setting = TlsSetting::with(
            &LeafSpec::server("localhost"),
            &LeafSpec::client("acme").curve(curve),
        );
        for version in ["-tls1_2", "-tls1_3"] {
            let server = OpenSslServer::start(&setting, &["-rev", version]);
            let received = exchange(config(&setting.tls), server.port);
            assert_eq!(received.expect(version), "cba", "{curve} {version}");
        }
    }
}

#[test]
fn version_1_client_certificate_is_presented_with_warning() {
    let setting =
        TlsSetting::with(&LeafSpec::server("localhost"), &LeafSpec::client("acme").version_1());
    let loaded = client_config(&setting.tls).expect("accepted");
    assert_eq!(loaded.certificate.version, 1);
    assert!(loaded.warnings.iter().any(|w| w.contains("X.509 version 1")), "{loaded:?}");
    for version in ["-tls1_2", "-tls1_3"] {
        let server = OpenSslServer::start(&setting, &["-rev", version]);
        let received = exchange(Arc::clone(&loaded.config), server.port);
        assert_eq!(received.expect(version), "cba");
    }
}

#[test]
fn chain_with_intermediate_satisfies_root_only_server() {
    let mut setting = TlsSetting::new();
    let middle = setting.pki.intermediate("Middle");
    let client = middle.issue(&LeafSpec::client("acme"));
    let both = format!("{}{}", middle.authority_pem(), client.pem);
    setting.tls.cert_file = setting.files.write("chain.pem", both);
    setting.tls.key_file = setting.files.write("key.pem", client.key.to_sec1_pem().as_str());
    let server = OpenSslServer::start(&setting, &["-rev", "-tls1_3"]);
    assert_eq!(exchange(config(&setting.tls), server.port).expect("accepted"), "cba");
}

#[test]
fn built_in_authority_rejects_other_issuers() {
    let mut setting = TlsSetting::new();
    setting.tls.ca_file = None;
    for version in [TLS12, TLS13] {
        let port = serve_tls(&setting.server, version, None, b"cba\n");
        let error = exchange(config(&setting.tls), port).expect_err("not trusted");
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    }
}

#[test]
fn configured_server_name_is_checked_instead_of_host() {
    let mut setting =
        TlsSetting::with(&LeafSpec::server("broker.internal"), &LeafSpec::client("acme"));
    let port = serve_tls(&setting.server, TLS13, None, b"cba\n");
    let error = exchange(config(&setting.tls), port).expect_err("another name");
    assert!(error.to_string().contains("not valid for name"), "{error}");
    setting.tls.server_name = Some("broker.internal".to_owned());
    assert_eq!(exchange(config(&setting.tls), port).expect("the name fits"), "cba");
    setting.tls.server_name = Some("other.internal".to_owned());
    let error = exchange(config(&setting.tls), port).expect_err("another name");
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[test]
fn address_is_checked_against_certificate_addresses() {
    let setting = TlsSetting::with(&LeafSpec::server("127.0.0.1"), &LeafSpec::client("acme"));
    let port = serve_tls(&setting.server, TLS12, None, b"cba\n");
    assert_eq!(exchange_as("127.0.0.1", config(&setting.tls), port).expect("fits"), "cba");
}

#[test]
fn invalid_server_name_is_rejected_with_its_key() {
    let mut setting = TlsSetting::new();
    setting.tls.server_name = Some("not a name".to_owned());
    let error = client_config(&setting.tls).expect_err("refused").to_string();
    assert!(error.contains("mqtt.tls.server_name \"not a name\""), "{error}");
}

#[test]
fn unusable_anchors_are_named_by_their_place() {
    let setting = TlsSetting::new();
    let mut anchors = TrustAnchors::load(setting.tls.ca_file.as_deref()).expect("an authority");
    anchors.certificates.push(CertificateDer::from(vec![0]));
    let error = root_store(&setting.tls, &anchors).expect_err("refused").to_string();
    assert!(error.contains("certificate 2 cannot be a trust anchor"), "{error}");
}

#[test]
fn renewed_files_apply_to_the_next_configuration() {
    let setting = TlsSetting::new();
    let before = client_config(&setting.tls).expect("first").certificate;
    let renewed = setting.pki.issue(&LeafSpec::client("acme").days(0, 700));
    setting.files.write("tls-cert.pem", &renewed.pem);
    setting.files.write("private-key.pem", renewed.key.to_sec1_pem().as_str());
    let after = client_config(&setting.tls).expect("renewed").certificate;
    assert!(after.not_after > before.not_after);
}
