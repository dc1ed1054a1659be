//! What the service tells about itself.

mod accounting_collector;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod stderr;
mod text_format;

pub use health::Health;
pub use metrics::Metrics;
