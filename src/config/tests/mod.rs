//! Tests of loading as a whole: files and environments in, configuration or problems out.

mod encodings;
mod leaks;
mod missing;
mod names;
mod secrets;
mod shipped;
mod state;

use std::path::Path;
use std::time::Duration;

use super::keys::{ConfigKey, DefaultValue, KEYS};
use super::*;
use crate::event::{ByKind, EventKind};

const MINIMAL: &str = "\
tenant = \"acme\"
[mqtt.tls]
cert_file = \"client.crt\"
key_file = \"client.key\"
[database]
url = \"postgres:///centiloc?host=/run/postgresql\"
";

fn load_text(text: &str, env: &[(&str, &str)]) -> Result<LoadedConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    load_in(folder.path(), text, env)
}

fn load_in(folder: &Path, text: &str, env: &[(&str, &str)]) -> Result<LoadedConfig, ConfigError> {
    let file = folder.join("config.toml");
    std::fs::write(&file, text).unwrap();
    load(Some(&file), vars(env))
}

fn vars(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads [`MINIMAL`] with one key set or replaced by the environment.
fn with(key: &str, value: &str) -> Result<LoadedConfig, ConfigError> {
    load_text(MINIMAL, &[(&keys::env_name(key), value)])
}

/// Returns the only problem of a refused configuration.
fn problem(result: Result<LoadedConfig, ConfigError>) -> String {
    let problems = result.unwrap_err();
    assert_eq!(problems.problems.len(), 1, "{problems}");
    problems.problems[0].to_string()
}

fn setting<'a>(loaded: &'a LoadedConfig, key: &str) -> (&'a str, &'a str) {
    let setting = loaded.settings.iter().find(|setting| setting.key == key).unwrap();
    (&setting.shown, setting.origin.as_str())
}

#[test]
fn the_smallest_configuration_loads_with_the_documented_defaults() {
    let config = load_text(MINIMAL, &[]).unwrap().config;
    assert_eq!((config.mqtt.host.as_str(), config.mqtt.port), ("mqtt-client.centiloc.com", 8883));
    assert_eq!(config.mqtt.client_id, "acme-bridge");
    assert!(config.mqtt.username.is_none() && config.mqtt.password.is_none());
    assert_eq!(config.mqtt.keep_alive, Duration::from_secs(60));
    assert_eq!(config.mqtt.connect_timeout, Duration::from_secs(30));
    assert_eq!((config.mqtt.max_packet_size, config.mqtt.max_unacked), (16 << 20, 64 << 20));
    assert_eq!(config.mqtt.formats, ByKind::new(|_| SubscribedFormats::Protobuf));
    assert!(config.mqtt.proxy.is_none() && config.mqtt.share_group.is_none());
    assert_eq!(config.mqtt.session_expiry, Duration::from_secs(7200));
    assert_eq!(config.mqtt.queue_grace, Duration::from_secs(10));
    assert_eq!(config.mqtt.reconnect.min, Duration::from_millis(500));
    assert_eq!(config.mqtt.reconnect.max, Duration::from_secs(60));
    assert_eq!(config.database.max_connections, 4);
    assert_eq!(config.database.statement_timeout, Duration::from_secs(30));
    assert!(config.database.migrate && config.spool.is_none());
    assert_eq!(config.batch.max_events, 1000);
    assert!(config.retention.events.is_none());
    assert_eq!(config.retention.partition, PartitionSpan::Month);
    assert_eq!(config.admin_listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Text, "info"));
    assert_eq!(config.shutdown_grace, Duration::from_secs(20));
}

#[test]
fn the_environment_alone_suffices() {
    let env = [
        ("CENTILOC_BRIDGE__TENANT", "acme"),
        ("CENTILOC_BRIDGE__MQTT__TLS__CERT_FILE", "client.crt"),
        ("CENTILOC_BRIDGE__MQTT__TLS__KEY_FILE", "/k/client.key"),
        ("CENTILOC_BRIDGE__DATABASE__URL", "postgres:///centiloc"),
    ];
    let loaded = load_from(Path::new("/nonexistent/config.toml"), false, vars(&env)).unwrap();
    let tls = loaded.config.mqtt.tls.as_ref().unwrap();
    assert_eq!(tls.cert_file, Path::new("/nonexistent/client.crt"));
    assert_eq!(tls.key_file, Path::new("/k/client.key"));
    assert_eq!(loaded.file, None);
    assert_eq!(setting(&loaded, "tenant"), ("\"acme\"", "CENTILOC_BRIDGE__TENANT"));
}

