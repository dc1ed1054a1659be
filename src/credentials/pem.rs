//! Reads PEM files. The error about a file of another format explains how to convert it.

use std::io;
use std::path::Path;

use p256::elliptic_curve::zeroize::Zeroizing;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::{ConfiguredFile, CredentialError, FileRole};
use crate::encoding::to_utf8;

/// Largest file read, bytes. The bundle of a whole operating system has about 250 KiB. Beyond a
/// megabyte the file is not a key or certificate at all, but a device or a log.
const MAX_FILE: u64 = 1024 * 1024;

const BEGIN: &str = "-----BEGIN ";

/// The end of one section and the start of the next one on the same line.
const JOINT: &[u8] = b"----------BEGIN ";

/// A PEM file in memory, wiped when dropped: it may hold a key.
pub struct PemFile {
    /// The file and the key that names it.
    pub name: ConfiguredFile,
    text: Zeroizing<Vec<u8>>,
    labels: Vec<String>,
}

impl PemFile {
    /// Reads a PEM file.
    pub fn read(role: FileRole, path: &Path) -> Result<Self, CredentialError> {
        let name = ConfiguredFile::new(role, path);
        let text = read_bounded(&name)?;
        Self::parse(name, &text)
    }

    /// Parses the content of a PEM file.
    pub fn parse(name: ConfiguredFile, text: &[u8]) -> Result<Self, CredentialError> {
        let Ok(text) = to_utf8(text) else { return Err(CredentialError::Utf16 { file: name }) };
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err(CredentialError::Empty { file: name });
        }
        let normal = normalised(&text);
        let labels = labels(&normal);
        if labels.is_empty() {
            return Err(not_pem(name, &text));
        }
        Ok(Self { name, text: normal, labels })
    }

    /// Returns the labels of its sections, in order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Returns true if it has a section of this label.
    pub fn has(&self, label: &str) -> bool {
        self.labels.iter().any(|l| l == label)
    }

    /// Returns true if it has a private key of any kind.
    pub fn has_private_key(&self) -> bool {
        self.labels.iter().any(|l| l.ends_with("PRIVATE KEY"))
    }

    /// Returns true if its key is encrypted with a passphrase, in the traditional or PKCS#8 format.
    pub fn has_encrypted_key(&self) -> bool {
        self.has("ENCRYPTED PRIVATE KEY") || contains(&self.text, b"Proc-Type: 4,ENCRYPTED")
    }

    /// Returns the text, for PEM readers.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Returns its certificates, at least one.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
        if !self.has("CERTIFICATE") {
            return Err(self.without_certificate());
        }
        CertificateDer::pem_slice_iter(&self.text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.damaged(describe(&error)))
    }

    /// Returns the error of a file that is damaged for this reason.
    pub fn damaged(&self, detail: impl Into<String>) -> CredentialError {
        CredentialError::Damaged { file: self.name.clone(), detail: detail.into() }
    }

    fn without_certificate(&self) -> CredentialError {
        let file = self.name.clone();
        if file.role != FileRole::Certificate {
            self.wrong_content()
        } else if self.has("CERTIFICATE REQUEST") || self.has("NEW CERTIFICATE REQUEST") {
            CredentialError::RequestForCertificate { file }
        } else if self.has_private_key() {
            CredentialError::KeyForCertificate { file }
        } else {
            self.wrong_content()
        }
    }

    /// Returns the error of a PEM file without the content that its role requires.
    pub fn wrong_content(&self) -> CredentialError {
        let found = self
            .labels
            .iter()
            .map(|label| match label.as_str() {
                "PKCS7" => "a PKCS#7 bundle (extract it: openssl pkcs7 -print_certs -in … -out …)",
                "TRUSTED CERTIFICATE" => {
                    "OpenSSL's own TRUSTED CERTIFICATE form (rewrite it: openssl x509 -in … -out …)"
                }
                "PUBLIC KEY" => "a public key",
                "OPENSSH PRIVATE KEY" => "an SSH key",
                other => other,
            })
            .collect::<Vec<_>>()
            .join(", ");
        CredentialError::WrongContent { file: self.name.clone(), found }
    }
}

/// Describes an error of the PEM reader.
pub(crate) fn describe(error: &rustls_pki_types::pem::Error) -> String {
    use rustls_pki_types::pem::Error;
    match error {
        Error::MissingSectionEnd { end_marker } => {
            format!("the section {} has no END line", String::from_utf8_lossy(end_marker))
        }
        Error::IllegalSectionStart { .. } => "a BEGIN line is malformed".to_owned(),
        Error::Base64Decode(_) => "a section is not valid Base64".to_owned(),
        _ => "it could not be read as PEM".to_owned(),
    }
}

