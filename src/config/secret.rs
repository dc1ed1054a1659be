//! Secrets: given in place or in a separate file. No error here contains one.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::error::{InvalidValue, ValueOrigin};
use super::layers::RawValue;
use super::reader::SettingReader;
use super::values::MAX_MQTT_TEXT;
use crate::encoding::to_utf8;
use crate::files;

/// More than any password (MQTT's 16-bit length) or URL: a larger file is the wrong file.
const MAX_SECRET_BYTES: usize = MAX_MQTT_TEXT;

/// A secret and the key that gave it. It has no `Debug`, because it is plain text on its way into
/// `SecretString`.
pub(super) struct RawSecret {
    pub text: String,
    pub origin: ValueOrigin,
    /// The key that gave it: the inline one or the file's.
    pub key: &'static str,
    /// The file it was read from, if from one.
    pub file: Option<PathBuf>,
    /// The file did not answer: the text is empty, and the file is read again later.
    pub unread: bool,
}

/// The reason why a file gives no secret. The text continues a sentence that begins with the name of
/// the file, and ends with a hint.
#[derive(Debug)]
pub struct SecretFileError {
    found: String,
    invalid: InvalidValue,
    /// The file system did not answer, which may be temporary.
    no_answer: bool,
}

impl SecretFileError {
    fn new(found: impl Into<String>, invalid: InvalidValue) -> Self {
        Self { found: found.into(), invalid, no_answer: false }
    }
}

impl fmt::Display for SecretFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.found, self.invalid)
    }
}

impl std::error::Error for SecretFileError {}

impl SettingReader {
    /// Reads a secret from one of its two keys. The outer `None` means that a problem was noted, the
    /// inner one that no key gives the secret. With `read_again`, a file that does not answer is
    /// only a warning, because it is read again while the service runs.
    #[allow(clippy::option_option, reason = "as the doc says")]
    pub fn secret(
        &mut self,
        inline: &'static str,
        file: &'static str,
        read_again: bool,
    ) -> Option<Option<RawSecret>> {
        if let Some(RawValue { text, origin }) = self.given(inline) {
            let secret = RawSecret { text, origin, key: inline, file: None, unread: false };
            self.warn_of_edges(&secret);
            return Some(Some(secret));
        }
        self.secret_file(file, read_again)
    }

    /// Reads a secret that only a file gives. The result is that of [`SettingReader::secret`].
    #[allow(clippy::option_option, reason = "as there")]
    pub fn secret_file(
        &mut self,
        file: &'static str,
        read_again: bool,
    ) -> Option<Option<RawSecret>> {
        let Some(RawValue { origin, .. }) = self.given(file) else { return Some(None) };
        let path = self.required_path(file)?;
        let shown_path = path.display().to_string().escape_debug().to_string();
        match read_secret_file(&path) {
            Ok(text) => {
                let secret = RawSecret { text, origin, key: file, file: Some(path), unread: false };
                self.warn_of_edges(&secret);
                Some(Some(secret))
            }
            Err(SecretFileError { no_answer: true, found, .. }) if read_again => {
                self.warnings.push(format!(
                    "{file} ({origin}): {shown_path} {found}; it is read again while the service \
                     runs"
                ));
                let (text, file_path) = (String::new(), Some(path));
                Some(Some(RawSecret { text, origin, key: file, file: file_path, unread: true }))
            }
            Err(SecretFileError { found, invalid, .. }) => {
                self.problem(file, &origin, format!("{shown_path} {found}"), invalid);
                None
            }
        }
    }

    fn warn_of_edges(&mut self, secret: &RawSecret) {
        if secret.text.trim() != secret.text {
            self.warnings.push(format!(
                "{} ({}) begins or ends with white space, which is kept as part of the secret; \
                 remove it if it is not meant",
                secret.key, secret.origin
            ));
        }
    }
}

/// Reads a secret that may have changed since the configuration was loaded.
pub fn read_secret(path: &Path) -> Result<SecretString, SecretFileError> {
    read_secret_file(path).map(SecretString::from)
}

/// Reads the text of the file without the line end at its end.
fn read_secret_file(path: &Path) -> Result<String, SecretFileError> {
    // One byte more than allowed shows that a file is larger. The limit also bounds /dev/zero.
    let bytes = files::read(path, MAX_SECRET_BYTES as u64 + 1).map_err(|error| {
        let no_answer = files::is_no_answer(&error);
        let hint = if no_answer {
            "check that the file system that holds it is mounted and answers"
        } else {
            "create it, or make it readable by the user this runs as"
        };
        let invalid = InvalidValue::new("a readable file", hint);
        let found = format!("cannot be read ({error})");
        SecretFileError { found, invalid, no_answer }
    })?;
    if bytes.len() > MAX_SECRET_BYTES {
        let expected = format!("at most {MAX_SECRET_BYTES} bytes");
        let invalid = InvalidValue::new(expected, "name the file that holds the secret alone");
        return Err(SecretFileError::new("is larger", invalid));
    }
    let not_utf8 = || {
        let invalid = InvalidValue::new("text in UTF-8", "write the secret as text in UTF-8");
        SecretFileError::new("is not UTF-8", invalid)
    };
    let bytes = to_utf8(&bytes).map_err(|_| not_utf8())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| not_utf8())?;
    let line = text.strip_suffix('\n').map(|rest| rest.strip_suffix('\r').unwrap_or(rest));
    let secret = line.unwrap_or(text);
    if secret.is_empty() {
        let invalid = InvalidValue::new("the secret", "write the secret into it");
        return Err(SecretFileError::new("is empty", invalid));
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::tests::utf16_le;

    fn read(content: &[u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, content).unwrap();
        read_secret_file(&path).map_err(|error| error.found)
    }

    #[test]
    fn one_line_end_is_stripped() {
        assert_eq!(read(b"hunter2").unwrap(), "hunter2");
        assert_eq!(read(b"hunter2\n").unwrap(), "hunter2");
        assert_eq!(read(b"hunter2\r\n").unwrap(), "hunter2");
        assert_eq!(read(b"hunter2\n\n").unwrap(), "hunter2\n");
        assert_eq!(read(b" hunter2 \r").unwrap(), " hunter2 \r");
    }

    #[test]
    fn secrets_from_windows_are_read() {
        assert_eq!(read("\u{feff}hunter2\r\n".as_bytes()).unwrap(), "hunter2");
        assert_eq!(read(&utf16_le("pässword\r\n")).unwrap(), "pässword");
        assert_eq!(read("\u{feff}\r\n".as_bytes()).unwrap_err(), "is empty");
        assert_eq!(read(b"\xff\xfea").unwrap_err(), "is not UTF-8");
    }

    #[test]
    fn files_without_a_secret_are_refused() {
        assert_eq!(read(b"").unwrap_err(), "is empty");
        assert_eq!(read(b"\n").unwrap_err(), "is empty");
        assert_eq!(read(b"\xff").unwrap_err(), "is not UTF-8");
        assert_eq!(read(&vec![b'x'; MAX_SECRET_BYTES + 1]).unwrap_err(), "is larger");
        assert_eq!(read(&vec![b'x'; MAX_SECRET_BYTES]).unwrap().len(), MAX_SECRET_BYTES);
        let found = read_secret_file(Path::new("/nonexistent/secret")).err().unwrap().found;
        assert!(found.starts_with("cannot be read"), "{found}");
    }
}
