//! Configurations for tests.

use std::path::Path;

use super::keys::env_name;
use super::{Config, MqttConfig, SubscribedFormats, load};
use crate::event::{ByKind, EventKind};

/// The keys that have no default: a broker without TLS and a database, both on this machine.
const REQUIRED: [(&str, &str); 4] = [
    ("tenant", "acme"),
    ("mqtt.host", "localhost"),
    ("mqtt.tls.enabled", "false"),
    ("database.url", "postgres:///centiloc"),
];

/// Loads a configuration of defaults for the tenant `acme`.
pub fn config() -> Config {
    let environment = REQUIRED.map(|(key, value)| (env_name(key), value.to_owned()));
    // An empty file, so that the defaults alone count on any machine.
    load(Some(Path::new("/dev/null")), environment).unwrap().config
}

/// Returns the formats of a subscription to protobuf item events alone.
pub fn items_only() -> ByKind<SubscribedFormats> {
    let mut formats = ByKind::new(|_| SubscribedFormats::Off);
    formats[EventKind::Item] = SubscribedFormats::Protobuf;
    formats
}

/// Returns the section `mqtt` of [`config`].
pub fn mqtt() -> MqttConfig {
    config().mqtt
}
