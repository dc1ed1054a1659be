//! Builds the section `mqtt`, the one whose keys depend on each other most.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::config::error::{InvalidValue, ValueOrigin};
use crate::config::keys::VENDOR_HOST;
use crate::config::model::{BackoffBounds, MqttConfig, ProxyConfig, SubscribedFormats, TlsConfig};
use crate::config::reader::SettingReader;
use crate::config::{urls, values};
use crate::event::{ByKind, EventKind};

/// Longest session: brokers keep sessions for hours to weeks, and a hundred years mean forever.
const LONGEST_SESSION: Duration = Duration::from_secs(100 * values::YEAR);
/// Smallest packet limit, bytes: below this not even a small event fits.
const LEAST_PACKET: u64 = 1024;
/// Largest packet, bytes: the largest remaining length (MQTT-2.2.3) and the fixed header before it.
const LARGEST_PACKET: u64 = 268_435_455 + 5;
/// Smallest memory limit, bytes: less would hold a few events and pause intake at every commit.
const LEAST_UNACKED: u64 = 1 << 20;
/// Largest memory limit, bytes: more than any machine has. It keeps sums of sizes from overflowing.
const LARGEST_UNACKED: u64 = 1 << 40;
/// Longest keep alive: CONNECT carries it as 16 bits of whole seconds.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(65_535);

const FORMATS: [(&str, SubscribedFormats); 4] = [
    ("protobuf", SubscribedFormats::Protobuf),
    ("json", SubscribedFormats::Json),
    ("both", SubscribedFormats::Both),
    ("off", SubscribedFormats::Off),
];

/// Builds the section. Returns `None` where problems were noted. Without a valid tenant, the keys
/// that depend on it are not checked: the problem of the tenant is enough.
pub(super) fn read_mqtt(reader: &mut SettingReader, tenant: Option<&str>) -> Option<MqttConfig> {
    let host = reader.read("mqtt.host", values::host);
    let port = reader.read("mqtt.port", |text| values::integer(text, 1..=u64::from(u16::MAX)));
    let client_id = read_client_id(reader, tenant);
    let credentials = read_login(reader, host.as_deref());
    let keep_alive = reader.read("mqtt.keep_alive", parse_keep_alive);
    let connect_timeout = reader.wait("mqtt.connect_timeout");
    let proxy = read_proxy(reader);
    let max_packet_size = reader
        .read("mqtt.max_packet_size", |text| values::size(text, LEAST_PACKET..=LARGEST_PACKET));
    let max_unacked =
        reader.read("mqtt.max_unacked", |text| values::size(text, LEAST_UNACKED..=LARGEST_UNACKED));
    let formats = read_formats(reader);
    let share_group = read_share_group(reader, tenant);
    let session_expiry = reader.read("mqtt.session_expiry", |text| {
        values::duration(text, &(Duration::from_secs(1)..=LONGEST_SESSION))
    });
    let queue_grace = reader.wait("mqtt.queue_grace");
    let tls = read_tls(reader, host.as_deref());
    let reconnect = read_backoff(reader);
    let BrokerLogin { username, password, password_file } = credentials?;
    Some(MqttConfig {
        host: host?,
        port: port?,
        client_id: client_id?,
        username,
        password,
        password_file,
        keep_alive: keep_alive?,
        connect_timeout: connect_timeout?,
        proxy: proxy?,
        max_packet_size: max_packet_size?,
        max_unacked: max_unacked?,
        formats: formats?,
        share_group: share_group?,
        session_expiry: session_expiry?,
        queue_grace: queue_grace?,
        tls: tls?,
        reconnect: reconnect?,
    })
}

pub(in crate::config) fn read_client_id(
    reader: &mut SettingReader,
    tenant: Option<&str>,
) -> Option<String> {
    let tenant = tenant?;
    let given = reader.optional("mqtt.client_id", |text| values::client_id(text, tenant))?;
    let client_id = given.unwrap_or_else(|| format!("{tenant}-bridge"));
    reader.show("mqtt.client_id", client_id.as_str());
    Some(client_id)
}

struct BrokerLogin {
    username: Option<String>,
    password: Option<SecretString>,
    password_file: Option<PathBuf>,
}

fn read_login(reader: &mut SettingReader, host: Option<&str>) -> Option<BrokerLogin> {
    let username = reader.optional("mqtt.username", values::mqtt_text);
    let password = reader.secret("mqtt.password", "mqtt.password_file", true);
    let (username, password) = (username?, password?);
    if let (None, Some(password)) = (&username, &password) {
        let invalid = InvalidValue::new(
            "mqtt.username as well (MQTT 3.1.1 forbids a password alone)",
            "set mqtt.username, or remove the password",
        );
        let found = "a password without a user name".to_owned();
        reader.problem(password.key, &password.origin, found, invalid);
        return None;
    }
    if host == Some(VENDOR_HOST) && password.is_none() {
        reader.warnings.push(format!(
            "{VENDOR_HOST} requires a user name and a password; set mqtt.username and \
             mqtt.password_file"
        ));
    }
    let password_file = password.as_ref().and_then(|password| password.file.clone());
    let password = password.and_then(|password| {
        reader.show_from("mqtt.password", urls::REDACTED, password.origin);
        (!password.unread).then(|| SecretString::from(password.text))
    });
    Some(BrokerLogin { username, password, password_file })
}

