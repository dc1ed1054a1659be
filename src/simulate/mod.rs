//! Boards and items that behave like real ones, published to a broker of one's own: for trying
//! dashboards, for load, and as an encoder that the decoder is checked against.

pub mod catalog;
pub mod encode;
pub mod event;
mod go_json;
pub mod history;
pub mod ledger;
mod mismatch;
pub mod publish;
mod rate;
pub mod rng;
pub mod source;
pub mod wire;
pub mod world;
