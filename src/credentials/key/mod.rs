//! Elliptic curve private keys: SEC1 as the vendor's documented command writes them, or PKCS#8.
//!
//! Keys are decoded here and encoded again for the TLS and request libraries, because ring requires
//! PKCS#8 with the public key inside, and many files have neither.

use std::fmt;

use p256::elliptic_curve::rand_core::OsRng;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::elliptic_curve::zeroize::Zeroizing;
use p256::pkcs8::der::asn1::ObjectIdentifier;
use p256::pkcs8::der::pem::{LineEnding, PemLabel};
use p256::pkcs8::der::{ErrorKind, Tag};
use p256::pkcs8::{EncodePrivateKey, PrivateKeyInfo, SecretDocument};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use sec1::{EcParameters, EcPrivateKey};

use super::algorithm::{EC_PUBLIC_KEY, EcCurve, KeyAlgorithm};
use super::error::CredentialError;
use super::pem::{PemFile, describe};

/// A private key. Its secret is wiped when dropped, and `Debug` does not show it.
#[derive(Clone)]
pub enum EcKey {
    /// A key on P-256.
    P256(p256::SecretKey),
    /// A key on P-384.
    P384(p384::SecretKey),
}

impl fmt::Debug for EcKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcKey({}, secret)", self.curve())
    }
}

impl EcKey {
    /// Generates a key from the random numbers of the system.
    pub fn generate(curve: EcCurve) -> Self {
        match curve {
            EcCurve::P256 => Self::P256(p256::SecretKey::random(&mut OsRng)),
            EcCurve::P384 => Self::P384(p384::SecretKey::random(&mut OsRng)),
        }
    }

    /// Reads the private key of a file that holds exactly one.
    pub fn from_pem(file: &PemFile) -> Result<Self, CredentialError> {
        refuse_other_content(file)?;
        let keys = PrivateKeyDer::pem_slice_iter(file.text())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| file.damaged(describe(&error)))?;
        let [key] = keys.as_slice() else {
            return Err(match keys.len() {
                0 => file.wrong_content(),
                found => CredentialError::SeveralKeys { file: file.name.clone(), found },
            });
        };
        match key {
            PrivateKeyDer::Sec1(der) => sec1(der.secret_sec1_der(), None),
            PrivateKeyDer::Pkcs8(der) => pkcs8(der.secret_pkcs8_der()),
            _ => Err(KeyRefusal::Algorithm(KeyAlgorithm::rsa())),
        }
        .map_err(|refusal| refusal.into_error(file))
    }

    /// Returns the curve of the key.
    pub fn curve(&self) -> EcCurve {
        match self {
            Self::P256(_) => EcCurve::P256,
            Self::P384(_) => EcCurve::P384,
        }
    }

    /// Returns the public point, uncompressed (SEC1 2.3.3).
    pub fn public_point(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => key.public_key().to_encoded_point(false).as_bytes().to_vec(),
            Self::P384(key) => key.public_key().to_encoded_point(false).as_bytes().to_vec(),
        }
    }

    /// Returns true if `point` (compressed or not) on `curve` is its public key.
    pub fn has_public_key(&self, curve: EcCurve, point: &[u8]) -> bool {
        match (self, curve) {
            (Self::P256(key), EcCurve::P256) => {
                p256::PublicKey::from_sec1_bytes(point).is_ok_and(|p| p == key.public_key())
            }
            (Self::P384(key), EcCurve::P384) => {
                p384::PublicKey::from_sec1_bytes(point).is_ok_and(|p| p == key.public_key())
            }
            _ => false,
        }
    }

    /// Encodes the key as PKCS#8 with the public key inside, as ring requires.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        let document = match self {
            Self::P256(key) => key.to_pkcs8_der(),
            Self::P384(key) => key.to_pkcs8_der(),
        };
        // Unwrap safety: fixed-size fields of a valid key always encode.
        document.expect("a valid key encodes").to_bytes()
    }

    /// Encodes the key as SEC1 PEM (`BEGIN EC PRIVATE KEY`) with the curve named inside, as `openssl
    /// ecparam -genkey -noout` writes it. The encoder of `p256` leaves the curve out, and OpenSSL
    /// refuses such a file.
    pub fn to_sec1_pem(&self) -> Zeroizing<String> {
        // Unwrap safety: fixed-size fields of a valid key always encode.
        let pem = self.to_sec1_der().to_pem(EcPrivateKey::PEM_LABEL, LineEnding::LF);
        pem.expect("a valid key encodes")
    }

    fn to_sec1_der(&self) -> SecretDocument {
        let secret = match self {
            Self::P256(key) => Zeroizing::new(key.to_bytes().to_vec()),
            Self::P384(key) => Zeroizing::new(key.to_bytes().to_vec()),
        };
        let curve = ObjectIdentifier::new_unwrap(self.curve().oid());
        let key = EcPrivateKey {
            private_key: &secret,
            parameters: Some(EcParameters::NamedCurve(curve)),
            public_key: Some(&self.public_point()),
        };
        // Unwrap safety: fixed-size fields of a valid key always encode.
        SecretDocument::try_from(key).expect("a valid key encodes")
    }
}

