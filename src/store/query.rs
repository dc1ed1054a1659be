//! One connection in use: its statements, each within a time limit, and its transactions.
//!
//! A transaction ends by commit, by rollback or with its connection. No connection is used again
//! inside an open one.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::connection::pool::PoolLease;
use super::error::{DbError, ErrorClass};
use crate::progress::during;

/// A connection and the time limit of each exchange on it.
///
/// It is closed when dropped, unless [`Db::finish`] found it reusable: a future that is dropped
/// half-way leaves a connection in an unknown state.
#[derive(Debug)]
pub(super) struct Db {
    /// Invariant: present until dropped.
    conn: Option<PgConnection>,
    /// The place in the pool that the connection goes back to. `None` outside the pool.
    lease: Option<PoolLease>,
    timeout: Duration,
    in_transaction: bool,
    reusable: bool,
}

impl Db {
    /// Wraps a connection that belongs to no pool.
    pub fn new(conn: PgConnection, timeout: Duration) -> Self {
        Self { conn: Some(conn), lease: None, timeout, in_transaction: false, reusable: false }
    }

    /// Wraps a connection of the pool.
    pub fn leased(conn: PgConnection, timeout: Duration, lease: PoolLease) -> Self {
        let mut db = Self::new(conn, timeout);
        db.lease = Some(lease);
        db
    }

    /// Returns the same connection with another time limit.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns the connection itself, for exchanges that bring their own time limit.
    pub fn conn(&mut self) -> &mut PgConnection {
        // Unwrap safety: see the invariant.
        self.conn.as_mut().expect("a connection is present until dropped")
    }

    /// Takes the connection out.
    pub fn into_connection(mut self) -> PgConnection {
        // Unwrap safety: see the invariant.
        self.conn.take().expect("a connection is present until dropped")
    }

    /// Runs one exchange with the server. When it fails without an answer, the connection must not
    /// be used again, which [`Db::finish`] sees to.
    pub async fn query<'c, T, F>(
        &'c mut self,
        exchange: impl FnOnce(&'c mut PgConnection) -> F,
    ) -> Result<T, DbError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let timeout = self.timeout;
        within(timeout, exchange(self.conn())).await
    }

    /// Does the same as [`Db::query`] with a time limit of its own, for an exchange that takes long.
    pub async fn query_within<'c, T, F>(
        &'c mut self,
        timeout: Duration,
        exchange: impl FnOnce(&'c mut PgConnection) -> F,
    ) -> Result<T, DbError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        within(timeout, exchange(self.conn())).await
    }

    /// Runs statements without parameters. `sql` is made of constants, numbers, dates and names
    /// that the server quoted.
    pub async fn execute(&mut self, sql: impl Into<String>) -> Result<(), DbError> {
        let sql = sqlx::AssertSqlSafe(sql.into());
        self.query(|conn| sqlx::raw_sql(sql).execute(conn)).await.map(drop)
    }

    /// Runs `work` as one transaction: commits a success, rolls back a failure. If even the rollback
    /// fails, the connection is not reusable.
    pub async fn transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.in_transaction = true;
        self.execute("begin").await?;
        let result = work(self).await;
        // After a failed statement COMMIT would report success and roll back. `select` refuses.
        let ended = match result {
            Ok(value) => self.execute("select 1; commit").await.map(|()| value),
            Err(error) => Err(error),
        };
        match ended {
            Ok(value) => {
                self.in_transaction = false;
                Ok(value)
            }
            Err(error) => Err(self.roll_back(error).await),
        }
    }

    /// Returns `error`, or that of a rollback that failed too.
    async fn roll_back(&mut self, error: DbError) -> DbError {
        if !error.is_from_server() && !error.leaves_connection_usable() {
            return error;
        }
        match self.execute("rollback").await {
            Ok(()) => {
                self.in_transaction = false;
                error
            }
            Err(worse) => worse.with_class(ErrorClass::Retry),
        }
    }

    /// Returns true if the connection may be used again after this result: it is in no transaction,
    /// and a failure was that of the statement.
    pub fn is_reusable_after<T>(&self, result: &Result<T, DbError>) -> bool {
        !self.in_transaction && result.as_ref().err().is_none_or(DbError::leaves_connection_usable)
    }

    /// Ends the use of the connection: one of the pool goes back there if it may be used again.
    pub fn finish<T>(mut self, result: Result<T, DbError>) -> Result<T, DbError> {
        self.reusable = self.is_reusable_after(&result);
        result
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if let (Some(conn), Some(lease)) = (self.conn.take(), self.lease.take())
            && self.reusable
        {
            lease.put_back(conn);
        }
    }
}

/// Runs one exchange with the server under a time limit of ours: a half-open connection would hang
/// indefinitely.
pub(super) async fn within<T>(
    timeout: Duration,
    exchange: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DbError> {
    match during(timeout, tokio::time::timeout(timeout, exchange)).await {
        Ok(result) => result.map_err(DbError::from),
        Err(_) => Err(DbError::timed_out(timeout)),
    }
}
