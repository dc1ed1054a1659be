//! The integration tests: one binary, because linking costs more than running.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod bounds;
mod broken_links;
mod connection_faults;
mod delivery_rules;
mod secure_connections;
mod stopping;
mod subscriptions;
mod support;
mod support_holds;
