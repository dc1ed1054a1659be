//! What the fuzz targets assert: the functions that the integration tests run on the seeds.

#[path = "../../tests/it/fuzz_corpus/mod.rs"]
mod fuzz_corpus;

pub use fuzz_corpus::*;
