//! The integration tests: one binary, because linking costs more than running.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod reload;
mod renewal;
mod secrets;
mod single_writer;
mod store_commit;
mod store_dead_letters;
mod store_journal;
mod store_kit;
mod store_maintenance;
mod store_partitions;
mod store_refused;
mod store_schema;
mod store_views;
mod store_writer;
mod support;
mod support_holds;