#[test]
fn an_absent_named_file_is_a_problem() {
    let text = problem(load(Some(Path::new("/nonexistent/my.toml")), vars(&[])));
    assert!(text.starts_with("/nonexistent/my.toml: ") && text.contains("after -c"), "{text}");
}

#[test]
fn broken_toml_names_the_line_unquoted() {
    let text = problem(load_text("tenant = \"acme\"\n[mqtt]\npassword = hunter2\n", &[]));
    assert!(text.contains("(config.toml:3)") && !text.contains("hunter2"), "{text}");
}

#[test]
fn problems_are_reported_together_with_their_origins() {
    let text = "\
tennant = \"acme\"
[mqtt]
port = \"8883\"
keep_alive = 60
items = \"prot\"
max_packet_size = \"2GiB\"
[mqtt.reconnect]
min = \"2m\"
[databse]
url = \"postgres://u:hunter2@db/x\"
";
    let env = [("CENTILOC_BRIDGE__MQTT__HOSTT", "x"), ("CENTILOC_BRIDGE__BATCH__MAX_EVENTS", "0")];
    let problems = load_text(text, &env).unwrap_err();
    let message = problems.to_string();
    for expected in [
        "tennant (config.toml:1): found an unknown key, expected a known one; did you mean tenant?",
        "mqtt.port (config.toml:3): found a text in quotes, expected a whole number; ",
        "mqtt.keep_alive (config.toml:4): found a bare number, expected a duration with a unit, in \
         quotes; add a unit, as in \"60s\" for seconds",
        "mqtt.items (config.toml:5): found \"prot\", expected one of protobuf, json, both, off; ",
        "mqtt.max_packet_size (config.toml:6): found \"2GiB\", expected a size from 1KiB to \
         268435460B; ",
        "mqtt.reconnect.min (config.toml:8): found \"2m\", expected at most mqtt.reconnect.max, \
         1m; ",
        "databse (config.toml:9): found an unknown section, expected a known one; did you mean \
         [database]?",
        "CENTILOC_BRIDGE__MQTT__HOSTT: found a variable that sets no known key, expected a known \
         one; did you mean CENTILOC_BRIDGE__MQTT__HOST, ",
        "batch.max_events (CENTILOC_BRIDGE__BATCH__MAX_EVENTS): found \"0\", expected a whole \
         number from 1 to 65535; ",
        "tenant: found nothing, expected a value such as \"acme\"; set it in ",
        "mqtt.tls.cert_file: found nothing, ",
        "mqtt.tls.key_file: found nothing, ",
        "database.url: found nothing, ",
    ] {
        assert!(message.contains(expected), "{expected}\nis not in\n{message}");
    }
    assert_eq!(problems.problems.len(), 13, "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn problems_follow_the_file_once_a_key() {
    let problems = load_text("[spool]\nmax_size = 5\n[log]\nlevle = 1\n[database]\nurl = 1", &[]);
    let list = problems.unwrap_err().problems;
    let subjects: Vec<_> = list.iter().map(|problem| problem.subject.as_str()).collect();
    let missing = ["tenant", "mqtt.tls.cert_file", "mqtt.tls.key_file"];
    let expected = [["spool.max_size", "log.levle", "database.url"], missing].concat();
    assert_eq!(subjects, expected);
}

#[test]
fn sections_and_values_cannot_stand_for_each_other() {
    let text = problem(load_text(&MINIMAL.replace("tenant", "mqtt.host.x = 1\ntenant"), &[]));
    assert!(text.starts_with("mqtt.host (config.toml:1): found a section"), "{text}");
    let text = problem(load_text(&format!("batch = 7\n{MINIMAL}"), &[]));
    assert!(text.contains("expected a section") && text.contains("[batch]"), "{text}");
    let text = problem(load_text(&format!("\"mqtt.host\" = \"x\"\n{MINIMAL}"), &[]));
    assert!(text.contains("unknown key") && text.contains("did you mean mqtt.host?"), "{text}");
}

#[test]
fn every_toml_notation_of_numbers_loads() {
    for port in ["8_883", "0x22b3", "+8883"] {
        let text = MINIMAL.replace("[mqtt.tls]", &format!("[mqtt]\nport = {port}\n[mqtt.tls]"));
        assert_eq!(load_text(&text, &[]).unwrap().config.mqtt.port, 8883, "{port}");
    }
}

#[test]
fn bounds_are_accepted_and_values_beyond_refused() {
    for (key, good, bad) in [
        ("mqtt.port", "65535", "0"),
        ("mqtt.keep_alive", "65535s", "65536s"),
        ("mqtt.keep_alive", "1s", "1500ms"),
        ("mqtt.connect_timeout", "1ms", "0s"),
        ("mqtt.reconnect.min", "60s", "0s"),
        ("mqtt.reconnect.max", "500ms", "499ms"),
        ("mqtt.reconnect.min", "60s", "61s"),
        ("mqtt.max_packet_size", "1KiB", "1023B"),
        ("mqtt.max_packet_size", "268435460B", "268435461B"),
        ("mqtt.max_unacked", "1MiB", "1023KiB"),
        ("mqtt.share_group", "night", "a/b"),
        ("mqtt.client_id", "acme-2", "bridge"),
        ("mqtt.username", "0012", "a\tb"),
        ("batch.max_events", "65535", "65536"),
        ("database.max_connections", "1", "0"),
        ("database.migrate", "false", "no"),
        ("spool.max_size", "1MiB", "1KiB"),
        ("retention.events", "90d", "1h"),
        ("retention.payloads", "30d", "1h"),
        ("retention.partition", "day", "year"),
        ("admin.listen", "[::1]:1", "localhost:1"),
        ("log.format", "json", "xml"),
        ("log.level", "debug,rumqttc=warn", "inof"),
        ("shutdown.grace", "1s", "0s"),
        ("tenant", "acme", "acme/x"),
        ("mqtt.host", "broker", ""),
        ("mqtt.tls.server_name", "broker.example.com", "a b"),
        ("decode.keep_payload", "never", "sometimes"),
    ] {
        assert!(with(key, good).is_ok(), "{key} = {good}: {:?}", with(key, good).err());
        let text = problem(with(key, bad));
        assert!(text.starts_with(key) && text.contains(&keys::env_name(key)), "{text}");
    }
}

#[test]
fn an_empty_text_turns_optional_keys_off() {
    let given = "\
[spool]
dir = \"s\"
[mqtt]
proxy = \"http://p:1\"
share_group = \"g\"
username = \"u\"
password = \"p\"
[mqtt.tls]";
    let text = MINIMAL.replace("[mqtt.tls]", given);
    let on = load_text(&text, &[]).unwrap().config;
    assert_eq!(on.mqtt.share_group.as_deref(), Some("acme-g"));
    assert!(on.spool.is_some() && on.mqtt.proxy.is_some() && on.mqtt.password.is_some());
    let off = load_text(
        &text,
        &[
            ("CENTILOC_BRIDGE__SPOOL__DIR", ""),
            ("CENTILOC_BRIDGE__MQTT__PROXY", ""),
            ("CENTILOC_BRIDGE__MQTT__SHARE_GROUP", ""),
            ("CENTILOC_BRIDGE__MQTT__USERNAME", ""),
            ("CENTILOC_BRIDGE__MQTT__PASSWORD", ""),
            ("CENTILOC_BRIDGE__ADMIN__LISTEN", ""),
            ("CENTILOC_BRIDGE__MQTT__CLIENT_ID", ""),
        ],
    );
    let off = off.unwrap().config;
    assert!(off.spool.is_none() && off.mqtt.proxy.is_none() && off.mqtt.share_group.is_none());
    assert!(off.mqtt.username.is_none() && off.mqtt.password.is_none());
    assert!(off.admin_listen.is_none());
    assert_eq!(off.mqtt.client_id, "acme-bridge");
}

#[test]
fn an_empty_required_key_counts_as_missing() {
    let text = problem(with("mqtt.tls.cert_file", ""));
    assert!(text.contains("(CENTILOC_BRIDGE__MQTT__TLS__CERT_FILE): found nothing"), "{text}");
    let text = problem(with("database.url", ""));
    assert!(text.starts_with("database.url") && text.contains("found nothing"), "{text}");
}

#[test]
fn plain_tcp_needs_loopback_or_explicit_permission() {
    let text = "\
tenant = \"acme\"
[mqtt]
host = \"HOST\"
tls = { enabled = false }
[database]
url = \"postgres:///x\"
";
    let local = load_text(&text.replace("HOST", "127.0.0.1"), &[]).unwrap();
    assert!(local.config.mqtt.tls.is_none());
    let refused = problem(load_text(&text.replace("HOST", "broker"), &[]));
    assert!(refused.contains("mqtt.tls.allow_plaintext = true"), "{refused}");
    let allow = [("CENTILOC_BRIDGE__MQTT__TLS__ALLOW_PLAINTEXT", "true")];
    let allowed = load_text(&text.replace("HOST", "broker"), &allow).unwrap();
    assert!(allowed.config.mqtt.tls.is_none());
    assert!(allowed.warnings.iter().any(|warning| warning.contains("travel readable")));
}

#[test]
fn nothing_to_subscribe_to_is_refused() {
    let names = EventKind::ALL.map(|kind| keys::env_name(kind.formats_key()));
    let env: Vec<_> = names.iter().map(|name| (name.as_str(), "off")).collect();
    let text = problem(load_text(MINIMAL, &env));
    assert!(text.starts_with("mqtt.items") && text.contains("mqtt.boards"), "{text}");
}

#[test]
fn keep_payload_auto_depends_on_the_schema() {
    let kept = |env: &[(&str, &str)]| load_text(MINIMAL, env).unwrap().config.decode.keep_payload;
    let names = EventKind::ALL.map(|kind| keys::env_name(kind.formats_key()));
    let formats = |first, others| {
        let all = std::iter::once(first).chain(std::iter::repeat(others));
        names.iter().map(String::as_str).zip(all).collect::<Vec<_>>()
    };
    assert_eq!(kept(&[]), KeepPayload::Always);
    assert_eq!(kept(&[("CENTILOC_BRIDGE__DECODE__PROTO_FILE", "x.proto")]), KeepPayload::Unknown);
    assert_eq!(kept(&formats("json", "off")), KeepPayload::Unknown);
    assert_eq!(kept(&formats("json", "both")), KeepPayload::Always);
    assert_eq!(kept(&[("CENTILOC_BRIDGE__DECODE__KEEP_PAYLOAD", "never")]), KeepPayload::Never);
}

#[test]
fn only_doubtful_settings_warn() {
    let warned = |key, value, words: &str| {
        let warnings = with(key, value).unwrap().warnings;
        warnings.iter().any(|warning| warning.contains(words))
    };
    assert!(warned("tenant", "acme", "the field numbers are an assumption, see README"));
    assert!(!warned("decode.proto_file", "x.proto", "assumption"));
    assert!(warned("tenant", "acme", "requires a user name and a password"));
    assert!(!warned("mqtt.host", "broker.example.com", "requires a user name"));
    assert!(warned("admin.listen", "0.0.0.0:9464", "without admin.token_file"));
    assert!(!warned("tenant", "acme", "admin.token_file"));
    assert!(warned("database.url", "postgres://u:p@db/x", "sslmode=verify-full"));
    assert!(!warned("tenant", "acme", "sslmode"));
}

#[test]
fn defaults_of_every_key_are_shown() {
    let loaded = load_text(MINIMAL, &[]).unwrap();
    assert_eq!(loaded.settings.len(), KEYS.len());
    for key in KEYS.iter() {
        let (shown, origin) = setting(&loaded, key.name);
        match (key.name, key.default) {
            ("mqtt.client_id", _) => assert_eq!(shown, "\"acme-bridge\""),
            ("mqtt.tls.server_name", _) => assert_eq!(shown, "\"mqtt-client.centiloc.com\""),
            ("decode.keep_payload", _) => assert_eq!(shown, "\"always\""),
            // In place of the file's name, MINIMAL gives the URL itself.
            ("database.url_file", _) => assert_eq!((shown, origin), ("\"\"", "default")),
            (_, DefaultValue::Required(_) | DefaultValue::RequiredUnlessFile(_)) => {
                assert!(origin.starts_with("config.toml:"));
            }
            _ => assert_eq!((shown, origin), (key.default_literal().as_str(), "default")),
        }
    }
}
