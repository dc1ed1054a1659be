//! Builds [`Config`] section by section. Every value of a section is read before any is used, so that
//! one load reports every problem.

mod mqtt;

pub(in crate::config) use mqtt::read_client_id;

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;

use crate::config::database_url::DatabaseUrl;
use crate::config::error::{InvalidValue, ValueOrigin};
use crate::config::model::{
    BatchConfig, Config, DatabaseConfig, DecodeConfig, KeepPayload, LogConfig, LogFormat,
    MqttConfig, PartitionSpan, RetentionConfig, SpoolConfig,
};
use crate::config::reader::{STATE, SettingReader};
use crate::config::secret::RawSecret;
use crate::config::values;

/// Shortest retention: the smallest partition is a day.
const LEAST_RETENTION: Duration = Duration::from_secs(86_400);
/// Longest retention: more means "forever". It keeps date arithmetic far from its limits.
const LONGEST_RETENTION: Duration = Duration::from_secs(1000 * values::YEAR);
/// Smallest spool: in a smaller one, a single large message fills it.
const LEAST_SPOOL: u64 = 1 << 20;
/// Largest spool: metrics and file offsets are signed 64-bit numbers.
const LARGEST_SPOOL: u64 = 1 << 62;
/// Largest batch: no more messages can be unacknowledged, because MQTT has no more packet ids.
const MAX_BATCH: u64 = 65_535;
/// Largest pool: the default of `PostgreSQL` is 100 for all clients together, and more than this is a
/// typing error.
const MAX_CONNECTIONS: u64 = 1000;

/// Builds the configuration. Returns `None` where problems were noted.
pub(super) fn build(reader: &mut SettingReader) -> Option<Config> {
    let tenant = reader.read("tenant", values::topic_part);
    let mqtt = mqtt::read_mqtt(reader, tenant.as_deref());
    let database = read_database(reader);
    let max_events = reader.read("batch.max_events", |text| values::integer(text, 1..=MAX_BATCH));
    let spool = read_spool(reader);
    let decode = read_decode(reader, mqtt.as_ref());
    let retention = read_retention(reader);
    let admin_token = read_admin_token(reader);
    let admin_listen = read_admin_listen(reader);
    let log = read_log(reader);
    let shutdown_grace = reader.wait("shutdown.grace");
    Some(Config {
        tenant: tenant?,
        mqtt: mqtt?,
        database: database?,
        batch: BatchConfig { max_events: max_events? },
        spool: spool?,
        decode: decode?,
        retention: retention?,
        admin_listen: admin_listen?,
        admin_token: admin_token?,
        log: log?,
        shutdown_grace: shutdown_grace?,
    })
}

fn read_database(reader: &mut SettingReader) -> Option<DatabaseConfig> {
    let url = reader.secret("database.url", "database.url_file", false);
    if let Some(None) = url {
        reader.missing("database.url");
    }
    let url = url.flatten().and_then(|secret| read_database_url(reader, secret));
    let max_connections =
        reader.read("database.max_connections", |text| values::integer(text, 1..=MAX_CONNECTIONS));
    let statement_timeout = reader.wait("database.statement_timeout");
    let migrate = reader.read("database.migrate", values::flag);
    let notify = reader.read("database.notify", values::flag);
    Some(DatabaseConfig {
        url: url?,
        max_connections: max_connections?,
        statement_timeout: statement_timeout?,
        migrate: migrate?,
        notify: notify?,
    })
}

fn read_database_url(reader: &mut SettingReader, secret: RawSecret) -> Option<SecretString> {
    match DatabaseUrl::parse(&secret.text) {
        Ok(url) => {
            if let Some(mode) = url.weak_tls() {
                reader.warnings.push(format!(
                    "{} ({}) has sslmode {mode} for a host that is not this machine: events and \
                     credentials may go to any server that answers; add sslmode=verify-full",
                    secret.key, secret.origin
                ));
            }
            reader.libpq_variables(&url);
            reader.show_from("database.url", url.shown, secret.origin);
            Some(SecretString::from(secret.text))
        }
        Err(invalid) => {
            let found = "something else (not shown, it may be secret)".to_owned();
            reader.problem(secret.key, &secret.origin, found, invalid);
            None
        }
    }
}

#[allow(clippy::option_option, reason = "outside: a problem was noted; inside: turned off")]
fn read_spool(reader: &mut SettingReader) -> Option<Option<SpoolConfig>> {
    let state = reader.state_folder().filter(|_| reader.is_default("spool.dir"));
    let dir = match state.map(|state| state.join("spool")) {
        Some(dir) => {
            let origin = ValueOrigin::named(STATE);
            reader.show_from("spool.dir", dir.to_string_lossy(), origin);
            Some(Some(dir))
        }
        None => reader.path("spool.dir"),
    };
    let max_size =
        reader.read("spool.max_size", |text| values::size(text, LEAST_SPOOL..=LARGEST_SPOOL));
    let (dir, max_size) = (dir?, max_size?);
    Some(dir.map(|dir| SpoolConfig { dir, max_size }))
}

