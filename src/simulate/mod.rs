//! Boards and items that behave like real ones, published to a broker of one's own: for trying
//! dashboards, for load, and as an encoder that the decoder is checked against.

pub mod catalog;
pub mod dice;
pub mod encode;
mod go_json;
pub mod happening;
pub mod history;
pub mod ledger;
mod mismatch;
mod pace;
pub mod publish;
pub mod source;
pub mod wire;
pub mod world;
