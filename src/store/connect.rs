//! Connections to PostgreSQL, with everything set that the rest relies on.

use std::str::FromStr;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::fault::Fault;
use super::write::bounded;
use crate::config;

/// Bound on DNS, TCP, TLS and authentication together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than `statement_timeout` we wait ourselves: the server's own answer, which says
/// more, should come first.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// How long to wait for one of the pool's connections.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// An open transaction that goes on no longer is one whose client is gone; it must not hold locks.
const IDLE_IN_TRANSACTION: &str = "60s";

/// Gives the durability that an acknowledgement promises, whatever the role's defaults are.
const DURABLE: &str = "select set_config('synchronous_commit', 'on', false) \
                       where current_setting('synchronous_commit') = 'off'";

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
    /// Bound on one exchange with the server.
    pub answer_within: Duration,
}

impl Link {
    /// Reads `database.url`; opens nothing yet.
    pub fn new(config: &config::Database) -> Result<Self, Fault> {
        let options = PgConnectOptions::from_str(config.url.expose_secret())?;
        let statement_timeout = format!("{}ms", config.statement_timeout.as_millis());
        let options = options
            .application_name("centiloc-bridge")
            .options([
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
            ])
            .disable_statement_logging();
        Ok(Self { options, answer_within: config.statement_timeout + ANSWER_MARGIN })
    }

    /// The same under another application name and with further settings, which win.
    pub fn with_settings<const N: usize>(
        &self,
        application_name: &str,
        settings: [(&str, &str); N],
    ) -> Self {
        let options = self.options.clone().application_name(application_name).options(settings);
        Self { options, answer_within: self.answer_within }
    }

    /// Where the server is, as far as the URL tells.
    pub fn place(&self) -> Place {
        let host = self.options.get_host();
        if self.options.get_socket().is_some() || host.starts_with('/') {
            return Place::Socket;
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let address = format!("{host}:{}", self.options.get_port());
        if loopback { Place::Loopback(address) } else { Place::Remote(address) }
    }

    /// One connection of its own. Refusals come out as they are, at once.
    pub async fn open(&self) -> Result<PgConnection, Fault> {
        let connect = PgConnection::connect_with(&self.options);
        let mut conn = bounded(CONNECT_TIMEOUT, connect).await?;
        bounded(self.answer_within, sqlx::query(DURABLE).execute(&mut conn)).await?;
        Ok(conn)
    }

    /// One connection without a limit on statements, as a pool, which is what sqlx migrates with.
    pub fn for_migrations(&self) -> PgPool {
        let options = self.options.clone().options([("statement_timeout", "0")]);
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
        pool.connect_lazy_with(options)
    }

    /// A pool that opens connections when they are asked for.
    pub fn pool(&self, max_connections: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(max_connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(self.options.clone())
    }
}
