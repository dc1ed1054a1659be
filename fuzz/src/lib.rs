//! What the fuzz targets assert: the functions that the integration tests run on the seeds.

#[path = "../../tests/it/fuzzed/mod.rs"]
mod fuzzed;

pub use fuzzed::*;
