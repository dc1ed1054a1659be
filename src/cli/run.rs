//! `run`: runs the service until a signal stops it.

use std::process::ExitCode;

use crate::config::LoadedConfig;
use crate::service::config_diff::ConfigSource;
use crate::telemetry::logging;
use crate::version::VERSION;

/// Starts logging and runs the service.
pub async fn run(loaded: LoadedConfig, source: ConfigSource) -> anyhow::Result<ExitCode> {
    let log = logging::init(&loaded.config.log)?;
    log_start(&loaded);
    for warning in &loaded.warnings {
        tracing::warn!(error = warning, "configuration warning");
    }
    crate::service::run(loaded, source, log).await
}

/// Logs the line that identifies a run: program, configuration and peers.
fn log_start(loaded: &LoadedConfig) {
    let config = &loaded.config;
    let file = loaded.file.as_ref().map(|file| file.display().to_string());
    let spool = config.spool.as_ref().map(|spool| spool.dir.display().to_string());
    let database = loaded.settings.iter().find(|setting| setting.key == "database.url");
    tracing::info!(
        version = VERSION,
        file = file.as_deref().unwrap_or("none"),
        client_id = config.mqtt.client_id,
        broker = format!("{}:{}", config.mqtt.host, config.mqtt.port),
        database = database.map_or("", |setting| setting.shown.trim_matches('"')),
        spool = spool.as_deref().unwrap_or("off"),
        "starting centiloc-bridge"
    );
}
