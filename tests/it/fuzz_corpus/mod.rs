//! Invariants for arbitrary input. The fuzz targets in `fuzz/` and a test of the committed seeds
//! call these functions. Each asserts, and returns true if it accepted the bytes.

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
    /// A folder shared by all inputs, because creating one costs more than most assertions.
    static FOLDER: TempDir = tempfile::tempdir().expect("a folder for the files can be made");
}

/// Writes a file of this name, overwriting an earlier one, and reads it.
fn in_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let file = FOLDER.with(|folder| folder.path().join(name));
    std::fs::write(&file, bytes).expect("the file can be written");
    read(&file)
}
