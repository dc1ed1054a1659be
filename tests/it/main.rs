//! The integration tests: one binary, because linking costs more than running.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod shipped_files;
mod support;
mod support_holds;
