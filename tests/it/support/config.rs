//! Configuration files for the program under test.

use std::path::PathBuf;
use std::sync::Arc;

use centiloc_bridge::event::EventKind;
use toml::{Table, Value};

use super::database::Database;
use super::mosquitto::{Mosquitto, PASSWORD, TENANT, USERNAME};
use super::process::{ScratchFolder, free_port};

/// A configuration file and the files that it names.
#[derive(Clone)]
pub struct Config {
    table: Table,
    folder: Arc<ScratchFolder>,
    admin_port: u16,
}

impl Config {
    /// A customer's configuration: mutual TLS, password, JSON and protobuf of items and boards. Only reconnecting takes
    /// milliseconds, because tests wait for it.
    pub fn new(broker: &Mosquitto, database: &Database) -> Self {
        let folder = Arc::new(ScratchFolder::new("bridge"));
        let (cert, key) = broker.client().write(&folder, "client");
        let admin_port = free_port();
        let config = Self { table: Table::new(), folder, admin_port };
        let config = EventKind::ALL.into_iter().fold(config, |config, kind| {
            let is_published = matches!(kind, EventKind::Item | EventKind::Board);
            config.set(kind.formats_key(), if is_published { "both" } else { "off" })
        });
        config
            .set("tenant", TENANT)
            .set("mqtt.host", "127.0.0.1")
            .set("mqtt.port", i64::from(broker.port()))
            .set("mqtt.username", USERNAME)
            .set("mqtt.password", PASSWORD)
            .set("mqtt.tls.ca_file", broker.ca_file().to_str().unwrap())
            .set("mqtt.tls.cert_file", cert.to_str().unwrap())
            .set("mqtt.tls.key_file", key.to_str().unwrap())
            .set("mqtt.reconnect.min", "50ms")
            .set("mqtt.reconnect.max", "500ms")
            .set("database.url", database.url())
            // The state directory that the bridge is started with would turn the spool on.
            .set("spool.dir", "")
            .set("admin.listen", format!("127.0.0.1:{admin_port}"))
    }

    /// The same over a plain listener, for example that of a tap.
    pub fn plain(self, port: u16) -> Self {
        self.set("mqtt.port", i64::from(port)).without("mqtt.tls").set("mqtt.tls.enabled", false)
    }

    /// Sets a key of the form `section.sub.name`.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (sections, name) = split(key);
        let table = sections.iter().fold(&mut self.table, |table, section| {
            let entry = table.entry(*section).or_insert_with(|| Table::new().into());
            entry.as_table_mut().unwrap_or_else(|| panic!("{section} of {key} is no section"))
        });
        table.insert(name.to_owned(), value.into());
        self
    }

    /// Removes a key or section.
    pub fn without(mut self, key: &str) -> Self {
        let (sections, name) = split(key);
        let table = sections.iter().try_fold(&mut self.table, |table, section| {
            table.get_mut(*section).and_then(Value::as_table_mut)
        });
        let removed = table.and_then(|table| table.remove(name));
        assert!(removed.is_some(), "{key} is not set");
        self
    }

    /// Writes a file next to the configuration and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.folder.write(name, content)
    }

    /// Returns the folder of the files.
    pub fn folder(&self) -> &Arc<ScratchFolder> {
        &self.folder
    }

    /// Returns the port of the admin endpoint on 127.0.0.1.
    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// Writes the configuration file and returns its path.
    pub fn write(&self) -> PathBuf {
        self.folder.write("config.toml", toml::to_string(&self.table).unwrap())
    }
}

/// Writes the smallest configuration for a command that only uses the database, in a folder of its
/// own. Nothing connects to the broker that it names.
pub fn database_only(url: &str) -> ScratchFolder {
    let folder = ScratchFolder::new("database-only");
    let url = Value::from(url);
    folder.write(
        "config.toml",
        format!(
            "tenant = \"T\"\nmqtt.host = \"127.0.0.1\"\nmqtt.tls.enabled = false\n\
             database.url = {url}\n"
        ),
    );
    folder
}

fn split(key: &str) -> (Vec<&str>, &str) {
    let mut sections: Vec<&str> = key.split('.').collect();
    let name = sections.pop().unwrap_or(key);
    (sections, name)
}
