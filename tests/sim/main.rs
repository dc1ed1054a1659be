//! Runs the session, the spool, decoding and the writer of the bridge between a model broker, a
//! model disk and a model database, on paused time, with every choice drawn from one seed. `make
//! simulate-faults` runs as many schedules as requested.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bridge;
mod broker;
mod database;
mod link;
mod message;
mod report;
mod schedule;
mod spool;
mod world;
