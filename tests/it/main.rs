//! The integration tests: one binary, because linking costs more than running.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod acks;
mod admin;
mod commands;
mod crashes;
mod dead_letters;
mod deliveries;
mod events;
mod outages;
mod session;
mod stop;
mod support;
mod support_holds;
