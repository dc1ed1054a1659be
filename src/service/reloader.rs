//! Reloads the configuration on SIGHUP: applies the live settings, and reports the changes that need a
//! restart.

use std::time::Duration;

use time::OffsetDateTime;

use super::BridgeService;
use crate::config::{ConfigError, LoadedConfig};
use crate::files;
use crate::service::config_diff::{self, ConfigChanges, ConfigSource};
use crate::service::notify;
use crate::session::credentials::CredentialSource;
use crate::telemetry::logging::LogHandle;

/// Reloads the configuration on SIGHUP.
pub(super) struct ConfigReloader {
    pub source: ConfigSource,
    pub log: LogHandle,
    /// The configuration in force: that of the start, with the settings applied since.
    pub in_force: LoadedConfig,
}

impl ConfigReloader {
    /// Returns the `shutdown.grace` in force.
    pub fn grace(&self) -> Duration {
        self.in_force.config.shutdown_grace
    }

    /// Reads the configuration and applies it. One with a problem is refused as a whole.
    pub async fn reload(&mut self, service: &BridgeService) {
        notify::reloading();
        let source = self.source.clone();
        match files::apart(move || source.load()).await {
            Ok(Ok(new)) => self.apply(&self.with_password(new), service),
            Ok(Err(problems)) => refuse(&problems, service),
            Err(error) => tracing::error!(%error, "could not read the configuration"),
        }
        notify::ready();
    }

    /// Keeps the password in force where its file does not answer.
    fn with_password(&self, mut new: LoadedConfig) -> LoadedConfig {
        let (old, mqtt) = (&self.in_force.config.mqtt, &mut new.config.mqtt);
        if mqtt.password.is_none() && mqtt.password_file.is_some() {
            mqtt.password.clone_from(&old.password);
        }
        new
    }

    fn apply(&mut self, new: &LoadedConfig, service: &BridgeService) {
        let changes = config_diff::changes(&self.in_force, new);
        if let Err(error) = self.log.set_level(&new.config.log.level) {
            tracing::error!(%error, "could not change the log level; the earlier one stays in force");
        }
        service.settings.apply(new);
        self.in_force = config_diff::in_force(self.in_force.clone(), new);
        for warning in &new.warnings {
            tracing::warn!(error = warning, "configuration warning");
        }
        report(&changes);
        service.health.update(|snapshot| {
            let configuration = &mut snapshot.configuration;
            configuration.problem = None;
            configuration.reloaded_at = Some(OffsetDateTime::now_utc());
            configuration.needs_restart =
                changes.needs_restart.iter().map(ToString::to_string).collect();
        });
    }
}

impl super::LiveSettings {
    fn apply(&self, new: &LoadedConfig) {
        let config = &new.config;
        set(&self.reconnect, config.mqtt.reconnect);
        set(&self.max_events, config.batch.max_events);
        set(&self.keep_events, config.retention.events);
        set(&self.keep_payloads, config.retention.payloads);
        // Sent even if nothing changed: a reload makes the credential files be checked at once.
        self.sources.send_modify(|sources| {
            let mut new = CredentialSource::new(&sources.tenant, &config.mqtt);
            // TLS is turned on or off only at a start.
            if new.tls.is_some() != sources.tls.is_some() {
                new.tls.clone_from(&sources.tls);
            }
            *sources = new;
        });
    }
}

fn set<T: PartialEq>(setting: &tokio::sync::watch::Sender<T>, value: T) {
    setting.send_if_modified(|known| {
        let changed = *known != value;
        *known = value;
        changed
    });
}

fn report(changes: &ConfigChanges) {
    let applied = changes.applied.join(", ");
    if changes.needs_restart.is_empty() {
        tracing::info!(applied, "the configuration was reloaded");
    } else {
        let keys = changes.needs_restart.join(", ");
        tracing::warn!(
            applied,
            needs_restart = keys,
            "the configuration was reloaded; some changes take effect only after a restart"
        );
    }
}

fn refuse(problems: &ConfigError, service: &BridgeService) {
    for problem in &problems.problems {
        tracing::error!(
            error = %problem,
            "the new configuration is refused; the earlier one stays in force"
        );
    }
    service.health.update(|snapshot| snapshot.configuration.problem = Some(problems.to_string()));
}
