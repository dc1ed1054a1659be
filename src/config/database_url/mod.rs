//! `database.url`, parsed as libpq parses it, so that connection strings work as providers hand them
//! out. Parameters that have no effect here are refused by name. No text built here contains a secret.

mod parameters;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use self::parameters::UrlParameters;
use super::error::InvalidValue;
use super::urls::{REDACTED, percent_decoded};
use super::values::{self, ParseResult, is_loopback};

/// The port of a server whose port is not given.
const DEFAULT_PORT: u16 = 5432;

/// A `PostgreSQL` connection URL.
#[derive(Debug, Clone)]
pub struct DatabaseUrl {
    /// The servers, at least one, in the order in which they are tried.
    pub endpoints: Vec<DatabaseEndpoint>,
    /// The role, or `None` for the name of the operating system's user.
    pub user: Option<String>,
    /// The password of the role, if the URL has one.
    pub password: Option<SecretString>,
    /// The database, or `None` for the one named as the role.
    pub database: Option<String>,
    /// Verification and certificates of TLS.
    pub tls: DatabaseTls,
    /// Name of the connections in `pg_stat_activity`.
    pub application_name: Option<String>,
    /// Limit of one attempt at one address.
    pub connect_timeout: Option<Duration>,
    /// Settings of each session, name and value, in order.
    pub settings: Vec<(String, String)>,
    /// True if the server must accept writes.
    pub writable: bool,
    /// True if the endpoints are tried in a random order.
    pub shuffled: bool,
    /// Number of statements that stay prepared in a session.
    pub statement_cache: Option<usize>,
    /// The URL without its secrets, for messages.
    pub shown: String,
}

/// The location of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseEndpoint {
    /// Its name, address or socket folder.
    pub host: DatabaseHost,
    /// The address used in place of a lookup of the name (`hostaddr`).
    pub address: Option<IpAddr>,
    /// The TCP port, or the number in the name of the socket.
    pub port: u16,
}

/// The host part of a server location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseHost {
    /// No host is named: the socket in the usual folder, else localhost.
    Default,
    /// The folder that holds a unix socket.
    Socket(PathBuf),
    /// A name, or an address without brackets.
    Tcp(String),
}

/// The `sslmode` values, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named as PostgreSQL names them")]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    const ALL: [(&str, Self); 6] = [
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// The `sslrootcert` values: authorities trusted in addition to the built-in ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// No authority in addition.
    BuiltIn,
    /// The authorities of the operating system.
    System,
    /// The authorities of a PEM file.
    File(PathBuf),
}

/// Use of TLS on connections to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseTls {
    /// The degree of verification.
    pub mode: SslMode,
    /// Authorities trusted in addition (`sslrootcert`).
    pub root: RootCertificates,
    /// `sslcert` and `sslkey`, which are given together.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl DatabaseUrl {
    /// Parses a connection URL.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let parts = UrlParts::split(text.trim())?;
        let parameters = UrlParameters::read(parts.query)?;
        let endpoints = endpoints(&parts, &parameters)?;
        let decoded = |part: &str| percent_decoded(part).ok_or_else(invalid_url);
        let given = |part: Option<&str>| part.filter(|part| !part.is_empty()).map(decoded);
        let (user, password) = (given(parts.user), given(parts.password));
        let database = given(parts.database);
        let shown = shown(&parts, &parameters);
        let tls = parameters.tls()?;
        Ok(Self {
            endpoints,
            user: parameters.user.or(user.transpose()?),
            password: parameters.password.or(password.transpose()?).map(SecretString::from),
            database: parameters.database.or(database.transpose()?),
            tls,
            application_name: parameters.application_name.or(parameters.fallback_application_name),
            connect_timeout: parameters.connect_timeout,
            settings: parameters.settings,
            writable: parameters.writable,
            shuffled: parameters.shuffled,
            statement_cache: parameters.statement_cache,
            shown,
        })
    }

    /// Returns the TLS mode if a host is remote and the mode does not verify which host answers.
    pub(super) fn weak_tls(&self) -> Option<&'static str> {
        let elsewhere = |endpoint: &DatabaseEndpoint| match &endpoint.host {
            DatabaseHost::Tcp(name) => {
                !endpoint.address.map_or_else(|| is_loopback(name), |ip| ip.is_loopback())
            }
            DatabaseHost::Default | DatabaseHost::Socket(_) => false,
        };
        let weak = self.tls.mode != SslMode::VerifyFull && self.endpoints.iter().any(elsewhere);
        weak.then(|| self.tls.mode.as_str())
    }
}

/// The parts of the text, not decoded yet.
struct UrlParts<'t> {
    scheme: &'t str,
    user: Option<&'t str>,
    password: Option<&'t str>,
    hosts: &'t str,
    database: Option<&'t str>,
    query: &'t str,
}

