//! A certificate authority for the tests. It issues the certificates that Centiloc's support team
//! would send (P-256, Common Name = tenant), and those that it should never send.

use std::path::PathBuf;

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::der::Document;
use p256::pkcs8::{AssociatedOid, DecodePrivateKey, LineEnding, ObjectIdentifier};
use p256::{NistP256, SecretKey};
use p384::NistP384;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use super::process::ScratchFolder;

/// A certificate authority.
pub struct CertificateAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The period in which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateValidity {
    /// From yesterday, for that many days from now.
    Days(i64),
    /// Until yesterday.
    Expired,
    /// From tomorrow.
    NotYet,
}

impl CertificateAuthority {
    /// Creates an authority with a key of its own.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Returns its certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Returns its private key, for OpenSSL to sign with.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a server certificate for `localhost` and 127.0.0.1.
    pub fn server(&self) -> CertifiedKey {
        self.server_for(&["localhost", "127.0.0.1"])
    }

    /// Issues a server certificate for the given names.
    pub fn server_for(&self, names: &[&str]) -> CertifiedKey {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "broker");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue_p256(params, CertificateValidity::Days(30))
    }

    /// Issues a client certificate of a tenant, valid for a year as the vendor's are.
    pub fn client(&self, tenant: &str) -> CertifiedKey {
        self.client_valid(tenant, CertificateValidity::Days(365))
    }

    /// Issues a client certificate of a tenant with another validity.
    pub fn client_valid(&self, tenant: &str, validity: CertificateValidity) -> CertifiedKey {
        self.issue_p256(client_params(tenant), validity)
    }

    /// Issues a client certificate of a tenant with a key on P-384.
    pub fn client_p384(&self, tenant: &str) -> CertifiedKey {
        let params = client_params(tenant);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let secret = p384::SecretKey::from_pkcs8_der(key.serialized_der()).unwrap();
        let point = secret.public_key().to_encoded_point(false);
        let sec1 = sec1_pem(&secret.to_bytes(), NistP384::OID, point.as_bytes());
        self.issue(params, CertificateValidity::Days(365), &key, sec1)
    }

    /// Issues a client certificate of a tenant of X.509 version 1, as `openssl x509 -req` makes
    /// them without extensions.
    pub fn client_v1(&self, tenant: &str) -> CertifiedKey {
        let identity = self.client(tenant);
        let der = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
        let signer = SecretKey::from_pkcs8_der(self.issuer.key().serialized_der()).unwrap();
        let v1 = without_version_and_extensions(&der, &SigningKey::from(&signer));
        CertifiedKey { cert: pem("CERTIFICATE", &v1), ..identity }
    }

    fn issue_p256(&self, params: CertificateParams, validity: CertificateValidity) -> CertifiedKey {
        let key = KeyPair::generate().unwrap();
        let secret = SecretKey::from_pkcs8_der(key.serialized_der()).unwrap();
        let point = secret.public_key().to_encoded_point(false);
        let sec1 = sec1_pem(&secret.to_bytes(), NistP256::OID, point.as_bytes());
        self.issue(params, validity, &key, sec1)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        validity: CertificateValidity,
        key: &KeyPair,
        key_sec1: String,
    ) -> CertifiedKey {
        let now = OffsetDateTime::now_utc();
        let day = Duration::DAY;
        (params.not_before, params.not_after) = match validity {
            CertificateValidity::Days(days) => {
                (now - day, now + day * i32::try_from(days).unwrap())
            }
            CertificateValidity::Expired => (now - day * 366, now - day),
            CertificateValidity::NotYet => (now + day, now + day * 366),
        };
        let cert = params.signed_by(key, &self.issuer).unwrap();
        CertifiedKey { cert: cert.pem(), key_sec1, key_pkcs8: key.serialize_pem() }
    }
}

