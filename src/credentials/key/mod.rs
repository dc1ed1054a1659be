//! Elliptic curve private keys: SEC1 as the vendor's documented command writes them, or PKCS#8.
//!
//! Keys are decoded here and re-encoded for the TLS and request libraries, because ring insists
//! on PKCS#8 with the public key inside, and files in the field come without either.

use std::fmt;

use p256::elliptic_curve::rand_core::OsRng;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::elliptic_curve::zeroize::Zeroizing;
use p256::pkcs8::der::asn1::{
    ContextSpecific, ContextSpecificRef, ObjectIdentifier, OctetStringRef,
};
use p256::pkcs8::der::pem::{LineEnding, encode_string};
use p256::pkcs8::der::{self, AnyRef, Encode, Reader, SliceReader, TagMode, TagNumber};
use p256::pkcs8::{EncodePrivateKey, PrivateKeyInfo};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::algorithm::{EC_PUBLIC_KEY, EcCurve, KeyAlgorithm};
use super::error::CredentialError;
use super::pem::{PemFile, describe};

/// A private key. Its secret is wiped when dropped and never shown.
#[derive(Clone)]
pub enum EcKey {
    /// On P-256.
    P256(p256::SecretKey),
    /// On P-384.
    P384(p384::SecretKey),
}

impl fmt::Debug for EcKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcKey({}, secret)", self.curve())
    }
}

impl EcKey {
    /// A new key from the system's random numbers.
    pub fn generate(curve: EcCurve) -> Self {
        match curve {
            EcCurve::P256 => Self::P256(p256::SecretKey::random(&mut OsRng)),
            EcCurve::P384 => Self::P384(p384::SecretKey::random(&mut OsRng)),
        }
    }

    /// The one private key of a file.
    pub fn from_pem(file: &PemFile) -> Result<Self, CredentialError> {
        refuse_what_is_no_key(file)?;
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

    /// Its curve.
    pub fn curve(&self) -> EcCurve {
        match self {
            Self::P256(_) => EcCurve::P256,
            Self::P384(_) => EcCurve::P384,
        }
    }

    /// The public point, uncompressed (SEC1 2.3.3).
    pub fn public_point(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => key.public_key().to_encoded_point(false).as_bytes().to_vec(),
            Self::P384(key) => key.public_key().to_encoded_point(false).as_bytes().to_vec(),
        }
    }

    /// Whether `point` (compressed or not) on `curve` is its public key.
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

    /// PKCS#8 with the public key inside, as ring wants it.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        let document = match self {
            Self::P256(key) => key.to_pkcs8_der(),
            Self::P384(key) => key.to_pkcs8_der(),
        };
        // Unwrap safety: fixed-size fields of a valid key always encode.
        document.expect("a valid key encodes").to_bytes()
    }

    /// SEC1 PEM (`BEGIN EC PRIVATE KEY`) with the curve named inside, as `openssl ecparam
    /// -genkey -noout` writes it. The elliptic-curve crate's own encoder leaves the curve out,
    /// and OpenSSL refuses such a file.
    pub fn to_sec1_pem(&self) -> Zeroizing<String> {
        let secret = match self {
            Self::P256(key) => Zeroizing::new(key.to_bytes().to_vec()),
            Self::P384(key) => Zeroizing::new(key.to_bytes().to_vec()),
        };
        // Unwrap safety: fixed-size fields of a valid key always encode.
        let der = encode_sec1(&secret, self.curve(), &self.public_point()).expect("key encodes");
        let pem = encode_string("EC PRIVATE KEY", LineEnding::LF, &der).expect("key encodes");
        Zeroizing::new(pem)
    }
}

fn refuse_what_is_no_key(file: &PemFile) -> Result<(), CredentialError> {
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

impl From<der::Error> for KeyRefusal {
    fn from(_: der::Error) -> Self {
        Self::Damaged("the private key is not valid DER inside")
    }
}

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

/// `outer` is the curve that the enclosing PKCS#8 names, if there is one.
fn sec1(bytes: &[u8], outer: Option<EcCurve>) -> Result<EcKey, KeyRefusal> {
    let (secret, parameters) = decode_sec1(bytes)?;
    let inner = match parameters {
        None => None,
        Some(any) => match any.decode_as::<ObjectIdentifier>() {
            Ok(oid) => Some(KeyAlgorithm::from_oids(EC_PUBLIC_KEY, Some(&oid.to_string()))),
            Err(_) => Some(KeyAlgorithm::explicit_curve()),
        },
    };
    let curve = match (outer, inner) {
        (Some(outer), None) => outer,
        (None, Some(KeyAlgorithm::Ec(inner))) => inner,
        (Some(outer), Some(KeyAlgorithm::Ec(inner))) if outer == inner => outer,
        (_, Some(algorithm)) => return Err(KeyRefusal::Algorithm(algorithm)),
        // Without parameters nothing but the length tells the curve, and secp256k1 has P-256's.
        (None, None) => return Err(KeyRefusal::Damaged("the private key does not name its curve")),
    };
    let scalar = || KeyRefusal::Damaged("the private key is out of the range of its curve");
    match curve {
        EcCurve::P256 => p256::SecretKey::from_slice(secret).map(EcKey::P256).map_err(|_| scalar()),
        EcCurve::P384 => p384::SecretKey::from_slice(secret).map(EcKey::P384).map_err(|_| scalar()),
    }
}

/// `ECPrivateKey` of RFC 5915: the secret and the parameters. The public key is left out: it
/// follows from the secret.
fn decode_sec1(bytes: &[u8]) -> der::Result<(&[u8], Option<AnyRef<'_>>)> {
    let mut reader = SliceReader::new(bytes)?;
    reader.sequence(|body| {
        let _version: u8 = body.decode()?;
        let secret: OctetStringRef<'_> = body.decode()?;
        let parameters =
            ContextSpecific::<AnyRef<'_>>::decode_explicit(body, TagNumber::N0)?.map(|p| p.value);
        body.read_slice(body.remaining_len())?;
        Ok((secret.as_bytes(), parameters))
    })
}

fn encode_sec1(secret: &[u8], curve: EcCurve, point: &[u8]) -> der::Result<Zeroizing<Vec<u8>>> {
    let oid = ObjectIdentifier::new_unwrap(curve.oid());
    let parameters =
        ContextSpecificRef { tag_number: TagNumber::N0, tag_mode: TagMode::Explicit, value: &oid };
    let bits = der::asn1::BitStringRef::from_bytes(point)?;
    let public =
        ContextSpecificRef { tag_number: TagNumber::N1, tag_mode: TagMode::Explicit, value: &bits };
    let secret = OctetStringRef::new(secret)?;
    let mut body = Zeroizing::new(Vec::new());
    1u8.encode_to_vec(&mut body)?;
    secret.encode_to_vec(&mut body)?;
    parameters.encode_to_vec(&mut body)?;
    public.encode_to_vec(&mut body)?;
    let mut whole = Zeroizing::new(Vec::new());
    der::Header::new(der::Tag::Sequence, der::Length::try_from(body.len())?)?
        .encode_to_vec(&mut whole)?;
    whole.extend_from_slice(&body);
    Ok(whole)
}

#[cfg(test)]
mod tests;
