//! The parameters after the `?` of `database.url`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::super::error::InvalidValue;
use super::super::urls::percent_decoded;
use super::super::values::ParseResult;
use super::{DatabaseTls, RootCertificates, SslMode, invalid_url, port};

/// The supported parameters, for messages.
const SUPPORTED: &str = "host, hostaddr, port, dbname, user, password, sslmode, sslrootcert, sslcert, \
    sslkey, application_name, connect_timeout, target_session_attrs, load_balance_hosts, \
    keepalives, keepalives_idle, keepalives_interval, keepalives_count, tcp_user_timeout, options, \
    statement-cache-capacity";

/// Parameters of libpq and of other drivers that are not supported, each with a hint. Messages name
/// no other parameter, because its name might be part of a password.
const REFUSED: [(&str, &str); 23] = [
    ("service", "write the service's settings into the URL"),
    ("passfile", "put the whole URL with its password into a file, as database.url_file"),
    ("sslcrl", "remove it; revocation lists are not used"),
    ("sslcrldir", "remove it; revocation lists are not used"),
    ("sslpassword", "remove it, and decrypt the key of sslkey"),
    ("sslcompression", "remove it; there is no compression"),
    ("ssl_max_protocol_version", "remove it"),
    ("sslsni", "remove it; the host's name is always sent"),
    ("requirepeer", "remove it"),
    ("require_auth", "remove it, and use sslmode=verify-full"),
    ("requiressl", "write sslmode=require, better verify-full"),
    ("krbsrvname", "remove it; GSSAPI is not supported"),
    ("gsslib", "remove it; GSSAPI is not supported"),
    ("gssdelegation", "remove it; GSSAPI is not supported"),
    ("replication", "remove it"),
    ("ssl", "write sslmode=verify-full"),
    ("pgbouncer", "remove it; PgBouncer with session pooling needs no setting"),
    ("connection_limit", "remove it, and set database.max_connections"),
    ("pool_timeout", "remove it"),
    ("schema", "remove it; the tables are in schema centiloc"),
    ("currentSchema", "remove it; the tables are in schema centiloc"),
    ("uselibpqcompat", "remove it"),
    ("sslaccept", "write sslmode=verify-full"),
];

/// The values of the parameters.
#[derive(Default)]
pub(super) struct UrlParameters {
    pub hosts: Option<Vec<String>>,
    pub addresses: Option<Vec<Option<IpAddr>>>,
    pub ports: Option<Vec<Option<u16>>>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub application_name: Option<String>,
    pub fallback_application_name: Option<String>,
    pub connect_timeout: Option<Duration>,
    pub settings: Vec<(String, String)>,
    pub writable: bool,
    pub shuffled: bool,
    pub statement_cache: Option<usize>,
    mode: Option<SslMode>,
    root: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    /// Each parameter with the value to show, or `None` for a secret value.
    pub shown: Vec<(String, Option<String>)>,
}

impl UrlParameters {
    pub fn read(query: &str) -> ParseResult<Self> {
        let mut parameters = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(unknown_parameter)?;
            let name = percent_decoded(name).ok_or_else(unknown_parameter)?;
            let value = percent_decoded(value).ok_or_else(invalid_url)?;
            parameters.apply(&name, &value)?;
            let hidden = matches!(&*name, "password" | "options") || name.starts_with("options[");
            parameters.shown.push((name, (!hidden).then_some(value)));
        }
        Ok(parameters)
    }

    fn apply(&mut self, name: &str, value: &str) -> ParseResult<()> {
        let text = || Some(value.to_owned());
        match name {
            "host" => self.hosts = Some(value.split(',').map(str::to_owned).collect()),
            "hostaddr" => self.addresses = Some(addresses(value)?),
            "port" => self.ports = Some(value.split(',').map(port).collect::<ParseResult<_>>()?),
            "dbname" => self.database = text(),
            "user" => self.user = text(),
            "password" => self.password = text(),
            "application_name" => self.application_name = text(),
            "fallback_application_name" => self.fallback_application_name = text(),
            "sslmode" | "ssl-mode" => self.mode = Some(mode(value)?),
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => self.root = text(),
            "sslcert" | "ssl-cert" => self.cert = text(),
            "sslkey" | "ssl-key" => self.key = text(),
            "connect_timeout" => self.connect_timeout = connect_timeout(value)?,
            "statement-cache-capacity" => {
                let capacity: u32 = number(name, value)?;
                self.statement_cache = usize::try_from(capacity).ok();
            }
            "options" => self.settings.extend(options(value)?),
            _ => return self.apply_other(name, value),
        }
        Ok(())
    }

    /// Applies a parameter of which only some values are supported.
    fn apply_other(&mut self, name: &str, value: &str) -> ParseResult<()> {
        if let Some(setting) = name.strip_prefix("options[").and_then(|n| n.strip_suffix(']')) {
            self.settings.push((setting.to_owned(), value.to_owned()));
            return Ok(());
        }
        match (name, value) {
            ("target_session_attrs", "read-write" | "primary") => self.writable = true,
            ("target_session_attrs", "any") => self.writable = false,
            ("load_balance_hosts", "random") => self.shuffled = true,
            ("load_balance_hosts", "disable") => self.shuffled = false,
            (
                "keepalives_idle" | "keepalives_interval" | "keepalives_count" | "tcp_user_timeout",
                _,
            ) => {
                let amount: u32 = number(name, value)?;
                self.settings.push((server_side(name), amount.to_string()));
            }
            // These values request the behaviour that is in place anyway.
            ("keepalives" | "sslsni", "1")
            | ("sslcompression" | "requiressl", "0")
            | ("channel_binding" | "gssencmode", "disable" | "prefer")
            | ("sslnegotiation", "postgres")
            | ("sslcertmode", "allow")
            | ("ssl_min_protocol_version", "" | "TLSv1" | "TLSv1.1" | "TLSv1.2")
            | ("client_encoding", "auto" | "UTF8" | "utf8" | "UTF-8" | "utf-8") => {}
            _ => return Err(unsupported_value(name)),
        }
        Ok(())
    }

    pub fn tls(&self) -> ParseResult<DatabaseTls> {
        let root = match self.root.as_deref() {
            None | Some("") => RootCertificates::BuiltIn,
            Some("system") => RootCertificates::System,
            Some(path) => RootCertificates::File(path.into()),
        };
        let mode = match (self.mode, &root) {
            (None, RootCertificates::System) => SslMode::VerifyFull,
            (Some(mode), RootCertificates::System) if mode != SslMode::VerifyFull => {
                return Err(InvalidValue::new(
                    "sslmode=verify-full with sslrootcert=system",
                    "the authorities of the system sign certificates for any host: write \
                     sslmode=verify-full, or leave sslmode out",
                ));
            }
            // As in libpq: a root certificate without verification would have no use.
            (Some(SslMode::Require), RootCertificates::File(_)) => SslMode::VerifyCa,
            (mode, _) => mode.unwrap_or(SslMode::Prefer),
        };
        let path =
            |text: &Option<String>| text.clone().filter(|t| !t.is_empty()).map(PathBuf::from);
        let client = match (path(&self.cert), path(&self.key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(InvalidValue::new("sslcert and sslkey together", "add the other one")),
        };
        Ok(DatabaseTls { mode, root, client })
    }
}