fn client_params(tenant: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Test Hospital");
    params.distinguished_name.push(DnType::CommonName, tenant);
    let email = DnValue::Ia5String("ops@example.com".try_into().unwrap());
    params.distinguished_name.push(DnType::CustomDnType(EMAIL_ADDRESS.to_vec()), email);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// `emailAddress` of PKCS #9.
const EMAIL_ADDRESS: [u64; 7] = [1, 2, 840, 113_549, 1, 9, 1];

/// A certificate with its key in both forms, PEM.
#[derive(Debug, Clone)]
pub struct CertifiedKey {
    pub cert: String,
    /// The key as `BEGIN EC PRIVATE KEY`, which the vendor's documented command writes.
    pub key_sec1: String,
    /// The same key as `BEGIN PRIVATE KEY`.
    pub key_pkcs8: String,
}

impl CertifiedKey {
    /// Writes certificate and SEC1 key. Returns their paths in this order.
    pub fn write(&self, folder: &ScratchFolder, name: &str) -> (PathBuf, PathBuf) {
        let cert = folder.write(&format!("{name}.crt"), &self.cert);
        (cert, folder.write(&format!("{name}.key"), &self.key_sec1))
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[0] parameters` and `[1] publicKey` of `ECPrivateKey`, both explicit.
const PARAMETERS: u8 = 0xa0;
const PUBLIC_KEY: u8 = 0xa1;
/// `[0] version` and `[3] extensions` of `TBSCertificate`, both explicit.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// Encodes an `ECPrivateKey` of RFC 5915 as `openssl ecparam -genkey` does. The p256 crate leaves
/// the curve out, and OpenSSL cannot read that.
fn sec1_pem(secret: &[u8], curve: ObjectIdentifier, point: &[u8]) -> String {
    let body = [
        encode(INTEGER, &[1]),
        encode(OCTET_STRING, secret),
        encode(PARAMETERS, &encode(OBJECT_IDENTIFIER, curve.as_bytes())),
        encode(PUBLIC_KEY, &encode(BIT_STRING, &[&[0], point].concat())),
    ];
    pem("EC PRIVATE KEY", &encode(SEQUENCE, &body.concat()))
}

/// Converts a certificate to version 1 and signs it again. rcgen makes version 3 only.
fn without_version_and_extensions(certificate: &[u8], signer: &SigningKey) -> Vec<u8> {
    let outer = parts(parts(certificate)[0].1);
    let (tbs, algorithm) = (outer[0].1, outer[1]);
    let kept = parts(tbs).into_iter().filter(|(tag, _)| ![VERSION, EXTENSIONS].contains(tag));
    let tbs = encode(SEQUENCE, &kept.flat_map(|(tag, body)| encode(tag, body)).collect::<Vec<_>>());
    let signature: Signature = signer.sign(&tbs);
    // A bit string begins with the number of unused bits.
    let bits = [&[0], signature.to_der().as_bytes()].concat();
    let body = [tbs, encode(algorithm.0, algorithm.1), encode(BIT_STRING, &bits)].concat();
    encode(SEQUENCE, &body)
}

/// Splits consecutive DER elements into tag and body.
fn parts(mut der: &[u8]) -> Vec<(u8, &[u8])> {
    let mut parts = Vec::new();
    while let [tag, first, rest @ ..] = der {
        let octets = if *first < 0x80 { 0 } else { usize::from(*first & 0x7f) };
        let length = if octets == 0 {
            usize::from(*first)
        } else {
            rest[..octets].iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
        };
        let (body, after) = rest[octets..].split_at(length);
        parts.push((*tag, body));
        der = after;
    }
    parts
}

fn encode(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("certificates are shorter than 64 KiB");
    let mut der = vec![tag];
    match length {
        0..0x80 => der.push(length.to_be_bytes()[1]),
        0x80..0x100 => der.extend([0x81, length.to_be_bytes()[1]]),
        _ => der.extend([0x82, length.to_be_bytes()[0], length.to_be_bytes()[1]]),
    }
    der.extend(body);
    der
}

fn pem(label: &'static str, der: &[u8]) -> String {
    Document::try_from(der).unwrap().to_pem(label, LineEnding::LF).unwrap()
}
