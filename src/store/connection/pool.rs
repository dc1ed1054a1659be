//! The few connections of everything but the stream and the single-writer lock.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::progress::during;
use crate::store::batch::write::bounded;
use crate::store::connection::connector::Connector;
use crate::store::error::DbError;

/// Bounds the wait for a connection that others use.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds the look whether an idle connection still works.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens connections when they are needed, up to a number, and keeps them.
#[derive(Debug)]
pub(in crate::store) struct ConnectionPool {
    link: Connector,
    slots: Semaphore,
    /// Connections that came back in order.
    returned: AtomicU64,
    idle: Mutex<Vec<PgConnection>>,
}

impl ConnectionPool {
    pub fn new(link: Connector, size: usize) -> Self {
        let slots = Semaphore::new(size.max(1));
        Self { link, slots, returned: AtomicU64::new(0), idle: Mutex::default() }
    }

    /// Takes a connection that works: an idle one, or a new one. What the server answers to a new
    /// one comes out as it is, at once.
    pub async fn acquire(&self) -> Result<PooledConnection<'_>, DbError> {
        let returned = self.returned.load(Ordering::Relaxed);
        let slot = tokio::time::timeout(ACQUIRE_TIMEOUT, self.slots.acquire());
        let Ok(Ok(slot)) = during(ACQUIRE_TIMEOUT, slot).await else {
            return Err(none_free(self.returned.load(Ordering::Relaxed) > returned));
        };
        let conn = match self.idle_one().await {
            Some(conn) => conn,
            None => self.link.open().await?,
        };
        Ok(PooledConnection { pool: self, conn: Some(conn), spoilt: false, _slot: slot })
    }

    /// The idle connection used last that still answers. Those that do not are dropped.
    async fn idle_one(&self) -> Option<PgConnection> {
        loop {
            let mut conn = self.idle().pop()?;
            if bounded(PING_TIMEOUT, conn.ping()).await.is_ok() {
                return Some(conn);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        // Only ever pushed to and popped from.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No connection came free in time. Where others came back meanwhile, the server is well and more would
/// help; in an outage none does.
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

/// A connection out of the pool. Dropping it puts it back.
#[derive(Debug)]
pub(in crate::store) struct PooledConnection<'p> {
    pool: &'p ConnectionPool,
    /// Invariant: present until dropped.
    conn: Option<PgConnection>,
    spoilt: bool,
    _slot: SemaphorePermit<'p>,
}

impl PooledConnection<'_> {
    /// Closes the connection when it is dropped, instead of putting it back.
    pub fn close_on_drop(&mut self) {
        self.spoilt = true;
    }
}

impl Deref for PooledConnection<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        // Unwrap safety: see the invariant.
        self.conn.as_ref().expect("a pooled connection is present until dropped")
    }
}

impl DerefMut for PooledConnection<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        // Unwrap safety: see the invariant.
        self.conn.as_mut().expect("a pooled connection is present until dropped")
    }
}

impl Drop for PooledConnection<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take().filter(|_| !self.spoilt) {
            self.pool.idle().push(conn);
            self.pool.returned.fetch_add(1, Ordering::Relaxed);
        }
    }
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
