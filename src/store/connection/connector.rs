//! Connections to PostgreSQL, with everything set that the rest relies on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::{limits, options};
use crate::config::{self, DatabaseEndpoint, DatabaseHost, DatabaseUrl};
use crate::race::SuspectAddresses;
use crate::store::connection::route::{self, AddressProbe};
use crate::store::error::{DbError, ErrorClass};
use crate::store::query::{Db, within};
use crate::store::text::literal;

/// Bound on DNS, TCP, TLS and authentication together. Shared by the hosts of `database.url`, so that
/// one that does not answer leaves time for the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The least share of a host.
const LEAST_SHARE: Duration = Duration::from_secs(3);

/// Default name of the connections in `pg_stat_activity`.
const APPLICATION_NAME: &str = "centiloc-bridge";

/// Margin of our time limit over `statement_timeout`: the server's own report, which is more precise,
/// should come first.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// An open transaction that goes on no longer is one whose client is gone. It must not hold locks.
const IDLE_IN_TRANSACTION: &str = "60s";

/// Gives the durability that an acknowledgement promises, whatever the role's defaults are.
const DURABLE: &str = "set_config('synchronous_commit', \
                       case current_setting('synchronous_commit') when 'off' then 'on' \
                       else current_setting('synchronous_commit') end, false)";

/// Location of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerLocation {
    /// On this machine, over a unix socket.
    Socket,
    /// On this machine, over TCP.
    Loopback(String),
    /// Elsewhere.
    Remote(String),
}

/// Opens connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::store) struct Connector {
    url: Arc<DatabaseUrl>,
    application_name: Arc<str>,
    /// Set after connecting, because poolers refuse most settings in the start-up packet.
    settings: Arc<[(String, String)]>,
    /// The endpoint that was reached last, which is tried first.
    preferred: Arc<AtomicUsize>,
    suspects: Arc<SuspectAddresses>,
    /// The number of connections that the service uses.
    needed: u32,
    /// Bound on one exchange with the server.
    pub answer_within: Duration,
}

impl Connector {
    /// Reads `database.url`. Opens nothing yet.
    pub fn new(config: &config::DatabaseConfig) -> Result<Self, DbError> {
        let url = DatabaseUrl::parse(config.url.expose_secret())
            .map_err(|why| DbError::stop(format!("database.url cannot be used: {why}")))?;
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
        let all = url.settings.iter().filter(|(name, _)| !is_ours(&settings, name)).cloned();
        let settings = all.chain(owned(settings)).collect();
        Ok(Self {
            application_name: url.application_name.as_deref().unwrap_or(APPLICATION_NAME).into(),
            settings,
            preferred: Arc::new(AtomicUsize::new(0)),
            suspects: Arc::default(),
            needed: limits::needed(config.max_connections),
            answer_within: config.statement_timeout + ANSWER_MARGIN,
            url: Arc::new(url),
        })
    }

    /// Returns the same link with further settings, which win.
    pub fn with_settings<const N: usize>(&self, settings: [(&str, &str); N]) -> Self {
        let kept = self.settings.iter().filter(|(name, _)| !is_ours(&settings, name));
        let settings = kept.cloned().chain(owned(settings)).collect();
        Self { settings, ..self.clone() }
    }

    /// Returns the same link under another application name.
    pub fn named(&self, application_name: &str) -> Self {
        Self { application_name: application_name.into(), ..self.clone() }
    }

    /// Returns the location of the server by the URL: of several, the first that is not on this machine.
    pub fn place(&self) -> ServerLocation {
        let places: Vec<_> = self.url.endpoints.iter().map(place_of).collect();
        let remote = places.iter().find(|place| matches!(place, ServerLocation::Remote(_)));
        remote.or(places.first()).cloned().unwrap_or(ServerLocation::Socket)
    }

    /// Tries every address by TCP, where there are several.
    pub async fn look_at_addresses(&self) -> Vec<AddressProbe> {
        route::look_at_all(&self.url, self.share()).await
    }

    /// Returns the number of connections that the service uses.
    pub fn needed(&self) -> u32 {
        self.needed
    }

    /// Bounds the attempts at all hosts.
    pub fn connect_within(&self) -> Duration {
        let hosts = u32::try_from(self.url.endpoints.len()).unwrap_or(u32::MAX);
        // One share for name and TCP, one for the rest.
        (self.share() * 2).saturating_mul(hosts)
    }

    /// Bounds the attempt at one host.
    fn share(&self) -> Duration {
        let hosts = u32::try_from(self.url.endpoints.len()).unwrap_or(u32::MAX).max(1);
        self.url.connect_timeout.unwrap_or((CONNECT_TIMEOUT / hosts).max(LEAST_SHARE))
    }