impl<'t> UrlParts<'t> {
    fn split(text: &'t str) -> ParseResult<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid_url)?;
        let known = |name: &&str| scheme.eq_ignore_ascii_case(name);
        if !["postgres", "postgresql"].iter().any(known) || rest.contains('#') {
            return Err(invalid_url());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = match rest.split_once('/') {
            Some((authority, database)) => (authority, Some(database)),
            None => (rest, None),
        };
        // A password with a bare / or ? ends the host part early. Its rest, up to the @, would be
        // parsed as a database name, and shown.
        if query.contains('@') || database.is_some_and(|name| name.contains(['@', '/'])) {
            return Err(invalid_url());
        }
        let (user, password, hosts) = match authority.rsplit_once('@') {
            None => (None, None, authority),
            Some((who, hosts)) => match who.split_once(':') {
                Some((user, password)) => (Some(user), Some(password), hosts),
                None => (Some(who), None, hosts),
            },
        };
        Ok(Self { scheme, user, password, hosts, database, query })
    }
}

fn invalid_url() -> InvalidValue {
    InvalidValue::new(
        "postgres://user:password@host:port/name or postgres:///name?host=/run/postgresql",
        "percent-encode / ? # @ : % in the password (@ is %40, / is %2F, # is %23, ? is %3F, % is \
         %25); write jdbc: URLs and \"host=… user=…\" in this form",
    )
}

/// Pairs hosts, addresses and ports. Parameters take precedence over the host part.
fn endpoints(
    text: &UrlParts<'_>,
    parameters: &UrlParameters,
) -> ParseResult<Vec<DatabaseEndpoint>> {
    let mut hosts: Vec<(String, Option<u16>)> = Vec::new();
    for one in text.hosts.split(',') {
        hosts.push(host_and_port(one)?);
    }
    let ports: Vec<Option<u16>> = match &parameters.ports {
        Some(ports) => ports.clone(),
        None => hosts.iter().map(|(_, port)| *port).collect(),
    };
    let mut names: Vec<String> = match &parameters.hosts {
        Some(names) => names.clone(),
        None => hosts.into_iter().map(|(name, _)| name).collect(),
    };
    let addresses = parameters.addresses.clone().unwrap_or_default();
    let unnamed = names.iter().all(String::is_empty);
    if unnamed && addresses.len() > names.len() {
        names.resize(addresses.len(), String::new());
    }
    let counted = |count: usize| count <= 1 || count == names.len();
    if !counted(ports.len()) || !(addresses.is_empty() || addresses.len() == names.len()) {
        return Err(InvalidValue::new(
            "as many ports and hostaddr as hosts",
            "write one of each for each host, or one port for all",
        ));
    }
    let one = |(at, name): (usize, String)| {
        let port = ports.get(at).or(ports.first()).copied().flatten().unwrap_or(DEFAULT_PORT);
        let address = addresses.get(at).copied().flatten();
        let host = match address {
            Some(address) if name.is_empty() => DatabaseHost::Tcp(address.to_string()),
            _ => host(name)?,
        };
        Ok(DatabaseEndpoint { host, address, port })
    };
    names.into_iter().enumerate().map(one).collect()
}

fn host(name: String) -> ParseResult<DatabaseHost> {
    if name.is_empty() {
        return Ok(DatabaseHost::Default);
    }
    if name.starts_with('/') {
        return Ok(DatabaseHost::Socket(name.into()));
    }
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    values::host(bare).map(DatabaseHost::Tcp).map_err(|_| invalid_url())
}

fn host_and_port(text: &str) -> ParseResult<(String, Option<u16>)> {
    let end_of_name = text.rfind(']').map_or(0, |at| at + 1);
    let (name, port) = match text[end_of_name..].split_once(':') {
        Some((rest, port)) => (&text[..end_of_name + rest.len()], port),
        None => (text, ""),
    };
    let name = percent_decoded(name).ok_or_else(invalid_url)?;
    Ok((name, self::port(port)?))
}

fn port(text: &str) -> ParseResult<Option<u16>> {
    match text.parse() {
        Ok(0) | Err(_) if !text.is_empty() => Err(InvalidValue::new(
            "a port from 1 to 65535",
            "correct it; percent-encode / ? # @ : % in a password",
        )),
        Ok(port) => Ok(Some(port)),
        Err(_) => Ok(None),
    }
}

fn shown(parts: &UrlParts<'_>, parameters: &UrlParameters) -> String {
    let mut shown = format!("{}://{}", parts.scheme, parts.user.unwrap_or_default());
    if parts.password.is_some() {
        shown.push(':');
        shown.push_str(REDACTED);
    }
    if parts.user.is_some() {
        shown.push('@');
    }
    shown.push_str(parts.hosts);
    if let Some(database) = parts.database {
        shown.push('/');
        shown.push_str(database);
    }
    for (at, (name, value)) in parameters.shown.iter().enumerate() {
        let separator = if at == 0 { '?' } else { '&' };
        let value = value.as_deref().unwrap_or(REDACTED);
        // Unwrap safety: writing to a String never fails.
        let _ = write!(shown, "{separator}{name}={value}");
    }
    shown
}