fn parse_keep_alive(text: &str) -> values::ParseResult<Duration> {
    let value = values::duration(text, &(Duration::from_secs(1)..=LONGEST_KEEP_ALIVE))?;
    if value.subsec_nanos() == 0 {
        return Ok(value);
    }
    Err(InvalidValue::new("whole seconds, from 1s to 65535s", "write \"60s\", for example"))
}

#[allow(clippy::option_option, reason = "outside: a problem was noted; inside: turned off")]
fn read_proxy(reader: &mut SettingReader) -> Option<Option<ProxyConfig>> {
    let proxy = reader.optional("mqtt.proxy", urls::proxy)?;
    if let Some(proxy) = &proxy {
        reader.show("mqtt.proxy", urls::proxy_shown(proxy));
    }
    Some(proxy)
}

fn read_formats(reader: &mut SettingReader) -> Option<ByKind<SubscribedFormats>> {
    let formats =
        ByKind::new(|kind| reader.read(kind.formats_key(), |text| values::choice(text, &FORMATS)));
    let formats = formats.complete()?;
    if formats.values().any(|formats| *formats != SubscribedFormats::Off) {
        return Some(formats);
    }
    let first = EventKind::ALL[0].formats_key();
    if let Some(given) = reader.given(first) {
        let invalid = InvalidValue::new(
            format!("at least one of {} on", EventKind::all_formats_keys()),
            "set one of them to protobuf, json or both: there is nothing to receive otherwise",
        );
        reader.problem(first, &given.origin, "off, like the others".to_owned(), invalid);
    }
    None
}

#[allow(clippy::option_option, reason = "outside: a problem was noted; inside: turned off")]
fn read_share_group(reader: &mut SettingReader, tenant: Option<&str>) -> Option<Option<String>> {
    let group = reader.optional("mqtt.share_group", values::topic_part)?;
    let tenant = tenant?;
    Some(group.map(|group| format!("{tenant}-{group}")))
}

#[allow(clippy::option_option, reason = "outside: a problem was noted; inside: turned off")]
fn read_tls(reader: &mut SettingReader, host: Option<&str>) -> Option<Option<TlsConfig>> {
    let enabled = reader.read("mqtt.tls.enabled", values::flag);
    let allow_plaintext = reader.read("mqtt.tls.allow_plaintext", values::flag);
    if enabled? {
        return read_tls_files(reader, host).map(Some);
    }
    let (allowed, host) = (allow_plaintext?, host?);
    if values::is_loopback(host) {
        return Some(None);
    }
    if allowed {
        reader.warnings.push(format!(
            "mqtt.tls.enabled is false: credentials and events travel readable to {host}; leave \
             mqtt.tls.enabled out if the broker speaks TLS"
        ));
        return Some(None);
    }
    let given = reader.given("mqtt.tls.enabled")?;
    let invalid = InvalidValue::new(
        format!("true, as {host} is not this machine"),
        "omit it, or set mqtt.tls.allow_plaintext = true to send credentials readable",
    );
    reader.refuse("mqtt.tls.enabled", &given, invalid);
    None
}

fn read_tls_files(reader: &mut SettingReader, host: Option<&str>) -> Option<TlsConfig> {
    let ca_file = reader.path("mqtt.tls.ca_file");
    let cert_file = reader.required_path("mqtt.tls.cert_file");
    let key_file = reader.required_path("mqtt.tls.key_file");
    let server_name = reader.optional("mqtt.tls.server_name", values::server_name)?;
    if server_name.is_none() {
        // Without this key, the host must be a name that a certificate can contain.
        let host = host?;
        reader.read("mqtt.host", values::server_name)?;
        reader.show("mqtt.tls.server_name", host);
    }
    Some(TlsConfig { ca_file: ca_file?, cert_file: cert_file?, key_file: key_file?, server_name })
}

fn read_backoff(reader: &mut SettingReader) -> Option<BackoffBounds> {
    let min = reader.wait("mqtt.reconnect.min");
    let max = reader.wait("mqtt.reconnect.max");
    let (min, max) = (min?, max?);
    if min <= max {
        return Some(BackoffBounds { min, max });
    }
    // The defaults are in order, so at least one of the two was given, and that one is reported.
    let (name, expected) = match reader.given("mqtt.reconnect.min") {
        Some(given) if given.origin != ValueOrigin::default() => {
            let most = humantime::format_duration(max);
            ("mqtt.reconnect.min", format!("at most mqtt.reconnect.max, {most}"))
        }
        _ => {
            let least = humantime::format_duration(min);
            ("mqtt.reconnect.max", format!("at least mqtt.reconnect.min, {least}"))
        }
    };
    let given = reader.given(name)?;
    let hint = "lower mqtt.reconnect.min or raise mqtt.reconnect.max";
    reader.refuse(name, &given, InvalidValue::new(expected, hint));
    None
}
