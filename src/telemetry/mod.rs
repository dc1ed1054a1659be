//! What the service tells about itself.

pub mod health;
pub mod metrics;

pub use health::Health;
pub use metrics::Metrics;
