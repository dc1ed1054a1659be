//! The integration tests: one binary, because linking costs more than running.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod broker;
mod chaos;
mod cli;
mod dashboards;
mod database;
mod documents;
mod fuzz_corpus;
mod self_test;
mod service;
mod spool;
mod store;
mod support;
