//! A certificate authority for tests, and the `openssl` program as an independent implementation.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use super::algorithm::EcCurve;
use super::key::EcKey;

/// Runs `openssl` on `input` and returns its output. Panics where it fails.
pub fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the openssl program is installed");
    child.stdin.take().expect("piped").write_all(input).expect("openssl reads");
    let output = child.wait_with_output().expect("openssl ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {args:?}: {errors}");
    output.stdout
}

/// A self-signed certificate of the authority `Odd Root` with a key on the curve.
pub fn self_signed(curve: &str) -> String {
    let curve = format!("ec_paramgen_curve:{curve}");
    let arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt", &curve, "-nodes"];
    let more = ["-subj", "/CN=Odd Root", "-days", "30", "-keyout", "/dev/null"];
    let pem = openssl(&[&arguments[..], &more[..]].concat(), b"");
    String::from_utf8(pem).expect("PEM")
}

/// A directory of files with mode 0600.
pub struct TestFiles(tempfile::TempDir);

impl TestFiles {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        let mut file = super::files::NewFile::create(&path, super::files::PRIVATE).expect("new");
        file.write(content.as_ref()).expect("written");
        file.keep();
        path
    }
}

/// The certificate to issue.
pub struct LeafSpec {
    params: CertificateParams,
    curve: EcCurve,
    version_1: bool,
}

impl LeafSpec {
    pub fn client(tenant: &str) -> Self {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Example SA");
        name.push(DnType::CommonName, tenant);
        let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        name.push(email, DnValue::Ia5String("it@example.com".try_into().expect("ASCII")));
        Self::named(name)
    }

    pub fn server(host: &str) -> Self {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, host);
        let mut leaf = Self::named(name);
        leaf.params.subject_alt_names = vec![match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().expect("a DNS name")),
        }];
        leaf
    }

    fn named(name: DistinguishedName) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.is_ca = IsCa::ExplicitNoCa;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::DAY;
        params.not_after = now + Duration::days(365);
        Self { params, curve: EcCurve::P256, version_1: false }
    }

    pub fn curve(mut self, curve: EcCurve) -> Self {
        self.curve = curve;
        self
    }

    /// Valid from and to, in days from now.
    pub fn days(mut self, from: i64, to: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        self.params.not_before = now + Duration::days(from);
        self.params.not_after = now + Duration::days(to);
        self
    }

    /// Without alternative names, as many guides make them.
    pub fn nameless(mut self) -> Self {
        self.params.subject_alt_names.clear();
        self
    }

    /// Without extensions, as `openssl x509 -req` long made them.
    pub fn version_1(mut self) -> Self {
        self.version_1 = true;
        self
    }
}

/// An issued certificate with its key.
pub struct IssuedCertificate {
    pub pem: String,
    pub der: CertificateDer<'static>,
    pub key: EcKey,
}

/// A certificate authority with its key.
pub struct TestPki {
    issuer: Issuer<'static, KeyPair>,
    key: EcKey,
    certificate: rcgen::Certificate,
}

impl TestPki {
    pub fn new() -> Self {
        let (params, key) = (authority("Test Root"), EcKey::generate(EcCurve::P256));
        let pair = pair(&key);
        let certificate = params.self_signed(&pair).expect("self-signed");
        Self { issuer: Issuer::new(params, pair), key, certificate }
    }

    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (authority(name), EcKey::generate(EcCurve::P256));
        let pair = pair(&key);
        let certificate = params.signed_by(&pair, &self.issuer).expect("signed");
        Self { issuer: Issuer::new(params, pair), key, certificate }
    }

    pub fn authority_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The authority's own certificate and key, used as if it were a server's.
    pub fn as_issued(&self) -> IssuedCertificate {
        IssuedCertificate {
            pem: self.certificate.pem(),
            der: self.certificate.der().clone(),
            key: self.key.clone(),
        }
    }

    pub fn issue(&self, leaf: &LeafSpec) -> IssuedCertificate {
        let key = EcKey::generate(leaf.curve);
        let certificate = leaf.params.signed_by(&pair(&key), &self.issuer).expect("signed");
        let der = certificate.der().clone();
        let der = if leaf.version_1 { self.as_version_1(&der) } else { der };
        let pem = p256::pkcs8::der::pem::encode_string(
            "CERTIFICATE",
            p256::pkcs8::der::pem::LineEnding::LF,
            &der,
        );
        IssuedCertificate { pem: pem.expect("encodes"), der, key }
    }

    /// Drops the version and the extensions of a certificate and signs the rest again.
    fn as_version_1(&self, der: &[u8]) -> CertificateDer<'static> {
        use p256::ecdsa::signature::Signer;
        let certificate = split(split(der)[0].content);
        let (tbs, algorithm) = (&certificate[0], &certificate[1]);
        let kept: Vec<u8> = split(tbs.content)
            .iter()
            .filter(|part| part.tag != 0xa0 && part.tag != 0xa3)
            .flat_map(|part| part.whole.to_vec())
            .collect();
        let tbs = tlv(0x30, &kept);
        let EcKey::P256(secret) = &self.key else { unreachable!("authorities are P-256") };
        let signer = p256::ecdsa::SigningKey::from(secret.clone());
        let signature: p256::ecdsa::DerSignature = signer.sign(&tbs);
        let bits = tlv(0x03, &[&[0], signature.as_bytes()].concat());
        CertificateDer::from(tlv(0x30, &[&tbs[..], algorithm.whole, &bits].concat()))
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Converts the key for rcgen.
pub fn pair(key: &EcKey) -> KeyPair {
    super::csr::key_pair(key).expect("a valid key")
}

/// Converts the key for rustls.
pub fn private_key(key: &EcKey) -> rustls_pki_types::PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()).into()
}

struct DerPart<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

fn split(mut der: &[u8]) -> Vec<DerPart<'_>> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let (length, header) = match der[1] {
            0x81 => (usize::from(der[2]), 3),
            0x82 => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
            short => (usize::from(short), 2),
        };
        let (whole, rest) = der.split_at(header + length);
        parts.push(DerPart { tag: whole[0], content: &whole[header..], whole });
        der = rest;
    }
    parts
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a small certificate").to_be_bytes();
    let header = match content.len() {
        0..=127 => vec![tag, length[1]],
        128..=255 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [header, content.to_vec()].concat()
}
