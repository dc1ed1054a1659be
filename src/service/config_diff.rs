//! Compares a new configuration with the one in force. Pure apart from reading the configuration: the
//! composition root applies the result.

use std::path::PathBuf;

use secrecy::ExposeSecret;

use crate::config::{Config, ConfigError, LoadedConfig, load, process_environment};

/// Keys that take effect without a restart. New credentials take effect on the next connection, and
/// the session reconnects for them.
pub const LIVE: [&str; 14] = [
    "mqtt.username",
    "mqtt.password",
    "mqtt.password_file",
    "mqtt.tls.ca_file",
    "mqtt.tls.cert_file",
    "mqtt.tls.key_file",
    "mqtt.tls.server_name",
    "mqtt.reconnect.min",
    "mqtt.reconnect.max",
    "batch.max_events",
    "retention.events",
    "retention.payloads",
    "log.level",
    "shutdown.grace",
];

/// Source of the configuration, for the first read and for reloads.
#[derive(Debug, Clone)]
pub struct ConfigSource {
    /// The file named by `-c`, if any.
    pub file: Option<PathBuf>,
}

impl ConfigSource {
    /// Reads the configuration as it is now. The environment of a process never changes.
    pub fn load(&self) -> Result<LoadedConfig, ConfigError> {
        load(self.file.as_deref(), process_environment())
    }
}

/// Changed keys of a new configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// Keys that take effect now.
    pub applied: Vec<&'static str>,
    /// Keys that take effect after a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Compares a new configuration with the one in force. Returns names of keys and never a value, so
/// that no secret is shown.
pub fn changes(in_force: &LoadedConfig, new: &LoadedConfig) -> ConfigChanges {
    let mut changes = ConfigChanges::default();
    for (old, new) in in_force.settings.iter().zip(&new.settings) {
        debug_assert_eq!(old.key, new.key, "settings are in the order of the table");
        if old.shown != new.shown {
            changes.add(new.key);
        }
    }
    for (key, same) in secrets(&in_force.config, &new.config) {
        if !same {
            changes.add(key);
        }
    }
    changes
}

impl ConfigChanges {
    fn add(&mut self, key: &'static str) {
        let list = if LIVE.contains(&key) { &mut self.applied } else { &mut self.needs_restart };
        if !list.contains(&key) {
            list.push(key);
        }
    }
}

/// Compares the secrets themselves: their shown forms are redacted and always equal.
fn secrets(old: &Config, new: &Config) -> [(&'static str, bool); 3] {
    let password = |config: &Config| config.mqtt.password.as_ref().map(reveal);
    let proxy = |config: &Config| {
        let proxy = config.mqtt.proxy.as_ref()?;
        proxy.credentials.as_ref().map(|(user, password)| (user.clone(), reveal(password)))
    };
    [
        ("mqtt.password", password(old) == password(new)),
        ("mqtt.proxy", proxy(old) == proxy(new)),
        ("database.url", reveal(&old.database.url) == reveal(&new.database.url)),
    ]
}

fn reveal(secret: &secrecy::SecretString) -> String {
    secret.expose_secret().to_owned()
}

/// Returns the configuration in force after `new` was applied: its live settings, and the rest of
/// `old`.
pub fn in_force(mut old: LoadedConfig, new: &LoadedConfig) -> LoadedConfig {
    for (old, new) in old.settings.iter_mut().zip(&new.settings) {
        if LIVE.contains(&new.key) {
            *old = new.clone();
        }
    }
    let (old_mqtt, new_mqtt) = (&mut old.config.mqtt, &new.config.mqtt);
    old_mqtt.username.clone_from(&new_mqtt.username);
    old_mqtt.password.clone_from(&new_mqtt.password);
    old_mqtt.password_file.clone_from(&new_mqtt.password_file);
    if let (Some(old), Some(new)) = (&mut old_mqtt.tls, &new_mqtt.tls) {
        old.clone_from(new);
    }
    old_mqtt.reconnect = new_mqtt.reconnect;
    old.config.batch = new.config.batch;
    old.config.retention.events = new.config.retention.events;
    old.config.retention.payloads = new.config.retention.payloads;
    old.config.log.level.clone_from(&new.config.log.level);
    old.config.shutdown_grace = new.config.shutdown_grace;
    old
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;

    fn loaded(extra: &str) -> LoadedConfig {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let text = format!(
            "tenant = \"acme\"\nmqtt.host = \"localhost\"\nmqtt.tls.enabled = false\n{extra}"
        );
        let text = if extra.contains("database.url") {
            text
        } else {
            format!("{text}\ndatabase.url = \"postgres://u:secret@localhost/db\"\n")
        };
        std::fs::write(&file, text).unwrap();
        load(Some(&file), []).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn every_live_key_is_a_key() {
        for live in LIVE {
            assert!(KEYS.iter().any(|key| key.name == live), "{live}");
        }
    }

    #[test]
    fn equal_configurations_have_no_changes() {
        assert_eq!(changes(&loaded(""), &loaded("")), ConfigChanges::default());
    }

    #[test]
    fn live_keys_apply_and_others_need_restart() {
        let new = loaded(
            "batch.max_events = 5\nlog.level = \"debug\"\nadmin.listen = \"127.0.0.1:1\"\n\
             mqtt.client_id = \"acme-2\"",
        );
        let changes = changes(&loaded(""), &new);
        assert_eq!(changes.applied, ["batch.max_events", "log.level"]);
        assert_eq!(changes.needs_restart, ["mqtt.client_id", "admin.listen"]);
    }

    #[test]
    fn changed_secrets_are_noticed() {
        let old = loaded("mqtt.username = \"u\"\nmqtt.password = \"one\"");
        let new = loaded(
            "mqtt.username = \"u\"\nmqtt.password = \"two\"\n\
             database.url = \"postgres://u:other@localhost/db\"",
        );
        let changes = changes(&old, &new);
        assert_eq!(changes.applied, ["mqtt.password"]);
        assert_eq!(changes.needs_restart, ["database.url"]);
    }

    #[test]
    fn restart_keys_stay_listed_until_reverted() {
        let start = loaded("");
        let new = loaded("batch.max_events = 5\nadmin.listen = \"127.0.0.1:1\"");
        let now = in_force(start, &new);
        assert_eq!(now.config.batch.max_events, 5);
        let again = changes(&now, &new);
        assert_eq!((again.applied.len(), again.needs_restart), (0, vec!["admin.listen"]));
        let back = changes(&now, &loaded("batch.max_events = 5"));
        assert_eq!(back, ConfigChanges::default());
    }
}
