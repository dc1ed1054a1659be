//! Loading and explaining the configuration.

pub mod model;

pub use model::*;
