//! The integration tests: one binary, because linking costs more than running.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod acks;
mod admin;
mod bounds;
mod broken_links;
mod chaos;
mod check;
mod commands;
mod connection_faults;
mod crashes;
mod csr;
mod dead_letters;
mod deliveries;
mod delivery_rules;
mod events;
mod outages;
mod reload;
mod renewal;
mod secrets;
mod secure_connections;
mod session;
mod shipped_files;
mod simulate;
mod single_writer;
mod stop;
mod stopping;
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
mod subscriptions;
mod support;
mod support_holds;
