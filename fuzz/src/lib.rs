//! The functions that the fuzz targets call. The integration tests run them on the seeds.

#[path = "../../tests/it/fuzz_corpus/mod.rs"]
mod fuzz_corpus;

pub use fuzz_corpus::*;
