//! Metrics, health state and log of the service.

mod accounting_collector;
mod figures;
mod gaps;
pub mod health;
pub mod history;
pub mod logging;
pub mod metrics;
mod optional_gauge;
mod process;
pub mod stderr;
mod text_format;

pub use gaps::NewestGap;
pub use health::Health;
pub use metrics::Metrics;
pub use optional_gauge::OptionalGauge;