fn refuse_other_content(file: &PemFile) -> Result<(), CredentialError> {
    let name = || file.name.clone();
    if file.has_encrypted_key() {
        return Err(CredentialError::EncryptedKey { file: name() });
    }
    if file.has("DSA PRIVATE KEY") {
        let found = KeyAlgorithm::from_oids("1.2.840.10040.4.1", None);
        return Err(KeyRefusal::Algorithm(found).into_error(file));
    }
    if !file.has_private_key() && file.has("CERTIFICATE") {
        return Err(CredentialError::CertificateForKey { file: name() });
    }
    Ok(())
}

/// The reason why a key is refused, before the file is named.
enum KeyRefusal {
    Algorithm(KeyAlgorithm),
    Damaged(&'static str),
}

impl KeyRefusal {
    fn into_error(self, file: &PemFile) -> CredentialError {
        match self {
            Self::Algorithm(KeyAlgorithm::Other { name, reason }) => {
                CredentialError::RefusedKey { file: file.name.clone(), found: name, reason }
            }
            Self::Algorithm(KeyAlgorithm::Ec(curve)) => {
                file.damaged(format!("its parts contradict each other about the curve {curve}"))
            }
            Self::Damaged(detail) => file.damaged(detail),
        }
    }
}

impl From<sec1::Error> for KeyRefusal {
    fn from(error: sec1::Error) -> Self {
        let sec1::Error::Asn1(error) = error else { return Self::Damaged(NOT_DER) };
        match error.kind() {
            // The parameters of a curve in place of its name.
            ErrorKind::TagUnexpected {
                expected: Some(Tag::ObjectIdentifier),
                actual: Tag::Sequence,
            } => Self::Algorithm(KeyAlgorithm::explicit_curve()),
            _ => Self::Damaged(NOT_DER),
        }
    }
}

const NOT_DER: &str = "the private key is not valid DER inside";

fn pkcs8(bytes: &[u8]) -> Result<EcKey, KeyRefusal> {
    let info = PrivateKeyInfo::try_from(bytes)
        .map_err(|_| KeyRefusal::Damaged("the private key is not valid PKCS#8 inside"))?;
    let curve = info.algorithm.parameters.and_then(|p| p.decode_as::<ObjectIdentifier>().ok());
    let curve = curve.map(|oid| oid.to_string());
    match KeyAlgorithm::from_oids(&info.algorithm.oid.to_string(), curve.as_deref()) {
        KeyAlgorithm::Ec(curve) => sec1(info.private_key, Some(curve)),
        other @ KeyAlgorithm::Other { .. } => Err(KeyRefusal::Algorithm(other)),
    }
}

/// Decodes `ECPrivateKey` of RFC 5915. `outer` is the curve that the enclosing PKCS#8 names, if any.
/// The public key is ignored, because it follows from the secret.
fn sec1(bytes: &[u8], outer: Option<EcCurve>) -> Result<EcKey, KeyRefusal> {
    let key = EcPrivateKey::try_from(bytes)?;
    let name = key.parameters.and_then(EcParameters::named_curve);
    let inner = name.map(|oid| KeyAlgorithm::from_oids(EC_PUBLIC_KEY, Some(&oid.to_string())));
    let curve = match (outer, inner) {
        (Some(outer), None) => outer,
        (None, Some(KeyAlgorithm::Ec(inner))) => inner,
        (Some(outer), Some(KeyAlgorithm::Ec(inner))) if outer == inner => outer,
        (_, Some(algorithm)) => return Err(KeyRefusal::Algorithm(algorithm)),
        // Without parameters only the length would identify the curve, and secp256k1 has that of
        // P-256.
        (None, None) => return Err(KeyRefusal::Damaged("the private key does not name its curve")),
    };
    let scalar = || KeyRefusal::Damaged("the private key is out of the range of its curve");
    match curve {
        EcCurve::P256 => {
            p256::SecretKey::from_slice(key.private_key).map(EcKey::P256).map_err(|_| scalar())
        }
        EcCurve::P384 => {
            p384::SecretKey::from_slice(key.private_key).map(EcKey::P384).map_err(|_| scalar())
        }
    }
}

#[cfg(test)]
mod tests;
