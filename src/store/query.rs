//! Connections in use, and transactions on them. A transaction ends by commit, by rollback or with
//! its connection: no connection is used again inside one.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::connection::pool::PooledConnection;
use super::error::{DbError, ErrorClass};
use super::partitions::run;

/// A connection in use. It is closed when dropped, unless [`Db::finish`] found it reusable: a
/// future that is dropped half-way leaves a connection in an unknown state.
#[derive(Debug)]
pub(super) struct Db<'p> {
    inner: DbInner<'p>,
    in_transaction: bool,
    reusable: bool,
}

#[derive(Debug)]
enum DbInner<'p> {
    Own(PgConnection),
    PooledConnection(PooledConnection<'p>),
}

impl From<PgConnection> for Db<'_> {
    fn from(conn: PgConnection) -> Self {
        Self { inner: DbInner::Own(conn), in_transaction: false, reusable: false }
    }
}

impl<'p> From<PooledConnection<'p>> for Db<'p> {
    fn from(conn: PooledConnection<'p>) -> Self {
        Self { inner: DbInner::PooledConnection(conn), in_transaction: false, reusable: false }
    }
}

impl Db<'_> {
    /// Whether it may be used again after this result: it is in no transaction, and a failure lay
    /// in the statement.
    pub fn is_reusable_after<T>(&self, result: &Result<T, DbError>) -> bool {
        !self.in_transaction && result.as_ref().err().is_none_or(DbError::leaves_connection_usable)
    }

    fn parts(&mut self) -> (&mut PgConnection, &mut bool) {
        let conn = match &mut self.inner {
            DbInner::Own(conn) => conn,
            DbInner::PooledConnection(conn) => &mut **conn,
        };
        (conn, &mut self.in_transaction)
    }

    /// Ends its use: one of the pool goes back there if it may be used again.
    pub fn finish<T>(mut self, result: Result<T, DbError>) -> Result<T, DbError> {
        self.reusable = self.is_reusable_after(&result);
        result
    }
}

impl Deref for Db<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.inner {
            DbInner::Own(conn) => conn,
            DbInner::PooledConnection(conn) => conn,
        }
    }
}

impl DerefMut for Db<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.parts().0
    }
}

impl Drop for Db<'_> {
    fn drop(&mut self) {
        if let DbInner::PooledConnection(conn) = &mut self.inner
            && !self.reusable
        {
            conn.close_on_drop();
        }
    }
}

/// An open transaction. Dropped before [`Transaction::end`], it ends with its connection.
#[derive(Debug)]
pub(super) struct Transaction<'c> {
    conn: &'c mut PgConnection,
    /// Of the connection in use: whether it is in one.
    open: &'c mut bool,
    limit: Duration,
}

impl<'c> Transaction<'c> {
    /// Begins one; each exchange with the server may take `limit`.
    pub async fn begin(conn: &'c mut Db<'_>, limit: Duration) -> Result<Self, DbError> {
        conn.in_transaction = true;
        let (conn, open) = conn.parts();
        run(conn, limit, "begin".into()).await?;
        Ok(Self { conn, open, limit })
    }

    /// The connection to run its statements on.
    pub fn conn(&mut self) -> &mut PgConnection {
        self.conn
    }

    /// Commits a success, and takes back a failure.
    pub async fn end<T>(self, result: Result<T, DbError>) -> Result<T, DbError> {
        // After a failed statement COMMIT would report success and roll back; `select` refuses.
        let commit = "select 1; commit";
        let result = match result {
            Ok(value) => run(self.conn, self.limit, commit.into()).await.map(|()| value),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            return Err(self.roll_back(error).await);
        }
        *self.open = false;
        result
    }

    /// Returns why. If even the rollback fails, the connection is of no more use.
    async fn roll_back(self, error: DbError) -> DbError {
        if !error.is_from_server() && !error.leaves_connection_usable() {
            return error;
        }
        match run(self.conn, self.limit, "rollback".into()).await {
            Ok(()) => {
                *self.open = false;
                error
            }
            Err(worse) => worse.with_class(ErrorClass::Retry),
        }
    }
}
