//! Proves that a connection is a session of its own. A pooler that shares server connections by
//! transaction or statement lends each statement another session, so that a session-level lock, a
//! setting or a prepared statement belongs to the next client.

use sqlx::Row as _;

use crate::store::error::DbError;
use crate::store::query::Db;

/// Hint for an unsuitable pooler.
pub(in crate::store) const USE_SESSIONS: &str = "use session pooling for this service (PgBouncer: pool_mode = session), or name PostgreSQL \
     itself in database.url";

/// The refusal of such a pooler.
pub(in crate::store) fn shared_sessions(observed: &str) -> DbError {
    DbError::unsuitable(format!(
        "a connection pooler between here and PostgreSQL shares its server connections by \
         transaction ({observed}), so that the single-writer lock and prepared statements cannot \
         work; {USE_SESSIONS}"
    ))
}

/// Compares the server processes behind two connections: a pooler that shares them gives both the
/// same one, or swaps them once both have been in use at the same time. The swap is provoked in
/// either order, as poolers reuse the connection returned first or the one returned last. Runs
/// without prepared statements, which such a pooler may refuse.
pub(in crate::store) async fn prove_sessions(a: &mut Db, b: &mut Db) -> Result<(), DbError> {
    let (first, second) = (server_process(a).await?, server_process(b).await?);
    if first == second {
        return Err(shared_sessions("two connections have the same server process"));
    }
    for a_ends_first in [true, false] {
        for db in [&mut *a, &mut *b] {
            db.execute("begin; select 1").await?;
        }
        let order = if a_ends_first { [&mut *a, &mut *b] } else { [&mut *b, &mut *a] };
        for db in order {
            db.execute("commit").await?;
        }
        if server_process(a).await? != first || server_process(b).await? != second {
            return Err(shared_sessions("the server process changes between transactions"));
        }
    }
    Ok(())
}

/// Returns the id of the server process behind a connection.
pub(in crate::store) async fn server_process(db: &mut Db) -> Result<i32, DbError> {
    let query = sqlx::raw_sql("select pg_backend_pid() as pid");
    Ok(db.query(|conn| query.fetch_one(conn)).await?.try_get("pid")?)
}
