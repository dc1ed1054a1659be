//! `run`: the service.

use std::process::ExitCode;

use crate::config::Loaded;
use crate::reload::Source;
use crate::telemetry::logging;

/// Runs until told to stop.
pub async fn run(loaded: Loaded, source: Source) -> anyhow::Result<ExitCode> {
    let log = logging::init(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!(warning, "check the configuration");
    }
    crate::run::run(loaded, source, log).await
}
