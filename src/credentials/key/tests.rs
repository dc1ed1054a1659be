//! Keys as the `openssl` program writes them, and damaged ones.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::credentials::error::{ConfiguredFile, FileRole};
use crate::credentials::testing::openssl;

fn key(text: &[u8]) -> Result<EcKey, CredentialError> {
    let name = ConfiguredFile::new(FileRole::Key, Path::new("/etc/private-key.pem"));
    EcKey::from_pem(&PemFile::parse(name, text)?)
}

fn refusal(text: &[u8]) -> String {
    key(text).expect_err("must be refused").to_string()
}

#[test]
fn keys_of_the_vendors_command_are_read() {
    for (name, curve) in [("prime256v1", EcCurve::P256), ("secp384r1", EcCurve::P384)] {
        let pem = openssl(&["ecparam", "-name", name, "-genkey", "-noout"], &[]);
        assert_eq!(key(&pem).expect("SEC1").curve(), curve);
    }
}

#[test]
fn parameters_before_the_key_are_skipped() {
    let pem = openssl(&["ecparam", "-name", "prime256v1", "-genkey"], &[]);
    assert!(pem.starts_with(b"-----BEGIN EC PARAMETERS-----"));
    assert_eq!(key(&pem).expect("SEC1").curve(), EcCurve::P256);
}

#[test]
fn every_encoding_gives_the_same_key() {
    let sec1 = openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], &[]);
    let pkcs8 = openssl(&["pkcs8", "-topk8", "-nocrypt"], &sec1);
    let bare = openssl(&["ec", "-no_public"], &sec1);
    let point = key(&sec1).expect("SEC1").public_point();
    assert_eq!(key(&pkcs8).expect("PKCS#8").public_point(), point);
    assert_eq!(key(&bare).expect("bare SEC1").public_point(), point);
}

#[test]
fn openssl_reads_written_keys_with_their_curve() {
    for curve in EcCurve::ALL {
        let ours = EcKey::generate(curve);
        let pem = ours.to_sec1_pem();
        assert!(pem.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
        let again = openssl(&["ec"], pem.as_bytes());
        assert_eq!(again, pem.as_bytes(), "openssl writes the very same file");
        assert_eq!(key(&again).expect("own key").public_point(), ours.public_point());
    }
}

#[test]
fn other_curves_are_refused_with_the_reason() {
    for (curve, name, reason) in [
        ("secp521r1", "P-521", "P-256 and P-384 only"),
        ("secp256k1", "secp256k1", "P-256 and P-384 only"),
        ("brainpoolP256r1", "brainpoolP256r1", "P-256 and P-384 only"),
        ("secp224r1", "P-224", "256 bits or more"),
    ] {
        let pem = openssl(&["ecparam", "-name", curve, "-genkey", "-noout"], &[]);
        for pem in [pem.clone(), openssl(&["pkcs8", "-topk8", "-nocrypt"], &pem)] {
            let text = refusal(&pem);
            assert!(text.contains(name) && text.contains(reason), "{text}");
            assert!(text.contains("centiloc-bridge csr"), "{text}");
        }
    }
}

#[test]
fn explicit_curve_parameters_are_refused() {
    let args = ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-param_enc", "explicit"];
    let pem = openssl(&args, &[]);
    let pkcs8 = openssl(&["pkcs8", "-topk8", "-nocrypt"], &pem);
    for pem in [pem, pkcs8] {
        assert!(refusal(&pem).contains("explicit curve parameters"), "{}", refusal(&pem));
    }
}

#[test]
fn rsa_and_edwards_keys_are_refused_by_name() {
    let rsa = openssl(&["genrsa", "-traditional", "2048"], &[]);
    let rsa8 = openssl(&["genrsa", "2048"], &[]);
    for pem in [rsa, rsa8] {
        assert!(refusal(&pem).contains("an RSA key: Centiloc accepts elliptic"));
    }
    let ed = openssl(&["genpkey", "-algorithm", "ed25519"], &[]);
    assert!(refusal(&ed).contains("an Ed25519 key"));
}

#[test]
fn encrypted_keys_are_recognised() {
    let sec1 = openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], &[]);
    let old = openssl(&["ec", "-aes128", "-passout", "pass:secret"], &sec1);
    let new = openssl(&["pkcs8", "-topk8", "-passout", "pass:secret"], &sec1);
    for pem in [old, new] {
        assert!(refusal(&pem).contains("passphrase"), "{}", refusal(&pem));
        assert!(refusal(&pem).contains("openssl pkey -in /etc/private-key.pem"));
    }
}

#[test]
fn public_keys_and_several_keys_are_refused() {
    let sec1 = openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], &[]);
    let public = openssl(&["ec", "-pubout"], &sec1);
    assert!(refusal(&public).contains("holds a public key"), "{}", refusal(&public));
    let two = [sec1.clone(), sec1].concat();
    assert!(refusal(&two).contains("2 private keys"));
}

#[test]
fn debug_output_never_shows_the_secret() {
    let shown = format!("{:?}", EcKey::generate(EcCurve::P256));
    assert_eq!(shown, "EcKey(P-256, secret)");
}

proptest! {
    #[test]
    fn damaged_keys_are_refused_without_a_panic(at in 0usize..120, flip in 1u8..=255) {
        let key = EcKey::generate(EcCurve::P256);
        let mut der = key.to_sec1_der().as_bytes().to_vec();
        if at < der.len() { der[at] ^= flip; }
        let _ = sec1(&der, None);
        let mut der = key.to_pkcs8_der().to_vec();
        if at < der.len() { der[at] ^= flip; }
        let _ = pkcs8(&der);
    }
}