    /// Opens one connection, at the host reached last or the first that can be used after it.
    /// A refusal is returned unchanged and at once.
    pub async fn open(&self) -> Result<Db, DbError> {
        let endpoints = &self.url.endpoints;
        let mut order: Vec<usize> = (0..endpoints.len()).collect();
        if self.url.shuffled {
            order.shuffle(&mut rand::rng());
        } else {
            order.rotate_left(self.preferred.load(Ordering::Relaxed) % endpoints.len());
        }
        let mut errors = Vec::new();
        for at in order {
            match self.open_at(&endpoints[at]).await {
                Ok(db) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    tracing::debug!(server = address_of(&endpoints[at]), "connected to PostgreSQL");
                    return Ok(db);
                }
                // Other hosts would be asked with the same credentials.
                Err(error) if matches!(error.class, ErrorClass::Stop | ErrorClass::Unsuitable) => {
                    return Err(limits::explain(error, self.needed));
                }
                Err(error) => {
                    let server = address_of(&endpoints[at]);
                    tracing::debug!(server, %error, "could not connect to PostgreSQL");
                    errors.push((&endpoints[at], limits::explain(error, self.needed)));
                }
            }
        }
        Err(of_all(errors))
    }

    async fn open_at(&self, endpoint: &DatabaseEndpoint) -> Result<Db, DbError> {
        let found = route::find(&self.url, endpoint, &self.suspects, self.share()).await?;
        let name = &self.application_name;
        let options = options::options(&self.url, endpoint, found.route, name).await?;
        let connected = within(self.share(), PgConnection::connect_with(&options)).await;
        if let Some(address) = found.address {
            let works = !matches!(&connected, Err(error) if !error.is_answer());
            self.suspects.note(address, works);
        }
        let conn = connected.map_err(|error| at_address(error, found.address))?;
        let mut db = Db::new(conn, self.answer_within);
        identify(&mut db).await?;
        self.set_up(&mut db).await?;
        if self.url.writable || self.url.endpoints.len() > 1 {
            prove_writable(&mut db).await?;
        }
        Ok(db)
    }

    /// Applies the settings in one round trip, without a prepared statement.
    pub async fn set_up(&self, db: &mut Db) -> Result<(), DbError> {
        let set = |(name, value): &(String, String)| {
            format!("set_config({}, {}, false)", literal(name), literal(value))
        };
        let calls: Vec<_> = self.settings.iter().map(set).chain([DURABLE.to_owned()]).collect();
        db.execute(format!("select {}", calls.join(", "))).await
    }
}

/// Refuses a server that accepts no writes where there may be another that does.
async fn prove_writable(db: &mut Db) -> Result<(), DbError> {
    const SQL: &str = "
        select pg_is_in_recovery() or current_setting('transaction_read_only')::boolean
               as read_only";
    let row = db.query(|conn| sqlx::raw_sql(SQL).fetch_one(conn)).await?;
    if row.try_get("read_only")? {
        return Err(DbError::retry(
            "the server takes no writes (a standby, or default_transaction_read_only); name \
             the primary in database.url",
        ));
    }
    Ok(())
}

/// Refuses servers that only resemble PostgreSQL.
async fn identify(db: &mut Db) -> Result<(), DbError> {
    let version = sqlx::raw_sql("select version() as version");
    let version: String = db.query(|conn| version.fetch_one(conn)).await?.try_get("version")?;
    if version.contains("CockroachDB") {
        return Err(DbError::unsuitable(
            "the server is CockroachDB, whose advisory locks lock nothing, so that two \
             processes could receive at once; name a PostgreSQL server in database.url",
        ));
    }
    Ok(())
}

fn owned<const N: usize>(settings: [(&str, &str); N]) -> impl Iterator<Item = (String, String)> {
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter()
}

fn is_ours<const N: usize>(settings: &[(&str, &str); N], name: &str) -> bool {
    settings.iter().any(|(ours, _)| *ours == name)
}

fn place_of(endpoint: &DatabaseEndpoint) -> ServerLocation {
    let DatabaseHost::Tcp(name) = &endpoint.host else { return ServerLocation::Socket };
    let ip = endpoint.address.or(name.parse::<IpAddr>().ok());
    let loopback = name.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback());
    let address = address_of(endpoint);
    if loopback { ServerLocation::Loopback(address) } else { ServerLocation::Remote(address) }
}

/// Formats an endpoint for messages.
fn address_of(endpoint: &DatabaseEndpoint) -> String {
    match &endpoint.host {
        DatabaseHost::Default => format!("the default socket, port {}", endpoint.port),
        DatabaseHost::Socket(folder) => format!("{}/.s.PGSQL.{}", folder.display(), endpoint.port),
        DatabaseHost::Tcp(name) => match name.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, endpoint.port).to_string(),
            Err(_) => format!("{name}:{}", endpoint.port),
        },
    }
}

/// Names the address that was chosen among several.
fn at_address(error: DbError, address: Option<SocketAddr>) -> DbError {
    match address {
        Some(address) => DbError { text: format!("{address}: {}", error.text), ..error },
        None => error,
    }
}

/// Returns the only error, or all of them with the host of each.
fn of_all(mut errors: Vec<(&DatabaseEndpoint, DbError)>) -> DbError {
    if errors.len() == 1
        && let Some((_, error)) = errors.pop()
    {
        return error;
    }
    let each: Vec<_> =
        errors.iter().map(|(e, error)| format!("{}: {error}", address_of(e))).collect();
    let text = format!("no host of database.url can be used; {}", each.join("; "));
    match errors.into_iter().find(|(_, error)| error.is_answer()) {
        Some((_, error)) => DbError { text, ..error },
        None => DbError::retry(text),
    }
}
