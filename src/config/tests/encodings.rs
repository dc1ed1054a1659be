//! Configuration files from other systems.

use super::*;
use crate::encoding::tests::utf16_le;

#[test]
fn configuration_saved_on_windows_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let text = MINIMAL.replace('\n', "\r\n");
    for bytes in [format!("\u{feff}{text}").into_bytes(), utf16_le(&text)] {
        assert_eq!(load_in(folder.path(), bytes, &[]).unwrap().config.tenant, "acme");
    }
}