fn read_bounded(name: &ConfiguredFile) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let unreadable = |source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => {
                "make it readable by the user the service runs as (chown, chmod)"
            }
            io::ErrorKind::TimedOut => {
                "check that the file system that holds it is mounted and answers"
            }
            _ => "the path must name a readable file",
        };
        CredentialError::Unreadable { file: name.clone(), source, hint }
    };
    let text = crate::files::read(&name.path, MAX_FILE + 1).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE {
        return Err(CredentialError::TooLarge { file: name.clone(), limit: MAX_FILE });
    }
    Ok(text)
}

/// Normalises text for PEM readers. It converts line ends of any system, also the `\n` escapes of JSON,
/// removes the indentation of YAML or a mail, and separates files that were joined without a line end
/// or with their byte order marks.
fn normalised(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = replace(text, br"\r", b"");
    let text = replace(&text, br"\n", b"\n");
    let text = replace(&text, JOINT, b"-----\n-----BEGIN ");
    let mut lines = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = line.trim_ascii();
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        lines.extend_from_slice(line.trim_ascii());
        lines.push(b'\n');
    }
    lines
}

/// Replaces every occurrence of `pattern`.
fn replace(text: &[u8], pattern: &[u8], by: &[u8]) -> Zeroizing<Vec<u8>> {
    let places = text.windows(pattern.len()).filter(|window| *window == pattern).count();
    let mut replaced = Zeroizing::new(Vec::with_capacity(text.len() + places * by.len()));
    let mut rest = text;
    while let Some(at) = rest.windows(pattern.len()).position(|window| window == pattern) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(by);
        rest = &rest[at + pattern.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

fn labels(text: &[u8]) -> Vec<String> {
    text.split(|b| *b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter_map(|line| line.strip_prefix(BEGIN))
        .map(|label| label.trim_end_matches('-').to_owned())
        .collect()
}

fn not_pem(file: ConfiguredFile, text: &[u8]) -> CredentialError {
    // DER and PKCS#12 begin with a SEQUENCE of more than 127 bytes.
    if !matches!(text, [0x30, 0x81..=0x84, ..]) {
        return CredentialError::NoPem { file };
    }
    let path = file.path.display();
    let (found, hint) = if X509Certificate::from_der(text).is_ok() {
        ("a DER certificate", format!("openssl x509 -inform DER -in {path} -out certificate.pem"))
    } else if is_pkcs12(text) {
        let keys =
            if matches!(file.role, FileRole::Key | FileRole::KeyOption | FileRole::DatabaseKey) {
                "certs"
            } else {
                "keys"
            };
        ("PKCS#12", format!("openssl pkcs12 -in {path} -no{keys} -nodes -out file.pem"))
    } else {
        ("DER", format!("openssl pkey -inform DER -in {path} -out private-key.pem"))
    };
    CredentialError::Binary { found, hint, file }
}

/// Returns true for PKCS#12, which begins with its version, 3. PKCS#8 and SEC1 keys begin with 0 or 1.
fn is_pkcs12(text: &[u8]) -> bool {
    let length_bytes = usize::from(text[1] & 0x7f);
    text.get(2 + length_bytes..).is_some_and(|body| body.starts_with(&[0x02, 0x01, 0x03]))
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::EcKey;
    use crate::credentials::testing::{LeafSpec, TestPki};
    use crate::encoding::tests::utf16_le;
    use p256::pkcs8::der::pem::{LineEnding, encode_string};
    use proptest::prelude::*;

    fn parse(role: FileRole, text: impl AsRef<[u8]>) -> Result<PemFile, CredentialError> {
        let name = ConfiguredFile::new(role, Path::new("/etc/x.pem"));
        PemFile::parse(name, text.as_ref())
    }

    #[test]
    fn a_missing_file_is_named_with_its_setting() {
        let error = PemFile::read(FileRole::Certificate, Path::new("/nowhere/tls-cert.pem")).err();
        let text = error.expect("must fail").to_string();
        assert!(text.contains("mqtt.tls.cert_file /nowhere/tls-cert.pem"), "{text}");
        assert!(text.contains("check the path"), "{text}");
    }

    #[test]
    fn a_directory_and_an_endless_device_are_refused() {
        let dir = PemFile::read(FileRole::Key, Path::new("/tmp")).err().expect("must fail");
        assert!(matches!(dir, CredentialError::Unreadable { .. }), "{dir}");
        let device = PemFile::read(FileRole::Key, Path::new("/dev/zero")).err().expect("must fail");
        assert!(matches!(device, CredentialError::TooLarge { .. }), "{device}");
    }

    #[test]
    fn empty_files_differ_from_files_without_pem() {
        assert!(matches!(parse(FileRole::Key, ""), Err(CredentialError::Empty { .. })));
        assert!(matches!(parse(FileRole::Key, " \r\n\n"), Err(CredentialError::Empty { .. })));
        assert!(matches!(parse(FileRole::Key, "hello"), Err(CredentialError::NoPem { .. })));
        assert!(matches!(
            parse(FileRole::Key, b"\xff\xfe-\0-"),
            Err(CredentialError::Utf16 { .. })
        ));
    }

    #[test]
    fn der_certificates_name_the_converting_command() {
        let pki = TestPki::new();
        // Binary data may hold anything that looks like a blank or a line's end.
        let der = pki.issue(&LeafSpec::client("a \n b")).der;
        let error = parse(FileRole::Certificate, der).err().expect("must fail");
        let text = error.to_string();
        assert!(text.contains("DER certificate"), "{text}");
        assert!(text.contains("openssl x509 -inform DER -in /etc/x.pem"), "{text}");
    }

    #[test]
    fn a_request_is_no_certificate() {
        let text = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----";
        let error = parse(FileRole::Certificate, text).and_then(|f| f.certificates().map(|_| ()));
        assert!(matches!(error, Err(CredentialError::RequestForCertificate { .. })));
    }

    #[test]
    fn certificates_from_other_systems_are_read() {
        let pem = TestPki::new().authority_pem();
        for text in [
            format!("\u{feff}{pem}").into_bytes(),
            pem.replace('\n', "\r\n").into_bytes(),
            pem.replace('\n', "\r").into_bytes(),
            pem.replace('\n', r"\n").into_bytes(),
            pem.replace('\n', r"\r\n").into_bytes(),
            pem.lines().flat_map(|l| ["    ", l, "  \n"]).collect::<String>().into_bytes(),
            format!("subject=CN = x\nissuer=CN = y\n{pem}\nthat is all\n").into_bytes(),
            utf16_le(&pem.replace('\n', "\r\n")),
        ] {
            let file = parse(FileRole::Anchors, &text).expect("PEM");
            let text = String::from_utf8_lossy(&text);
            assert_eq!(file.certificates().expect("certificate").len(), 1, "{text}");
        }
    }

    #[test]
    fn joined_files_keep_every_certificate() {
        let pem = TestPki::new().authority_pem();
        let bare = pem.trim_end();
        for text in [format!("{bare}{bare}"), format!("\u{feff}{pem}\u{feff}{pem}")] {
            let file = parse(FileRole::Anchors, &text).expect("PEM");
            assert_eq!(file.certificates().expect("certificates").len(), 2, "{text}");
        }
    }

    fn pkcs8_pem(key: &EcKey) -> Zeroizing<String> {
        let der = key.to_pkcs8_der();
        Zeroizing::new(encode_string("PRIVATE KEY", LineEnding::LF, &der).unwrap())
    }

    #[test]
    fn keys_from_other_systems_are_read() {
        let key = TestPki::new().issue(&LeafSpec::client("acme")).key;
        for pem in [key.to_sec1_pem(), pkcs8_pem(&key)] {
            let crlf = pem.replace('\n', "\r\n");
            for text in [
                format!("\u{feff}{crlf}").into_bytes(),
                format!("Bag Attributes\r\n    friendlyName: x\r\n{crlf}").into_bytes(),
                pem.replace('\n', r"\n").into_bytes(),
                utf16_le(&crlf),
            ] {
                let file = parse(FileRole::Key, &text).expect("PEM");
                let read = EcKey::from_pem(&file).expect("a key");
                assert_eq!(read.public_point(), key.public_point());
            }
        }
    }

    #[test]
    fn truncated_certificates_are_reported_damaged() {
        let pem = TestPki::new().authority_pem();
        let cut = &pem[..pem.len() / 2];
        let error = parse(FileRole::Anchors, cut).expect("has a label").certificates();
        assert!(matches!(error, Err(CredentialError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn reading_files_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..512), der in any::<bool>()
        ) {
            let bytes = if der { [&[0x30, 0x84][..], &bytes].concat() } else { bytes };
            if let Ok(file) = parse(FileRole::Certificate, &bytes) {
                let _ = file.certificates();
            }
        }
    }
}
