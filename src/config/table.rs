//! The table of keys. The detection of unknown keys, the defaults, the `config` command,
//! `config.example.toml` and `docs/configuration.md` all follow from it, so that they agree.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::key::{ConfigKey, DefaultValue, ValueForm};
use crate::event::EventKind;

/// The vendor's broker, which requires a user name and a password.
pub const VENDOR_HOST: &str = "mqtt-client.centiloc.com";

/// The words for [`super::SubscribedFormats`].
const FORMATS: &[&str] = &["protobuf", "json", "both", "off"];

const fn key(
    name: &'static str,
    default: DefaultValue,
    kind: ValueForm,
    doc: &'static str,
) -> ConfigKey {
    ConfigKey { name, default, kind, doc: Cow::Borrowed(doc) }
}

/// Every key, in the order in which keys are shown.
pub static KEYS: LazyLock<Vec<ConfigKey>> = LazyLock::new(|| {
    let formats = EventKind::ALL.map(formats_key);
    [BEFORE_FORMATS, &formats, AFTER_FORMATS].concat()
});

/// Returns the key of the formats of a kind of event.
fn formats_key(kind: EventKind) -> ConfigKey {
    let doc = format!(
        "Formats in which {} events are subscribed to: protobuf, json, both or off.",
        kind.as_str()
    );
    ConfigKey {
        name: kind.formats_key(),
        default: DefaultValue::Value("protobuf"),
        kind: ValueForm::Choice(FORMATS),
        doc: doc.into(),
    }
}

/// The keys in front of those of the kinds of events.
const BEFORE_FORMATS: &[ConfigKey] = &[
    key(
        "tenant",
        DefaultValue::Required("acme"),
        ValueForm::Text,
        "The tenantID Centiloc gave you. It prefixes topics, client id and share group, and is the \
         Common Name of the client certificate.",
    ),
    key(
        "mqtt.host",
        DefaultValue::Value(VENDOR_HOST),
        ValueForm::Text,
        "Host name or address of the broker.",
    ),
    key("mqtt.port", DefaultValue::Value("8883"), ValueForm::Integer, "TCP port of the broker."),
    key(
        "mqtt.client_id",
        DefaultValue::Derived("<tenant>-bridge"),
        ValueForm::Text,
        "MQTT client identifier. It must begin with the tenant. Empty is <tenant>-bridge. Do not \
         change it: the broker queues missed messages under it.",
    ),
    key(
        "mqtt.username",
        DefaultValue::Off,
        ValueForm::Text,
        "User name for the broker. Centiloc requires one.",
    ),
    key(
        "mqtt.password",
        DefaultValue::Off,
        ValueForm::Secret,
        "Password for the broker. Prefer password_file, which keeps it out of this file and of the \
         environment.",
    ),
    key(
        "mqtt.password_file",
        DefaultValue::Off,
        ValueForm::Path,
        "File that holds the password. One line end at its end is ignored. Give this or password, \
         not both.",
    ),
    key(
        "mqtt.keep_alive",
        DefaultValue::Value("60s"),
        ValueForm::Duration,
        "MQTT keep alive, whole seconds. PINGREQ is sent twice as often. A connection is \
         considered dead when one stays unanswered this long.",
    ),
    key(
        "mqtt.connect_timeout",
        DefaultValue::Value("30s"),
        ValueForm::Duration,
        "How long name lookup, TCP, TLS and the broker's answer may take together.",
    ),
    key(
        "mqtt.proxy",
        DefaultValue::Off,
        ValueForm::SecretUrl,
        "HTTP proxy to reach the broker through, as http://host:port or \
         http://user:password@host:port. It must allow CONNECT to the broker.",
    ),
    key(
        "mqtt.max_packet_size",
        DefaultValue::Value("16MiB"),
        ValueForm::Size,
        "Largest MQTT packet accepted at first. A larger one raises it for the next connection.",
    ),
    key(
        "mqtt.max_unacked",
        DefaultValue::Value("64MiB"),
        ValueForm::Size,
        "Most bytes received and not yet acknowledged that are held in memory. Reading pauses \
         one packet below it, so that TCP slows the broker down.",
    ),
];

