//! Names of key algorithms and curves, so that an error can name the key it refuses.

use std::fmt;

use x509_parser::x509::SubjectPublicKeyInfo;

/// Object identifier of an elliptic curve public key.
pub const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";

/// Object identifier of an Ed25519 public key.
const ED25519: &str = "1.3.101.112";

/// A curve that ring signs with. Both satisfy the vendor's 256 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EcCurve {
    /// NIST P-256, also prime256v1 and secp256r1: the vendor's documented choice.
    P256,
    /// NIST P-384, also secp384r1.
    P384,
}

impl EcCurve {
    /// All curves that are supported.
    pub const ALL: [Self; 2] = [Self::P256, Self::P384];

    /// Returns the dotted object identifier.
    pub fn oid(self) -> &'static str {
        match self {
            Self::P256 => "1.2.840.10045.3.1.7",
            Self::P384 => "1.3.132.0.34",
        }
    }
}

impl fmt::Display for EcCurve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        })
    }
}

/// A public key algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// An elliptic curve key on a supported curve.
    Ec(EcCurve),
    /// A key of any other algorithm or curve.
    Other {
        /// Its name in messages, such as `an RSA key` or `an EC key on secp256k1`.
        name: String,
        /// The reason why it is refused.
        reason: &'static str,
    },
}

impl KeyAlgorithm {
    /// Identifies the algorithm by its object identifier and that of its named curve.
    pub fn from_oids(algorithm: &str, curve: Option<&str>) -> Self {
        match (algorithm, curve) {
            (EC_PUBLIC_KEY, Some(curve)) => Self::from_curve(curve),
            (EC_PUBLIC_KEY, None) => Self::explicit_curve(),
            (other, _) => Self::not_ec(other),
        }
    }

    /// Identifies an elliptic curve algorithm by the object identifier of the curve.
    pub fn from_curve(oid: &str) -> Self {
        if let Some(curve) = EcCurve::ALL.into_iter().find(|c| c.oid() == oid) {
            return Self::Ec(curve);
        }
        let (name, reason) = match oid {
            "1.2.840.10045.3.1.1" => ("prime192v1 (P-192)", WEAK),
            "1.3.132.0.33" => ("secp224r1 (P-224)", WEAK),
            "1.3.132.0.31" => ("secp192k1", WEAK),
            "1.3.132.0.32" => ("secp224k1", WEAK),
            "1.3.132.0.35" => ("secp521r1 (P-521)", CURVE),
            "1.3.132.0.10" => ("secp256k1", CURVE),
            "1.3.36.3.3.2.8.1.1.7" => ("brainpoolP256r1", CURVE),
            "1.3.36.3.3.2.8.1.1.8" => ("brainpoolP256t1", CURVE),
            "1.3.36.3.3.2.8.1.1.9" => ("brainpoolP320r1", CURVE),
            "1.3.36.3.3.2.8.1.1.11" => ("brainpoolP384r1", CURVE),
            "1.3.36.3.3.2.8.1.1.12" => ("brainpoolP384t1", CURVE),
            "1.3.36.3.3.2.8.1.1.13" => ("brainpoolP512r1", CURVE),
            "1.3.36.3.3.2.8.1.1.14" => ("brainpoolP512t1", CURVE),
            "1.2.156.10197.1.301" => ("SM2", CURVE),
            other => return Self::other(format!("an EC key on the curve {other}"), CURVE),
        };
        Self::other(format!("an EC key on {name}"), reason)
    }

    /// Returns the algorithm of a key whose curve is given by parameters instead of a name.
    pub fn explicit_curve() -> Self {
        Self::other("an EC key with explicit curve parameters", EXPLICIT)
    }

    /// Returns the algorithm of an RSA key.
    pub fn rsa() -> Self {
        Self::other("an RSA key", NOT_EC)
    }

    fn not_ec(oid: &str) -> Self {
        let name = match oid {
            "1.2.840.113549.1.1.1" => return Self::rsa(),
            "1.2.840.113549.1.1.10" => "an RSA-PSS key",
            "1.2.840.10040.4.1" => "a DSA key",
            "1.3.101.110" => "an X25519 key",
            "1.3.101.111" => "an X448 key",
            ED25519 => "an Ed25519 key",
            "1.3.101.113" => "an Ed448 key",
            other => return Self::other(format!("a key of algorithm {other}"), NOT_EC),
        };
        Self::other(name, NOT_EC)
    }

    /// Returns true if rustls can verify signatures of such a key.
    pub fn can_be_verified(&self) -> bool {
        match self {
            Self::Ec(_) => true,
            Self::Other { .. } => *self == Self::rsa() || *self == Self::not_ec(ED25519),
        }
    }

    fn other(name: impl Into<String>, reason: &'static str) -> Self {
        Self::Other { name: name.into(), reason }
    }

    /// Returns the algorithm of the public key of a certificate.
    pub fn of(key: &SubjectPublicKeyInfo<'_>) -> Self {
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|p| p.as_oid().ok())
            .map(|oid| oid.to_id_string());
        Self::from_oids(&key.algorithm.algorithm.to_id_string(), curve.as_deref())
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ec(curve) => write!(f, "an EC key on {curve}"),
            Self::Other { name, .. } => f.write_str(name),
        }
    }
}

const NOT_EC: &str = "Centiloc accepts elliptic curve keys only";
const WEAK: &str = "Centiloc asks for 256 bits or more";
const CURVE: &str = "the TLS library signs with the curves P-256 and P-384 only";
const EXPLICIT: &str = "only named curves are accepted in TLS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_curves_are_known_by_identifier() {
        assert_eq!(
            KeyAlgorithm::from_curve("1.2.840.10045.3.1.7"),
            KeyAlgorithm::Ec(EcCurve::P256)
        );
        assert_eq!(KeyAlgorithm::from_curve("1.3.132.0.34"), KeyAlgorithm::Ec(EcCurve::P384));
    }

    #[test]
    fn unknown_algorithms_are_named_by_identifier() {
        assert_eq!(KeyAlgorithm::from_oids("1.2.3", None).to_string(), "a key of algorithm 1.2.3");
        assert_eq!(
            KeyAlgorithm::from_oids(EC_PUBLIC_KEY, Some("1.2.3")).to_string(),
            "an EC key on the curve 1.2.3"
        );
    }
}
