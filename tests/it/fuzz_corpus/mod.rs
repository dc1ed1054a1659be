//! What holds whatever bytes arrive. The fuzz targets in `fuzz/` feed these functions, and so do
//! the seeds that are committed there. Each asserts, and says whether it found the bytes good.

mod configuration;
mod event;
mod messages;
mod schema;
#[cfg(test)]
mod seeds;

use std::path::Path;

use tempfile::TempDir;

pub use configuration::configuration;
pub use messages::{json, protobuf, vendor_message};
pub use schema::vendor_schema;

thread_local! {
    /// Making a folder costs more than what is asserted of most files.
    static FOLDER: TempDir = tempfile::tempdir().expect("a folder for the files can be made");
}

/// Writes a file of this name, over an earlier one, and reads it.
fn in_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let file = FOLDER.with(|folder| folder.path().join(name));
    std::fs::write(&file, bytes).expect("the file can be written");
    read(&file)
}
