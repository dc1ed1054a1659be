//! Connections in use, and transactions on them. A transaction ends by commit, by rollback or with
//! its connection: no connection is used again inside one.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::fault::{Class, Fault};
use super::partitions::run;
use super::pool::Pooled;

/// A connection in use. It is closed when dropped, unless [`Conn::finish`] found it reusable: a
/// future that is dropped half-way leaves a connection in an unknown state.
#[derive(Debug)]
pub(super) struct Conn<'p> {
    inner: Inner<'p>,
    in_transaction: bool,
    reusable: bool,
}

#[derive(Debug)]
enum Inner<'p> {
    Own(PgConnection),
    Pooled(Pooled<'p>),
}

impl From<PgConnection> for Conn<'_> {
    fn from(conn: PgConnection) -> Self {
        Self { inner: Inner::Own(conn), in_transaction: false, reusable: false }
    }
}

impl<'p> From<Pooled<'p>> for Conn<'p> {
    fn from(conn: Pooled<'p>) -> Self {
        Self { inner: Inner::Pooled(conn), in_transaction: false, reusable: false }
    }
}

impl Conn<'_> {
    /// Whether it may be used again after this result: it is in no transaction, and a failure lay
    /// in the statement.
    pub fn is_reusable_after<T>(&self, result: &Result<T, Fault>) -> bool {
        !self.in_transaction && result.as_ref().err().is_none_or(Fault::spares_connection)
    }

    fn parts(&mut self) -> (&mut PgConnection, &mut bool) {
        let conn = match &mut self.inner {
            Inner::Own(conn) => conn,
            Inner::Pooled(conn) => &mut **conn,
        };
        (conn, &mut self.in_transaction)
    }

    /// Ends its use: one of the pool goes back there if it may be used again.
    pub fn finish<T>(mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        self.reusable = self.is_reusable_after(&result);
        result
    }
}

impl Deref for Conn<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.inner {
            Inner::Own(conn) => conn,
            Inner::Pooled(conn) => conn,
        }
    }
}

impl DerefMut for Conn<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.parts().0
    }
}

impl Drop for Conn<'_> {
    fn drop(&mut self) {
        if let Inner::Pooled(conn) = &mut self.inner
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
    pub async fn begin(conn: &'c mut Conn<'_>, limit: Duration) -> Result<Self, Fault> {
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
    pub async fn end<T>(self, result: Result<T, Fault>) -> Result<T, Fault> {
        // After a failed statement COMMIT would report success and roll back; `select` refuses.
        let commit = "select 1; commit";
        let result = match result {
            Ok(value) => run(self.conn, self.limit, commit.into()).await.map(|()| value),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = result {
            return Err(self.roll_back(fault).await);
        }
        *self.open = false;
        result
    }

    /// Returns why. If even the rollback fails, the connection is of no more use.
    async fn roll_back(self, fault: Fault) -> Fault {
        if !fault.is_from_server() && !fault.spares_connection() {
            return fault;
        }
        match run(self.conn, self.limit, "rollback".into()).await {
            Ok(()) => {
                *self.open = false;
                fault
            }
            Err(worse) => worse.taken_as(Class::Retry),
        }
    }
}
