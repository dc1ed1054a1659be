//! The documented layout files are imported without a remark.

use serde_json::json;

use super::blocks_of;
use crate::support::process::ScratchFolder;
use crate::support::store::StoreFixture;

#[tokio::test]
async fn documented_layout_files_are_imported() {
    let fixture = StoreFixture::new().await;
    let folder = ScratchFolder::new("layout");
    for block in blocks_of("layout") {
        assert_eq!(block.language, "yaml", "{}", block.place);
        let file = folder.write("layout.yaml", &block.text);
        let report = fixture.run_json(&["import-layout", file.to_str().unwrap()], 0).await;
        assert_eq!(report["notices"], json!([]), "{}", block.place);
        assert!(!report["changes"].as_array().unwrap().is_empty(), "{}", block.place);
    }
    assert!(fixture.db.count("centiloc.layout_location").await > 0);
}
