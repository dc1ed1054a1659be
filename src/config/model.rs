//! The configuration once it is known to be right. Values here cannot be wrong: what could be is
//! refused while loading, and named there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// Everything `run` needs. Each field is a section of the file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The tenantID: prefixes topics, client id and share group.
    pub tenant: String,
    /// The broker.
    pub mqtt: MqttConfig,
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// Batching.
    pub batch: BatchConfig,
    /// Store-and-forward on disk; `None` is off.
    pub spool: Option<SpoolConfig>,
    /// Decoding.
    pub decode: DecodeConfig,
    /// What is kept for how long.
    pub retention: RetentionConfig,
    /// The admin endpoint; `None` is off.
    pub admin_listen: Option<SocketAddr>,
    /// Logging.
    pub log: LogConfig,
    /// How long a stop may take.
    pub shutdown_grace: Duration,
}

/// Section `mqtt`.
#[derive(Debug, Clone)]
pub struct MqttConfig {
    /// Broker host name or address.
    pub host: String,
    /// Broker TCP port.
    pub port: u16,
    /// MQTT client identifier; begins with the tenant.
    pub client_id: String,
    /// User name, if any.
    pub username: Option<String>,
    /// Password, if any; never without a user name (MQTT-3.1.2-22).
    pub password: Option<SecretString>,
    /// Where the password was read from, if from a file: a new one there counts without a restart.
    pub password_file: Option<PathBuf>,
    /// MQTT keep alive, whole seconds, 1 to 65,535.
    pub keep_alive: Duration,
    /// Bound on DNS, TCP, TLS and CONNACK together.
    pub connect_timeout: Duration,
    /// HTTP proxy asked to CONNECT.
    pub proxy: Option<ProxyConfig>,
    /// Largest MQTT packet accepted at first, bytes.
    pub max_packet_size: usize,
    /// Bound on bytes received and not yet acknowledged.
    pub max_unacked: usize,
    /// Formats in which item events are subscribed to.
    pub items: SubscribedFormats,
    /// Formats in which board events are subscribed to.
    pub boards: SubscribedFormats,
    /// Full share group name `<tenant>-<group>`; `None` is an ordinary subscription.
    pub share_group: Option<String>,
    /// How long the broker keeps the session of an absent client.
    pub session_expiry: Duration,
    /// How long acknowledgements may be held before the broker's queue may have overflowed.
    pub queue_grace: Duration,
    /// TLS; `None` is plain TCP, allowed for loopback or on explicit demand.
    pub tls: Option<TlsConfig>,
    /// Bounds of the reconnect backoff.
    pub reconnect: ReconnectConfig,
}

/// An HTTP proxy.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Basic credentials from the URL, if any.
    pub credentials: Option<(String, SecretString)>,
}

/// Which of the vendor's formats to subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribedFormats {
    /// Protobuf only.
    Protobuf,
    /// JSON only.
    Json,
    /// Both; one event in two formats is still one row.
    Both,
    /// Not subscribed.
    Off,
}

impl SubscribedFormats {
    /// Whether protobuf topics are subscribed to.
    pub fn protobuf(self) -> bool {
        matches!(self, Self::Protobuf | Self::Both)
    }

    /// Whether JSON topics are subscribed to.
    pub fn json(self) -> bool {
        matches!(self, Self::Json | Self::Both)
    }
}

/// Section `mqtt.tls`. The files are looked at while running, so that renewed ones count.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// PEM bundle of trust anchors; `None` is the built-in Centiloc public CA.
    pub ca_file: Option<PathBuf>,
    /// PEM client certificate, followed by intermediates if any.
    pub cert_file: PathBuf,
    /// PEM private key (SEC1 or PKCS#8).
    pub key_file: PathBuf,
    /// Name expected in the server certificate; `None` is the host.
    pub server_name: Option<String>,
}

/// Section `mqtt.reconnect`: `0 < min <= max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReconnectConfig {
    /// First wait.
    pub min: Duration,
    /// Longest wait.
    pub max: Duration,
}

/// Section `database`.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// PostgreSQL connection URL.
    pub url: SecretString,
    /// Size of the pool.
    pub max_connections: u32,
    /// Bound on one statement.
    pub statement_timeout: Duration,
    /// Whether `run` applies migrations.
    pub migrate: bool,
}

/// Section `batch`.
#[derive(Debug, Clone, Copy)]
pub struct BatchConfig {
    /// Most events in one transaction.
    pub max_events: usize,
}

/// Section `spool`.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// Where the spool lives.
    pub dir: PathBuf,
    /// Bound on its size, bytes.
    pub max_size: u64,
}

/// Section `decode`.
#[derive(Debug, Clone)]
pub struct DecodeConfig {
    /// The vendor's `.proto` or a compiled FileDescriptorSet.
    pub proto_file: Option<PathBuf>,
    /// When the message is kept beside the row.
    pub keep_payload: KeepPayload,
}

/// When the message is kept beside the row. `auto` is resolved while loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepPayload {
    /// Always while protobuf numbers are the assumed ones, else `Unknown`.
    Auto,
    /// Every message.
    Always,
    /// Messages with fields the schema does not know.
    Unknown,
    /// None.
    Never,
}

/// Section `retention`.
#[derive(Debug, Clone, Copy)]
pub struct RetentionConfig {
    /// How long events are kept; `None` is for ever.
    pub events: Option<Duration>,
    /// How long the message is kept beside its event; `None` is as long as the event.
    pub payloads: Option<Duration>,
    /// Span of one partition.
    pub partition: PartitionSpan,
}

/// Span of one `item_event` partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionSpan {
    /// One UTC day.
    Day,
    /// One UTC calendar month.
    Month,
}

/// Section `log`.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Shape of a line.
    pub format: LogFormat,
    /// A level (`info`) or `tracing_subscriber` directives (`info,centiloc_bridge::store=debug`).
    pub level: String,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; without timestamps under journald, which adds its own.
    Text,
    /// One JSON object a line.
    Json,
}