/// The keys behind those of the kinds of events.
const AFTER_FORMATS: &[ConfigKey] = &[
    key(
        "mqtt.share_group",
        DefaultValue::Off,
        ValueForm::Text,
        "Group of a shared subscription, $share/<tenant>-<group>/<topic>, for several bridges that \
         each have their own client_id.",
    ),
    key(
        "mqtt.session_expiry",
        DefaultValue::Value("2h"),
        ValueForm::Duration,
        "How long the broker keeps the session of an absent client. It only affects which \
         absences are recorded as possible gaps.",
    ),
    key(
        "mqtt.queue_grace",
        DefaultValue::Value("10s"),
        ValueForm::Duration,
        "How long acknowledgements may be held before the broker's queue may have overflowed. \
         It only affects what is recorded as a possible gap.",
    ),
    key(
        "mqtt.tls.enabled",
        DefaultValue::Value("true"),
        ValueForm::Flag,
        "Whether to use TLS. False is accepted for a loopback host, or with allow_plaintext.",
    ),
    key(
        "mqtt.tls.allow_plaintext",
        DefaultValue::Value("false"),
        ValueForm::Flag,
        "Accepts enabled = false for any host: credentials and events then travel readable.",
    ),
    key(
        "mqtt.tls.ca_file",
        DefaultValue::Derived("the Centiloc public CA, built in"),
        ValueForm::Path,
        "PEM file of the authorities trusted to sign the broker's certificate. Empty is the \
         Centiloc public CA, which is built in.",
    ),
    key(
        "mqtt.tls.cert_file",
        DefaultValue::Required("tls-cert.pem"),
        ValueForm::Path,
        "PEM file of the client certificate Centiloc signed. Required with TLS. A renewed \
         file takes effect without a restart.",
    ),
    key(
        "mqtt.tls.key_file",
        DefaultValue::Required("private-key.pem"),
        ValueForm::Path,
        "PEM file of the client's private key, SEC1 or PKCS#8. Required with TLS.",
    ),
    key(
        "mqtt.tls.server_name",
        DefaultValue::Derived("mqtt.host"),
        ValueForm::Text,
        "Name that the broker's certificate must contain. Empty is mqtt.host.",
    ),
    key(
        "mqtt.reconnect.min",
        DefaultValue::Value("500ms"),
        ValueForm::Duration,
        "First wait before connecting again. Waits double from here.",
    ),
    key(
        "mqtt.reconnect.max",
        DefaultValue::Value("60s"),
        ValueForm::Duration,
        "Longest wait before connecting again. It is used at once when credentials are refused.",
    ),
    key(
        "database.url",
        DefaultValue::RequiredUnlessFile("postgres:///centiloc?host=/run/postgresql"),
        ValueForm::SecretUrl,
        "Where PostgreSQL is: \
         postgres://user:password@host:port/name?sslmode=verify-full&sslrootcert=/path, or over a \
         unix socket postgres:///name?host=/run/postgresql. Percent-encode / ? # @ : % in the \
         password.",
    ),
    key(
        "database.url_file",
        DefaultValue::Required("database.url"),
        ValueForm::Path,
        "File that holds the URL. One line end at its end is ignored. Give this or url, not both.",
    ),
    key(
        "database.max_connections",
        DefaultValue::Value("4"),
        ValueForm::Integer,
        "Most connections to PostgreSQL. Three are used at least: the stream's, the single-writer lock's and one more. The map has another one while somebody looks at it.",
    ),
    key(
        "database.statement_timeout",
        DefaultValue::Value("30s"),
        ValueForm::Duration,
        "How long one statement may take before it is cancelled and tried again.",
    ),
    key(
        "database.migrate",
        DefaultValue::Value("true"),
        ValueForm::Flag,
        "Whether run applies migrations. False leaves them to the migrate command.",
    ),
    key(
        "database.notify",
        DefaultValue::Value("false"),
        ValueForm::Flag,
        "Whether NOTIFY on the channel centiloc_change announces new positions of the change feed.",
    ),
    key(
        "batch.max_events",
        DefaultValue::Value("1000"),
        ValueForm::Integer,
        "Most events in one transaction. No batch waits to fill.",
    ),
    key(
        "spool.dir",
        DefaultValue::Derived("`$STATE_DIRECTORY/spool`, else off"),
        ValueForm::Path,
        "Folder for store-and-forward on disk, so that events are acknowledged while the \
         database is unavailable. The default is the folder spool in STATE_DIRECTORY, which \
         the systemd unit and the container image set. Without that variable the spool is \
         off. Empty is off.",
    ),
    key(
        "spool.max_size",
        DefaultValue::Value("1GiB"),
        ValueForm::Size,
        "Most bytes the spool may hold.",
    ),
    key(
        "decode.proto_file",
        DefaultValue::Off,
        ValueForm::Path,
        "The .proto file Centiloc gave you, or a compiled FileDescriptorSet, to decode by field \
         name. Without it the field numbers are an assumption.",
    ),
    key(
        "decode.keep_payload",
        DefaultValue::Value("auto"),
        ValueForm::Choice(&["auto", "always", "unknown", "never"]),
        "Which messages are kept with their rows: always, unknown (those with fields that are \
         not known here) or never. Auto is always while protobuf field numbers are the \
         assumed ones, else unknown.",
    ),
    key(
        "retention.events",
        DefaultValue::Value("forever"),
        ValueForm::Duration,
        "How long events are kept: forever, or a duration such as 90d.",
    ),
    key(
        "retention.payloads",
        DefaultValue::Value("forever"),
        ValueForm::Duration,
        "How long a message is kept with its row (see decode.keep_payload): forever, which is \
         as long as the row, or a duration such as 30d. A million protobuf messages take \
         about 0.14 GB, a million JSON messages 0.45 GB.",
    ),
    key(
        "retention.partition",
        DefaultValue::Value("month"),
        ValueForm::Choice(&["day", "month"]),
        "Span of one partition of item_event, and so the granularity at which old events are \
         deleted: day or month.",
    ),
    key(
        "retention.archive_dir",
        DefaultValue::Off,
        ValueForm::Path,
        "Folder to which events past retention.events are written as compressed CSV before they \
         are deleted. What cannot be written is not deleted.",
    ),
    key(
        "admin.listen",
        DefaultValue::Value("127.0.0.1:9464"),
        ValueForm::Text,
        "Address and port of the admin endpoint (health, metrics, status page). On an address that \
         is not loopback, pages and /api need admin.token_file. An empty text turns it off.",
    ),
    key(
        "admin.token_file",
        DefaultValue::Off,
        ValueForm::Path,
        "File with the token that every path of the admin endpoint but /livez and /readyz needs, at \
         least 16 characters. Without it none is needed.",
    ),
    key(
        "log.format",
        DefaultValue::Value("text"),
        ValueForm::Choice(&["text", "json"]),
        "Format of a log line: text or json. Text has no timestamps under journald, which \
         adds its own.",
    ),
    key(
        "log.level",
        DefaultValue::Value("info"),
        ValueForm::Text,
        "Lowest level that is logged: error, warn, info, debug or trace, or directives such \
         as info,centiloc_bridge::store=debug.",
    ),
    key(
        "shutdown.grace",
        DefaultValue::Value("20s"),
        ValueForm::Duration,
        "How long a shutdown may take to commit and acknowledge received messages.",
    ),
];
