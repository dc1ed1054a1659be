//! Finds the way to a host of `database.url`: which of its addresses answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::config::{DatabaseEndpoint, DatabaseHost, DatabaseUrl, SslMode};
use crate::race::{
    self, EVERY, FIRST, FailedAttempt, RaceOutcome, RacePace, ReachedAddress, SuspectAddresses,
};
use crate::store::connection::relay;
use crate::store::error::DbError;

/// The way in which `sqlx` reaches the server.
#[derive(Debug)]
pub(in crate::store) enum ConnectRoute {
    /// By what the URL names.
    AsNamed,
    /// By an address instead of the name.
    Address(IpAddr),
    /// Through a socket in this folder, which leads to the address that answered.
    Relay(PathBuf),
}

/// A way, and the address it leads to where there was a choice.
#[derive(Debug)]
pub(in crate::store) struct FoundRoute {
    pub route: ConnectRoute,
    pub address: Option<SocketAddr>,
}

/// Finds the way to an endpoint.
pub(in crate::store) async fn find(
    url: &DatabaseUrl,
    endpoint: &DatabaseEndpoint,
    suspects: &SuspectAddresses,
    limit: Duration,
) -> Result<FoundRoute, DbError> {
    let as_named = FoundRoute { route: ConnectRoute::AsNamed, address: None };
    let DatabaseHost::Tcp(name) = &endpoint.host else { return Ok(as_named) };
    let deadline = Instant::now() + limit;
    let addresses = match endpoint.address {
        Some(ip) => vec![SocketAddr::new(ip, endpoint.port)],
        None => resolve(name, endpoint.port, deadline, limit).await?,
    };
    match addresses.as_slice() {
        [one] if endpoint.address.is_none() || !needs_name(url, name, *one) => Ok(FoundRoute {
            route: endpoint.address.map_or(ConnectRoute::AsNamed, ConnectRoute::Address),
            address: None,
        }),
        several => choose(url, name, several, suspects, deadline).await,
    }
}

/// Connects to the first address that answers.
async fn choose(
    url: &DatabaseUrl,
    name: &str,
    addresses: &[SocketAddr],
    suspects: &SuspectAddresses,
    deadline: Instant,
) -> Result<FoundRoute, DbError> {
    let order = suspects.order(addresses);
    let RaceOutcome { mut reached, failed } = race::connect_tcp(&order, FIRST, deadline).await;
    let Some(ReachedAddress { stream, address, .. }) = reached.pop() else {
        return Err(unreachable(name, &failed));
    };
    for FailedAttempt { address: dead, cause } in failed.iter().filter(|f| f.is_noteworthy()) {
        tracing::warn!(
            address = %dead,
            error = %cause,
            connected = %address,
            "an address of the database failed or answered late; using another one"
        );
    }
    let route = if needs_name(url, name, address) {
        let folder = relay::lead_to(stream, address.port());
        ConnectRoute::Relay(
            folder.map_err(|e| DbError::retry(format!("could not open a socket: {e}")))?,
        )
    } else {
        ConnectRoute::Address(address.ip())
    };
    Ok(FoundRoute { route, address: Some(address) })
}

/// Returns true if TLS needs the host's name: to verify it, or to send it to a server of several
/// hosts.
fn needs_name(url: &DatabaseUrl, name: &str, address: SocketAddr) -> bool {
    let local = address.ip().is_loopback() && url.tls.mode < SslMode::VerifyCa;
    url.tls.mode > SslMode::Allow && name.parse::<IpAddr>().is_err() && !local
}

fn unreachable(name: &str, failed: &[FailedAttempt]) -> DbError {
    let each: Vec<_> = failed.iter().map(ToString::to_string).collect();
    DbError::retry(format!(
        "could not reach PostgreSQL at {name}: {}; check that it runs and what database.url names",
        each.join(", ")
    ))
}

async fn resolve(
    name: &str,
    port: u16,
    deadline: Instant,
    limit: Duration,
) -> Result<Vec<SocketAddr>, DbError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let lookup = timeout_at(deadline, tokio::net::lookup_host((name, port))).await;
    let unanswered = |_| {
        let text = format!("no answer within {} s", limit.as_secs_f64());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    let addresses: Vec<_> = lookup
        .map_err(unanswered)
        .flatten()
        .map_err(|error| {
            DbError::retry(format!(
                "could not resolve the name {name} of the database: {error}; correct it in \
                 database.url, or look into DNS"
            ))
        })?
        .collect();
    Ok(addresses)
}

