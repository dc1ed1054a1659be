//! The few connections for everything except the stream and the single-writer lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connector::Connector;
use crate::progress::during;
use crate::store::error::DbError;
use crate::store::query::{Db, within};

/// Bounds the wait for a connection that others use.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds the check that an idle connection still works.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens connections when they are needed, up to a number, and keeps them.
#[derive(Debug)]
pub(in crate::store) struct ConnectionPool {
    connector: Connector,
    slots: Arc<Semaphore>,
    returns: Arc<PoolReturns>,
}

/// Connections that came back, shared with those that are in use.
#[derive(Debug, Default)]
struct PoolReturns {
    /// Number of connections that came back reusable.
    count: AtomicU64,
    idle: Mutex<Vec<PgConnection>>,
}

impl PoolReturns {
    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        // The list is only pushed to and popped from, so a panic leaves it whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionPool {
    /// Returns an empty pool of at most `size` connections.
    pub fn new(connector: Connector, size: usize) -> Self {
        let slots = Arc::new(Semaphore::new(size.max(1)));
        Self { connector, slots, returns: Arc::default() }
    }

    /// Takes a connection that works: an idle one, or a new one. An error that the server reports
    /// for a new one is returned unchanged and at once.
    pub async fn acquire(&self) -> Result<Db, DbError> {
        let returned = self.returns.count.load(Ordering::Relaxed);
        let permit = tokio::time::timeout(ACQUIRE_TIMEOUT, Arc::clone(&self.slots).acquire_owned());
        let Ok(Ok(permit)) = during(ACQUIRE_TIMEOUT, permit).await else {
            return Err(none_free(self.returns.count.load(Ordering::Relaxed) > returned));
        };
        let conn = match self.idle_one().await {
            Some(conn) => conn,
            None => self.connector.open().await?.into_connection(),
        };
        let lease = PoolLease { returns: Arc::clone(&self.returns), _permit: permit };
        Ok(Db::leased(conn, self.connector.answer_within, lease))
    }

    /// Closes the connections that nobody uses.
    pub fn close_idle(&self) {
        self.returns.idle().clear();
    }

    /// Returns the idle connection used last that still answers. Those that do not are dropped.
    async fn idle_one(&self) -> Option<PgConnection> {
        loop {
            let mut conn = self.returns.idle().pop()?;
            if within(PING_TIMEOUT, conn.ping()).await.is_ok() {
                return Some(conn);
            }
        }
    }
}

/// A slot of the pool, held by a connection in use.
#[derive(Debug)]
pub(in crate::store) struct PoolLease {
    returns: Arc<PoolReturns>,
    _permit: OwnedSemaphorePermit,
}

impl PoolLease {
    /// Puts a reusable connection back.
    pub fn put_back(self, conn: PgConnection) {
        self.returns.idle().push(conn);
        self.returns.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Explains that no connection came free in time. If others came back meanwhile, the server works
/// and a larger pool would help. In an outage it would not.
fn none_free(others_came_back: bool) -> DbError {
    let seconds = ACQUIRE_TIMEOUT.as_secs();
    let because = if others_came_back {
        "statements are slow, or database.max_connections is too low"
    } else {
        "PostgreSQL has not answered the statements on any of them"
    };
    DbError::retry(format!(
        "no pooled connection to PostgreSQL came free within {seconds} s: {because}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_does_not_advise_more_connections() {
        assert!(none_free(true).text.contains("database.max_connections"));
        assert!(!none_free(false).text.contains("database.max_connections"));
    }
}
