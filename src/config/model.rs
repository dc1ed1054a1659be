//! The validated configuration. Invalid values are refused while loading, so that the types here
//! need no further checks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::event::ByKind;

/// The configuration of the service. Each field is a section of the file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The tenantID, which prefixes topics, client id and share group.
    pub tenant: String,
    /// Connection to the broker.
    pub mqtt: MqttConfig,
    /// Connection to the PostgreSQL server.
    pub database: DatabaseConfig,
    /// Size of a batch.
    pub batch: BatchConfig,
    /// Store-and-forward on disk, or `None` for off.
    pub spool: Option<SpoolConfig>,
    /// Decoding of received messages.
    pub decode: DecodeConfig,
    /// Retention of events and payloads.
    pub retention: RetentionConfig,
    /// Address of the admin endpoint, or `None` for off.
    pub admin_listen: Option<SocketAddr>,
    /// Token that the admin endpoint requires, if any.
    pub admin_token: Option<SecretString>,
    /// Format and level of the log.
    pub log: LogConfig,
    /// Time limit of a shutdown.
    pub shutdown_grace: Duration,
}

/// Section `mqtt` of the configuration.
#[derive(Debug, Clone)]
pub struct MqttConfig {
    /// Broker host name or address.
    pub host: String,
    /// TCP port of the broker.
    pub port: u16,
    /// MQTT client identifier, which begins with the tenant.
    pub client_id: String,
    /// User name for the broker, if any.
    pub username: Option<String>,
    /// Password, if any, and never without a user name (MQTT-3.1.2-22).
    pub password: Option<SecretString>,
    /// The file that holds the password, if any. It is read again while the service runs.
    pub password_file: Option<PathBuf>,
    /// MQTT keep alive, whole seconds, 1 to 65,535.
    pub keep_alive: Duration,
    /// Time limit of DNS, TCP, TLS and CONNACK together.
    pub connect_timeout: Duration,
    /// HTTP proxy that connects to the broker, if any.
    pub proxy: Option<ProxyConfig>,
    /// Largest MQTT packet accepted on the first connection, bytes.
    pub max_packet_size: usize,
    /// Most bytes received and not yet acknowledged.
    pub max_unacked: usize,
    /// Formats in which the events of each kind are subscribed to.
    pub formats: ByKind<SubscribedFormats>,
    /// Full share group name `<tenant>-<group>`, or `None` for an ordinary subscription.
    pub share_group: Option<String>,
    /// Time for which the broker keeps the session of an absent client.
    pub session_expiry: Duration,
    /// Time for which acknowledgements may be held before the broker's queue may have overflowed.
    pub queue_grace: Duration,
    /// TLS, or `None` for plain TCP, which is allowed for loopback or on explicit request.
    pub tls: Option<TlsConfig>,
    /// Bounds of the reconnect backoff.
    pub reconnect: BackoffBounds,
}

/// The HTTP proxy of `mqtt.proxy`.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port of the proxy.
    pub port: u16,
    /// User name and password for basic authentication, if any.
    pub credentials: Option<(String, SecretString)>,
}

/// The event formats that are subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribedFormats {
    /// The protobuf format only.
    Protobuf,
    /// The JSON format only.
    Json,
    /// Both. One event in two formats is still one row.
    Both,
    /// No subscription to these events.
    Off,
}

impl SubscribedFormats {
    /// Returns true if protobuf topics are subscribed to.
    pub fn protobuf(self) -> bool {
        matches!(self, Self::Protobuf | Self::Both)
    }

    /// Returns true if JSON topics are subscribed to.
    pub fn json(self) -> bool {
        matches!(self, Self::Json | Self::Both)
    }
}

/// Section `mqtt.tls`. The files are watched while the service runs, so that renewed ones apply.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// PEM bundle of trust anchors, or `None` for the built-in Centiloc public CA.
    pub ca_file: Option<PathBuf>,
    /// PEM client certificate, followed by intermediates if any.
    pub cert_file: PathBuf,
    /// PEM private key (SEC1 or PKCS#8).
    pub key_file: PathBuf,
    /// Name expected in the server certificate, or `None` for the host.
    pub server_name: Option<String>,
}

impl TlsConfig {
    /// Uses these files, and expects the name of the host.
    pub fn of_files(ca_file: Option<PathBuf>, cert_file: PathBuf, key_file: PathBuf) -> Self {
        Self { ca_file, cert_file, key_file, server_name: None }
    }
}

/// Section `mqtt.reconnect`: `0 < min <= max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffBounds {
    /// Delay before the first retry.
    pub min: Duration,
    /// Longest delay between retries.
    pub max: Duration,
}

/// Section `database` of the configuration.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Connection URL, which may contain a password.
    pub url: SecretString,
    /// Largest number of connections.
    pub max_connections: u32,
    /// Time limit of one statement.
    pub statement_timeout: Duration,
    /// True if `run` applies migrations.
    pub migrate: bool,
    /// True if NOTIFY announces new rows of `change_batch`.
    pub notify: bool,
}

/// Section `batch` of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct BatchConfig {
    /// Most events in one transaction.
    pub max_events: usize,
}

/// Section `spool` of the configuration.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// The folder of the spool.
    pub dir: PathBuf,
    /// Largest size of the spool, bytes.
    pub max_size: u64,
}

/// Section `decode` of the configuration.
#[derive(Debug, Clone)]
pub struct DecodeConfig {
    /// The vendor's `.proto` or a compiled FileDescriptorSet.
    pub proto_file: Option<PathBuf>,
    /// The messages that are kept with their rows.
    pub keep_payload: KeepPayload,
}

impl DecodeConfig {
    /// Decodes by the schema of `proto_file`, or by the assumed field numbers.
    pub fn new(proto_file: Option<PathBuf>, keep_payload: KeepPayload) -> Self {
        Self { proto_file, keep_payload }
    }
}

/// The messages that are kept with their rows. `Auto` is resolved while loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepPayload {
    /// `Always` while protobuf field numbers are assumed, else `Unknown`.
    Auto,
    /// Every message is kept.
    Always,
    /// Messages with fields that the schema does not define.
    Unknown,
    /// No message is kept.
    Never,
}

/// Section `retention` of the configuration.
#[derive(Debug, Clone)]
pub struct RetentionConfig {
    /// Age at which events are deleted, or `None` for never.
    pub events: Option<Duration>,
    /// Age at which a message is deleted from its row, or `None` for never.
    pub payloads: Option<Duration>,
    /// Span of one partition.
    pub partition: PartitionSpan,
    /// Folder of the files that events are written to before they are deleted, if any.
    pub archive_dir: Option<PathBuf>,
}

/// Span of one `item_event` partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionSpan {
    /// A day in UTC.
    Day,
    /// A calendar month in UTC.
    Month,
}

/// Section `log` of the configuration.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Format of a line.
    pub format: LogFormat,
    /// A level (`info`) or `tracing_subscriber` directives (`info,centiloc_bridge::store=debug`).
    pub level: String,
}

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text, without timestamps under journald, which adds its own.
    Text,
    /// One JSON object a line.
    Json,
}