/// Result of a probe of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressProbe {
    /// The address.
    pub address: SocketAddr,
    /// The reason if it cannot be reached.
    pub problem: Option<String>,
}

/// Tries every address of every host. None where there is no choice.
pub(in crate::store) async fn look_at_all(url: &DatabaseUrl, limit: Duration) -> Vec<AddressProbe> {
    let deadline = Instant::now() + limit;
    let mut addresses = Vec::new();
    for endpoint in &url.endpoints {
        let DatabaseHost::Tcp(name) = &endpoint.host else { continue };
        addresses.extend(match endpoint.address {
            Some(ip) => vec![SocketAddr::new(ip, endpoint.port)],
            None => resolve(name, endpoint.port, deadline, limit).await.unwrap_or_default(),
        });
    }
    if addresses.len() < 2 {
        return Vec::new();
    }
    look_at(&race::order(&addresses, &[]), EVERY, deadline).await
}

async fn look_at(addresses: &[SocketAddr], pace: RacePace, deadline: Instant) -> Vec<AddressProbe> {
    let RaceOutcome { reached, failed } = race::connect_tcp(addresses, pace, deadline).await;
    let good = reached.into_iter().map(|one| AddressProbe { address: one.address, problem: None });
    let failed = failed.into_iter().filter(FailedAttempt::is_noteworthy);
    let bad = failed
        .map(|one| AddressProbe { address: one.address, problem: Some(one.cause.to_string()) });
    good.chain(bad).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, UnixStream};

    use super::*;
    use crate::session::credentials::tls::testing::BlackHole;

    const LONG: Duration = Duration::from_secs(30);

    fn url(query: &str) -> DatabaseUrl {
        DatabaseUrl::parse(&format!("postgres://db.example/x?{query}")).unwrap()
    }

    async fn listen(last: u8) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn chosen(
        query: &str,
        addresses: &[SocketAddr],
        suspects: &SuspectAddresses,
    ) -> FoundRoute {
        let deadline = Instant::now() + LONG;
        choose(&url(query), "db.example", addresses, suspects, deadline).await.unwrap()
    }

    #[tokio::test]
    async fn an_address_that_answers_nothing_is_passed_over() {
        let hole = BlackHole::on(2).await;
        let (listener, address) = listen(3).await;
        let addresses = [hole.address, address];
        let found = chosen("sslmode=verify-full", &addresses, &SuspectAddresses::default()).await;
        assert_eq!(found.address, Some(address));
        // What sqlx would do with the folder.
        let ConnectRoute::Relay(folder) = found.route else { panic!("{:?}", found.route) };
        let socket = format!("{}/.s.PGSQL.{}", folder.display(), address.port());
        let mut local = UnixStream::connect(socket).await.unwrap();
        let (mut remote, _) = listener.accept().await.unwrap();
        local.write_all(b"up").await.unwrap();
        let mut read = [0; 2];
        remote.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"up");
        drop(remote);
        assert_eq!(local.read(&mut read).await.unwrap(), 0, "a close is passed on");
    }

    #[tokio::test]
    async fn an_address_without_a_session_comes_last() {
        let ((_one, first), (_two, second)) = (listen(2).await, listen(3).await);
        let suspects = SuspectAddresses::default();
        let addresses = [first, second];
        let found = chosen("sslmode=disable", &addresses, &suspects).await;
        assert!(matches!(found.route, ConnectRoute::Address(ip) if ip == first.ip()), "{found:?}");
        suspects.note(first, false);
        let found = chosen("sslmode=disable", &addresses, &suspects).await;
        assert_eq!(found.address, Some(second));
        suspects.note(first, true);
        assert_eq!(chosen("sslmode=disable", &addresses, &suspects).await.address, Some(first));
    }

    #[tokio::test]
    async fn every_address_is_looked_at() {
        let hole = BlackHole::on(2).await;
        let (_listener, address) = listen(3).await;
        let looks = look_at(&[hole.address, address], EVERY, Instant::now() + LONG).await;
        let problems: Vec<_> = looks.iter().map(|l| (l.address, l.problem.is_some())).collect();
        assert_eq!(problems, [(address, false), (hole.address, true)]);
    }
}