/// Returns the server's setting of the same effect. It keeps a connection through a firewall open,
/// and lets both ends detect its loss.
fn server_side(name: &str) -> String {
    if name == "tcp_user_timeout" { name.to_owned() } else { format!("tcp_{name}") }
}

fn addresses(value: &str) -> ParseResult<Vec<Option<IpAddr>>> {
    let invalid = || InvalidValue::new("IP addresses as hostaddr", "write names as host");
    let one = |text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| invalid()),
    };
    value.split(',').map(one).collect()
}

fn mode(value: &str) -> ParseResult<SslMode> {
    let known = SslMode::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
    known.map(|(_, mode)| *mode).ok_or_else(|| {
        let names = SslMode::ALL.map(|(name, _)| name).join(", ");
        InvalidValue::new(format!("an sslmode of {names}"), "correct what follows the ?")
    })
}

/// Parses the limit in seconds. Zero and negative numbers leave the limit to this program.
fn connect_timeout(value: &str) -> ParseResult<Option<Duration>> {
    // As in libpq: less is not enough for a name lookup and a handshake.
    const LEAST: u64 = 2;
    let seconds: i64 = number("connect_timeout", value)?;
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    Ok(seconds.map(|seconds| Duration::from_secs(seconds.max(LEAST))))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> ParseResult<T> {
    value.parse().map_err(|_| {
        InvalidValue::new(format!("a whole number as {name}"), "correct what follows the ?")
    })
}

/// Parses `-c name=value` and `--name=value`, separated by blanks. A backslash escapes the next
/// character.
fn options(value: &str) -> ParseResult<Vec<(String, String)>> {
    let invalid = || {
        InvalidValue::new(
            "options of the form -c name=value or --name=value",
            "remove other options from database.url (endpoint=… is not needed: the host's name is \
             sent with TLS)",
        )
    };
    let mut words = Vec::new();
    let (mut word, mut chars) = (String::new(), value.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_ascii_whitespace() => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") if word == "-c" => words.next().ok_or_else(invalid)?,
            Some(setting) => setting.to_owned(),
            None => return Err(invalid()),
        };
        let (name, value) = setting.split_once('=').ok_or_else(invalid)?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn unknown_parameter() -> InvalidValue {
    InvalidValue::new(
        format!("only the parameters {SUPPORTED}"),
        "correct or remove the others after the ? of the URL",
    )
}

fn unsupported_value(name: &str) -> InvalidValue {
    let hint = match name {
        "channel_binding" => {
            "the parameter channel_binding=require is not supported: remove it, and write \
             sslmode=verify-full, which prevents interception as well"
        }
        "target_session_attrs" => {
            "write target_session_attrs=read-write or leave it out: this service writes"
        }
        "keepalives" => "the parameter keepalives=0 is not supported: remove it",
        "load_balance_hosts" => "write load_balance_hosts=disable or random",
        "gssencmode" => "write gssencmode=disable or remove it: GSSAPI is not supported",
        "sslnegotiation" => "write sslnegotiation=postgres or remove it",
        "sslcertmode" => "write sslcertmode=allow or remove it",
        "ssl_min_protocol_version" => {
            "write ssl_min_protocol_version=TLSv1.2 or remove it; older versions are never used"
        }
        "client_encoding" => "write client_encoding=UTF8 or remove it",
        _ => {
            return match REFUSED.iter().find(|(known, _)| *known == name) {
                Some((known, hint)) => InvalidValue::new(
                    format!("a URL without the parameter {known}, which is not supported"),
                    *hint,
                ),
                None => unknown_parameter(),
            };
        }
    };
    InvalidValue::new("supported parameters", hint)
}
