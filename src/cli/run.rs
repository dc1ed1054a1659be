//! `run`: the service.

use std::process::ExitCode;

use crate::config::Loaded;
use crate::telemetry::logging;

/// Runs until told to stop.
pub async fn run(loaded: Loaded) -> anyhow::Result<ExitCode> {
    let _log = logging::init(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!(warning, "check the configuration");
    }
    crate::run::run(loaded.config).await
}
