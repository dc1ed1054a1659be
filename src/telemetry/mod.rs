//! What the service tells about itself.

mod accounting_collector;
pub mod health;
pub mod heartbeat;
pub mod logging;
pub mod metrics;

pub use health::Health;
pub use heartbeat::Heartbeat;
pub use metrics::Metrics;
