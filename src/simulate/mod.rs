//! A simulation of boards and items, published to a test broker. It is used to try dashboards, to
//! generate load, and as an independent encoder in tests of the decoder.

pub mod catalog;
pub mod encode;
pub mod event;
mod go_json;
pub mod history;
pub mod layout;
pub mod ledger;
mod mismatch;
pub mod publish;
mod rate;
pub mod rng;
pub mod source;
pub mod wire;
pub mod world;
