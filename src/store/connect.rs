//! Connections to PostgreSQL, with everything set that the rest relies on.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _};

use super::fault::Fault;
use super::text::literal;
use super::write::bounded;
use crate::config;

/// Bound on DNS, TCP, TLS and authentication together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than `statement_timeout` we wait ourselves: the server's own answer, which says
/// more, should come first.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// An open transaction that goes on no longer is one whose client is gone; it must not hold locks.
const IDLE_IN_TRANSACTION: &str = "60s";

/// Gives the durability that an acknowledgement promises, whatever the role's defaults are.
const DURABLE: &str = "set_config('synchronous_commit', \
                       case current_setting('synchronous_commit') when 'off' then 'on' \
                       else current_setting('synchronous_commit') end, false)";

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine, over a unix socket.
    Socket,
    /// On this machine, over TCP.
    Loopback(String),
    /// Elsewhere.
    Remote(String),
}

/// How to connect. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Link {
    options: PgConnectOptions,
    /// Set after connecting, because poolers refuse most settings in the start-up packet.
    settings: Arc<[(String, String)]>,
    /// Bound on one exchange with the server.
    pub answer_within: Duration,
}

impl Link {
    /// Reads `database.url`; opens nothing yet.
    pub fn new(config: &config::Database) -> Result<Self, Fault> {
        let options = PgConnectOptions::from_str(config.url.expose_secret())?;
        let bare = bare_host(options.get_host()).to_owned();
        let options = options
            .host(&bare)
            .application_name("centiloc-bridge")
            .extra_float_digits(None)
            .disable_statement_logging();
        let statement_timeout = format!("{}ms", config.statement_timeout.as_millis());
        let settings = [
            ("search_path", "centiloc"),
            ("statement_timeout", &statement_timeout),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
            // `on conflict do nothing` must see what others committed meanwhile.
            ("default_transaction_isolation", "read committed"),
            // The statements are the same for years, and their plans do not depend on values.
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
            // The server notices within a minute that this host is gone.
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
        ];
        let answer_within = config.statement_timeout + ANSWER_MARGIN;
        Ok(Self { options, settings: owned(settings).collect(), answer_within })
    }

    /// Returns the same link with further settings, which win.
    pub fn with_settings<const N: usize>(&self, settings: [(&str, &str); N]) -> Self {
        let kept = self.settings.iter().filter(|(name, _)| settings.iter().all(|s| s.0 != name));
        let settings = kept.cloned().chain(owned(settings)).collect();
        Self { settings, ..self.clone() }
    }

    /// Returns the same link under another application name.
    pub fn named(&self, application_name: &str) -> Self {
        Self { options: self.options.clone().application_name(application_name), ..self.clone() }
    }

    /// Where the server is, as far as the URL tells.
    pub fn place(&self) -> Place {
        let host = self.options.get_host();
        if self.options.get_socket().is_some() || host.starts_with('/') {
            return Place::Socket;
        }
        let ip = host.parse::<std::net::IpAddr>();
        let loopback = host.eq_ignore_ascii_case("localhost")
            || ip.as_ref().is_ok_and(std::net::IpAddr::is_loopback);
        let port = self.options.get_port();
        let address = match ip {
            Ok(ip) => std::net::SocketAddr::new(ip, port).to_string(),
            Err(_) => format!("{host}:{port}"),
        };
        if loopback { Place::Loopback(address) } else { Place::Remote(address) }
    }

    /// Opens one connection. Refusals come out as they are, at once.
    pub async fn open(&self) -> Result<PgConnection, Fault> {
        let connect = PgConnection::connect_with(&self.options);
        let mut conn = bounded(CONNECT_TIMEOUT, connect).await?;
        self.identify(&mut conn).await?;
        self.set_up(&mut conn).await?;
        Ok(conn)
    }

    /// Refuses servers that only look like PostgreSQL.
    async fn identify(&self, conn: &mut PgConnection) -> Result<(), Fault> {
        let version = sqlx::raw_sql("select version() as version").fetch_one(conn);
        let version: String = bounded(self.answer_within, version).await?.try_get("version")?;
        if version.contains("CockroachDB") {
            return Err(Fault::unsuitable(
                "the server is CockroachDB, whose advisory locks lock nothing, so that two \
                 processes could receive at once; name a PostgreSQL server in database.url",
            ));
        }
        Ok(())
    }

    /// Applies the settings in one round trip, without a prepared statement.
    async fn set_up(&self, conn: &mut PgConnection) -> Result<(), Fault> {
        let set = |(name, value): &(String, String)| {
            format!("set_config({}, {}, false)", literal(name), literal(value))
        };
        let calls: Vec<_> = self.settings.iter().map(set).chain([DURABLE.to_owned()]).collect();
        // Safe: names and values are quoted.
        let sql = AssertSqlSafe(format!("select {}", calls.join(", ")));
        bounded(self.answer_within, sqlx::raw_sql(sql).execute(conn)).await.map(drop)
    }
}

fn owned<const N: usize>(settings: [(&str, &str); N]) -> impl Iterator<Item = (String, String)> {
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter()
}

/// Removes the brackets that a URL needs around an IPv6 address: the resolver takes none.
fn bare_host(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}
