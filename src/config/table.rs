//! The one table of keys. Unknown-key detection, the defaults, the `config` command,
//! `config.example.toml` and `docs/configuration.md` all follow from it, so they cannot disagree.

use super::keys::{Key, Kind, Preset};

/// The vendor's broker, which asks for a user name and a password.
pub const VENDOR_HOST: &str = "mqtt-client.centiloc.com";

/// Words for [`super::Formats`].
const FORMATS: &[&str] = &["protobuf", "json", "both", "off"];

const fn key(name: &'static str, default: Preset, kind: Kind, doc: &'static str) -> Key {
    Key { name, default, kind, doc }
}

/// Every setting, in the order in which it is shown.
pub const KEYS: &[Key] = &[
    key(
        "tenant",
        Preset::Required("acme"),
        Kind::Text,
        "The tenantID Centiloc gave you. It prefixes topics, client id and share group, and is the \
         Common Name of the client certificate.",
    ),
    key("mqtt.host", Preset::Value(VENDOR_HOST), Kind::Text, "Host name or address of the broker."),
    key("mqtt.port", Preset::Value("8883"), Kind::Integer, "TCP port of the broker."),
    key(
        "mqtt.client_id",
        Preset::Derived("<tenant>-bridge"),
        Kind::Text,
        "MQTT client identifier; must begin with the tenant. Empty is <tenant>-bridge. Keep it for \
         good: the broker queues under it what is missed.",
    ),
    key(
        "mqtt.username",
        Preset::Off,
        Kind::Text,
        "User name for the broker; Centiloc requires one.",
    ),
    key(
        "mqtt.password",
        Preset::Off,
        Kind::Secret,
        "Password for the broker. Prefer password_file, which keeps it out of this file and of the \
         environment.",
    ),
    key(
        "mqtt.password_file",
        Preset::Off,
        Kind::Path,
        "File that holds the password; one line end at its end is ignored. Give this or password, \
         not both.",
    ),
    key(
        "mqtt.keep_alive",
        Preset::Value("60s"),
        Kind::Duration,
        "MQTT keep alive, whole seconds. PINGREQ is sent twice as often; a connection is dead when one \
         stays unanswered this long.",
    ),
    key(
        "mqtt.connect_timeout",
        Preset::Value("30s"),
        Kind::Duration,
        "How long name lookup, TCP, TLS and the broker's answer may take together.",
    ),
    key(
        "mqtt.proxy",
        Preset::Off,
        Kind::SecretUrl,
        "HTTP proxy to reach the broker through, as http://host:port or \
         http://user:password@host:port; it must allow CONNECT to the broker.",
    ),
    key(
        "mqtt.max_packet_size",
        Preset::Value("16MiB"),
        Kind::Size,
        "Largest MQTT packet accepted at first. A larger one raises it for the next connection.",
    ),
    key(
        "mqtt.max_unacked",
        Preset::Value("64MiB"),
        Kind::Size,
        "Most bytes received and not yet acknowledged that are held in memory. Reading pauses one packet \
         below it, so that TCP holds the broker back.",
    ),
    key(
        "mqtt.items",
        Preset::Value("protobuf"),
        Kind::Choice(FORMATS),
        "Formats in which item events are subscribed to: protobuf, json, both or off.",
    ),
    key(
        "mqtt.boards",
        Preset::Value("protobuf"),
        Kind::Choice(FORMATS),
        "Formats in which board events are subscribed to: protobuf, json, both or off.",
    ),
    key(
        "mqtt.share_group",
        Preset::Off,
        Kind::Text,
        "Group of a shared subscription, $share/<tenant>-<group>/<topic>, for several bridges that \
         each have their own client_id.",
    ),
    key(
        "mqtt.session_expiry",
        Preset::Value("2h"),
        Kind::Duration,
        "How long the broker keeps the session of an absent client. It decides only what is \
         written down as a possible gap.",
    ),
    key(
        "mqtt.queue_grace",
        Preset::Value("10s"),
        Kind::Duration,
        "How long acknowledgements may be held before the broker's queue may have overflowed. It \
         decides only what is written down as a possible gap.",
    ),
    key(
        "mqtt.tls.enabled",
        Preset::Value("true"),
        Kind::Flag,
        "Whether to use TLS. False is accepted for a loopback host, or with allow_plaintext.",
    ),
    key(
        "mqtt.tls.allow_plaintext",
        Preset::Value("false"),
        Kind::Flag,
        "Accepts enabled = false for any host: credentials and events then travel readable.",
    ),
    key(
        "mqtt.tls.ca_file",
        Preset::Derived("the Centiloc public CA, built in"),
        Kind::Path,
        "PEM file of the authorities trusted to sign the broker's certificate. Empty is the \
         Centiloc public CA, which is built in.",
    ),
    key(
        "mqtt.tls.cert_file",
        Preset::Required("tls-cert.pem"),
        Kind::Path,
        "PEM file of the client certificate Centiloc signed. Required with TLS; a renewed file \
         is taken up without a restart.",
    ),
    key(
        "mqtt.tls.key_file",
        Preset::Required("private-key.pem"),
        Kind::Path,
        "PEM file of the client's private key, SEC1 or PKCS#8. Required with TLS.",
    ),
    key(
        "mqtt.tls.server_name",
        Preset::Derived("mqtt.host"),
        Kind::Text,
        "Name the broker's certificate must bear. Empty is mqtt.host.",
    ),
    key(
        "mqtt.reconnect.min",
        Preset::Value("500ms"),
        Kind::Duration,
        "First wait before connecting again; waits double from here.",
    ),
    key(
        "mqtt.reconnect.max",
        Preset::Value("60s"),
        Kind::Duration,
        "Longest wait before connecting again; used at once when credentials are refused.",
    ),
    key(
        "database.url",
        Preset::RequiredUnlessFile("postgres:///centiloc?host=/run/postgresql"),
        Kind::SecretUrl,
        "Where PostgreSQL is: \
         postgres://user:password@host:port/name?sslmode=verify-full&sslrootcert=/path, or over a \
         unix socket postgres:///name?host=/run/postgresql. Percent-encode / ? # @ : % in the \
         password.",
    ),
    key(
        "database.url_file",
        Preset::Required("database.url"),
        Kind::Path,
        "File that holds the URL; one line end at its end is ignored. Give this or url, not both.",
    ),
    key(
        "database.max_connections",
        Preset::Value("4"),
        Kind::Integer,
        "Most connections to PostgreSQL. Three are used at least: the stream's, the single-writer lock's and one more.",
    ),
    key(
        "database.statement_timeout",
        Preset::Value("30s"),
        Kind::Duration,
        "How long one statement may take before it is given up and tried again.",
    ),
    key(
        "database.migrate",
        Preset::Value("true"),
        Kind::Flag,
        "Whether run applies migrations. False leaves them to the migrate command.",
    ),
    key(
        "batch.max_events",
        Preset::Value("1000"),
        Kind::Integer,
        "Most events in one transaction. No batch waits to fill.",
    ),
    key(
        "spool.dir",
        Preset::Derived("`$STATE_DIRECTORY/spool`, else off"),
        Kind::Path,
        "Folder for store-and-forward on disk, so that events are acknowledged while the database \
         is away. Not given, it is the folder spool in STATE_DIRECTORY, which the systemd unit and \
         the container image set; without that it is off. Empty is off.",
    ),
    key("spool.max_size", Preset::Value("1GiB"), Kind::Size, "Most bytes the spool may hold."),
    key(
        "decode.proto_file",
        Preset::Off,
        Kind::Path,
        "The .proto file Centiloc gave you, or a compiled FileDescriptorSet, to decode by field \
         name. Without it the field numbers are an assumption.",
    ),
    key(
        "decode.keep_payload",
        Preset::Value("auto"),
        Kind::Choice(&["auto", "always", "unknown", "never"]),
        "When the message is kept beside its row: always, unknown (it has fields that are not \
         known here) or never. Auto is always while protobuf field numbers are the assumed ones, \
         else unknown.",
    ),
    key(
        "retention.events",
        Preset::Value("forever"),
        Kind::Duration,
        "How long events are kept: forever, or a duration such as 90d.",
    ),
    key(
        "retention.payloads",
        Preset::Value("forever"),
        Kind::Duration,
        "How long the message is kept beside its row (see decode.keep_payload): forever, which is as \
         long as the row, or a duration such as 30d. A million protobuf messages take about 0.14 \
         GB, a million JSON messages 0.45 GB.",
    ),
    key(
        "retention.partition",
        Preset::Value("month"),
        Kind::Choice(&["day", "month"]),
        "Span of one partition of item_event, and so the grain in which old events go: day or \
         month.",
    ),
    key(
        "admin.listen",
        Preset::Value("127.0.0.1:9464"),
        Kind::Text,
        "Address and port of the admin endpoint (health, metrics, status page). It asks for no \
         password. An empty text turns it off.",
    ),
    key(
        "log.format",
        Preset::Value("text"),
        Kind::Choice(&["text", "json"]),
        "Shape of a log line: text or json. Text has no timestamps under journald, which adds its \
         own.",
    ),
    key(
        "log.level",
        Preset::Value("info"),
        Kind::Text,
        "Least level that is logged: error, warn, info, debug or trace; or directives such as \
         info,centiloc_bridge::store=debug.",
    ),
    key(
        "shutdown.grace",
        Preset::Value("20s"),
        Kind::Duration,
        "How long a stop may take to commit and acknowledge what was received.",
    ),
];
