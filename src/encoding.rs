//! Text files with byte order marks or in UTF-16, as Windows editors and PowerShell write them.

use p256::elliptic_curve::zeroize::Zeroizing;

const UTF8_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// The bytes begin with the byte order mark of UTF-16, but are not UTF-16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it begins as UTF-16 text and is damaged; save it as UTF-8")]
pub struct InvalidUtf16;

/// Removes a byte order mark and converts UTF-16 to UTF-8. Other bytes stay unchanged. The result is
/// wiped when dropped, because it may be a secret.
pub fn to_utf8(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, InvalidUtf16> {
    match bytes {
        [0xff, 0xfe, text @ ..] => utf16(text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => utf16(text, u16::from_be_bytes),
        _ => Ok(Zeroizing::new(bytes.strip_prefix(UTF8_MARK).unwrap_or(bytes).to_vec())),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Zeroizing<Vec<u8>>, InvalidUtf16> {
    let units = bytes.chunks_exact(2);
    if !units.remainder().is_empty() {
        return Err(InvalidUtf16);
    }
    // Enough for any text, so that no reallocation leaves a copy of a secret in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(bytes.len() * 2));
    for character in char::decode_utf16(units.map(|pair| unit([pair[0], pair[1]]))) {
        let character = character.map_err(|_| InvalidUtf16)?;
        text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Encodes a text as little-endian UTF-16 with a byte order mark, as Windows does.
    pub fn utf16_le(text: &str) -> Vec<u8> {
        [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
    }

    fn utf16_be(text: &str) -> Vec<u8> {
        [0xfe, 0xff].into_iter().chain(text.encode_utf16().flat_map(u16::to_be_bytes)).collect()
    }

    #[test]
    fn marks_are_removed_and_utf_16_is_converted() {
        let text = "pässword 𝄞\r\n";
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into(),
            utf16_le(text),
            utf16_be(text),
        ] {
            assert_eq!(to_utf8(&bytes).unwrap().as_slice(), text.as_bytes());
        }
    }

    #[test]
    fn damaged_utf_16_is_refused() {
        assert_eq!(to_utf8(b"\x30\x82\xff\xfe").unwrap().as_slice(), b"\x30\x82\xff\xfe");
        assert_eq!(to_utf8(b"").unwrap().as_slice(), b"");
        assert_eq!(to_utf8(&[0xff, 0xfe, 0x41]), Err(InvalidUtf16));
        assert_eq!(to_utf8(&[0xff, 0xfe, 0x00, 0xdc]), Err(InvalidUtf16));
    }
}
