//! Configuration files from other systems.

use super::*;
use crate::encoding::tests::utf16_le;

#[test]
fn configuration_saved_on_windows_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let text = MINIMAL.replace('\n', "\r\n");
    for bytes in [format!("\u{feff}{text}").into_bytes(), utf16_le(&text)] {
        let file = folder.path().join("config.toml");
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(load(Some(&file), vars(&[])).unwrap().config.tenant, "acme");
    }
}
