//! Peers for tests: real TLS servers by rustls and by the `openssl` program, and plain TCP ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use secrecy::SecretString;

use crate::config::{MqttConfig, TlsConfig, testing};
use crate::credentials::testing::{IssuedCertificate, LeafSpec, TestFiles, TestPki, private_key};

pub const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
pub const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// An authority with a server and a client certificate, for `localhost` and the tenant `acme`.
pub struct TlsSetting {
    pub pki: TestPki,
    pub server: IssuedCertificate,
    pub files: TestFiles,
    pub tls: TlsConfig,
}

impl TlsSetting {
    pub fn new() -> Self {
        Self::with(&LeafSpec::server("localhost"), &LeafSpec::client("acme"))
    }

    pub fn with(server: &LeafSpec, client: &LeafSpec) -> Self {
        let (pki, files) = (TestPki::new(), TestFiles::new());
        let (server, client) = (pki.issue(server), pki.issue(client));
        files.write("server.pem", &server.pem);
        files.write("server-key.pem", server.key.to_sec1_pem().as_str());
        let tls = TlsConfig::of_files(
            Some(files.write("ca.pem", pki.authority_pem())),
            files.write("tls-cert.pem", &client.pem),
            files.write("private-key.pem", client.key.to_sec1_pem().as_str()),
        );
        Self { pki, server, files, tls }
    }
}

/// A section `mqtt` with short limits, for the tenant `acme`.
pub fn mqtt(host: &str, port: u16, tls: Option<TlsConfig>) -> MqttConfig {
    MqttConfig {
        host: host.to_owned(),
        port,
        username: Some("user".to_owned()),
        password: Some(SecretString::from("hunter2".to_owned())),
        keep_alive: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(5),
        max_packet_size: 1024,
        max_unacked: 1024,
        formats: testing::items_only(),
        tls,
        ..testing::mqtt()
    }
}

/// An address that answers no SYN: a listener whose backlog is full.
pub struct BlackHole {
    pub address: SocketAddr,
    _listener: tokio::net::TcpListener,
    _backlog: Vec<tokio::net::TcpStream>,
}

impl BlackHole {
    /// Creates the address 127.0.0.`last`.
    pub async fn on(last: u8) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut backlog = Vec::new();
        let unanswered = Duration::from_millis(500);
        while let Ok(connected) =
            tokio::time::timeout(unanswered, tokio::net::TcpStream::connect(address)).await
        {
            backlog.push(connected.unwrap());
        }
        Self { address, _listener: listener, _backlog: backlog }
    }
}

/// Accepts connections one at a time and serves each to its end. Returns the port.
pub fn serve(handle: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(handle));
    port
}

/// Starts a TLS server that asks for a client certificate, accepts or refuses it by `verdict`, and
/// answers the first bytes received with `answer`. Returns the port.
pub fn serve_tls(
    server: &IssuedCertificate,
    version: &'static SupportedProtocolVersion,
    verdict: Option<CertificateError>,
    answer: &'static [u8],
) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_client_cert_verifier(Arc::new(ClientVerdict(verdict)))
        .with_single_cert(vec![server.der.clone()], private_key(&server.key))
        .expect("a server certificate");
    let config = Arc::new(config);
    serve(move |socket| {
        let connection = ServerConnection::new(Arc::clone(&config)).expect("a configuration");
        let mut stream = StreamOwned::new(connection, socket);
        let mut request = [0; 1024];
        if let Ok(1..) = stream.read(&mut request) {
            let _ = stream.write_all(answer);
            let _ = stream.flush();
        }
        // Closing at once could reset the connection before the peer has read the alert.
        let _ = stream.sock.shutdown(std::net::Shutdown::Write);
        let _ = stream.sock.read_to_end(&mut Vec::new());
    })
}

/// Verifier that accepts every client certificate, or refuses each for the given reason.
#[derive(Debug)]
struct ClientVerdict(Option<CertificateError>);

impl ClientCertVerifier for ClientVerdict {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match &self.0 {
            None => Ok(ClientCertVerified::assertion()),
            Some(error) => Err(error.clone().into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Process of `openssl s_server`, killed when dropped.
pub struct OpenSslServer {
    child: Child,
    pub port: u16,
}

impl OpenSslServer {
    /// Serves with the setting's server certificate and requires a client certificate of its CA.
    pub fn start(setting: &TlsSetting, more: &[&str]) -> Self {
        let file = |name: &str| -> PathBuf { setting.files.path(name) };
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-Verify", "3", "-verify_return_error"])
            .arg("-cert")
            .arg(file("server.pem"))
            .arg("-key")
            .arg(file("server-key.pem"))
            .arg("-CAfile")
            .arg(file("ca.pem"))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the openssl program is installed");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit(':').next()?.parse().ok())
            .expect("openssl s_server prints its address");
        // It would block once the pipe is full.
        std::thread::spawn(move || lines.map_while(Result::ok).count());
        Self { child, port }
    }
}

impl Drop for OpenSslServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