fn read_decode(reader: &mut SettingReader, mqtt: Option<&MqttConfig>) -> Option<DecodeConfig> {
    const WORDS: [(&str, KeepPayload); 4] = [
        ("auto", KeepPayload::Auto),
        ("always", KeepPayload::Always),
        ("unknown", KeepPayload::Unknown),
        ("never", KeepPayload::Never),
    ];
    let proto_file = reader.path("decode.proto_file");
    let keep = reader.read("decode.keep_payload", |text| values::choice(text, &WORDS));
    let (proto_file, keep, mqtt) = (proto_file?, keep?, mqtt?);
    let assumed = proto_file.is_none() && mqtt.formats.values().any(|f| f.protobuf());
    if assumed {
        reader.warnings.push(
            "protobuf is subscribed to without decode.proto_file: the field numbers are an \
             assumption, see README; set decode.proto_file to the .proto Centiloc gave you"
                .to_owned(),
        );
    }
    let keep_payload = match (keep, assumed) {
        (KeepPayload::Auto, true) => resolve_keep_payload(reader, "always", KeepPayload::Always),
        (KeepPayload::Auto, false) => resolve_keep_payload(reader, "unknown", KeepPayload::Unknown),
        (explicit, _) => explicit,
    };
    Some(DecodeConfig { proto_file, keep_payload })
}

fn resolve_keep_payload(reader: &mut SettingReader, word: &str, keep: KeepPayload) -> KeepPayload {
    reader.show("decode.keep_payload", word);
    keep
}

fn read_retention(reader: &mut SettingReader) -> Option<RetentionConfig> {
    const SPANS: [(&str, PartitionSpan); 2] =
        [("day", PartitionSpan::Day), ("month", PartitionSpan::Month)];
    let forever_or_duration = |text: &str| {
        if text == "forever" {
            return Ok(None);
        }
        values::duration(text, &(LEAST_RETENTION..=LONGEST_RETENTION)).map(Some).map_err(
            |invalid| InvalidValue::new(format!("forever, or {}", invalid.expected), invalid.hint),
        )
    };
    let events = reader.read("retention.events", forever_or_duration);
    let payloads = reader.read("retention.payloads", forever_or_duration);
    let partition = reader.read("retention.partition", |text| values::choice(text, &SPANS));
    let archive_dir = reader.path("retention.archive_dir");
    Some(RetentionConfig {
        events: events?,
        payloads: payloads?,
        partition: partition?,
        archive_dir: archive_dir?,
    })
}

#[allow(clippy::option_option, reason = "outside: a problem was noted; inside: turned off")]
pub(super) fn read_admin_listen(reader: &mut SettingReader) -> Option<Option<SocketAddr>> {
    let listen = reader.optional("admin.listen", values::listen)?;
    let is_open = reader.given("admin.token_file").is_none();
    if let Some(address) = listen.filter(|address| is_open && !address.ip().is_loopback()) {
        reader.warnings.push(format!(
            "admin.listen is {address} without admin.token_file: everyone who can reach it can read \
             /metrics, and pages and /api answer this host only; set admin.token_file, or \
             keep admin.listen on 127.0.0.1"
        ));
    }
    Some(listen)
}

/// Fewest characters of a token, so that it cannot be guessed.
const LEAST_TOKEN: usize = 16;

#[allow(clippy::option_option, reason = "outside: a problem was noted; inside: not set")]
pub(super) fn read_admin_token(reader: &mut SettingReader) -> Option<Option<SecretString>> {
    let Some(secret) = reader.secret_file("admin.token_file", false)? else { return Some(None) };
    let is_usable =
        secret.text.len() >= LEAST_TOKEN && secret.text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_usable {
        let expected =
            format!("a token of at least {LEAST_TOKEN} printable ASCII characters without spaces");
        let hint = "write a random one into the file: openssl rand -hex 32";
        let invalid = InvalidValue::new(expected, hint);
        reader.problem(
            secret.key,
            &secret.origin,
            "another content of the file".to_owned(),
            invalid,
        );
        return None;
    }
    Some(Some(secret.text.into()))
}

fn read_log(reader: &mut SettingReader) -> Option<LogConfig> {
    const SHAPES: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = reader.read("log.format", |text| values::choice(text, &SHAPES));
    let level = reader.read("log.level", values::log_level);
    Some(LogConfig { format: format?, level: level? })
}
