//! Proves that a connection is a session of its own. A pooler that shares server connections by
//! transaction or statement lends each statement another session, so that a session-level lock, a
//! setting or a prepared statement belongs to whoever comes next.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::store::batch::write::bounded;
use crate::store::error::DbError;
use crate::store::partitions::run;

/// What to do about a pooler of the wrong kind.
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
pub(in crate::store) async fn prove_sessions(
    a: &mut PgConnection,
    b: &mut PgConnection,
    limit: Duration,
) -> Result<(), DbError> {
    let (first, second) = (process(a, limit).await?, process(b, limit).await?);
    if first == second {
        return Err(shared_sessions("two connections have the same server process"));
    }
    for a_ends_first in [true, false] {
        for conn in [&mut *a, &mut *b] {
            run(conn, limit, "begin; select 1".into()).await?;
        }
        let order = if a_ends_first { [&mut *a, &mut *b] } else { [&mut *b, &mut *a] };
        for conn in order {
            run(conn, limit, "commit".into()).await?;
        }
        if process(a, limit).await? != first || process(b, limit).await? != second {
            return Err(shared_sessions("the server process changes between transactions"));
        }
    }
    Ok(())
}

/// The server process behind a connection.
pub(in crate::store) async fn process(
    conn: &mut PgConnection,
    limit: Duration,
) -> Result<i32, DbError> {
    let row = sqlx::raw_sql("select pg_backend_pid() as pid").fetch_one(conn);
    Ok(bounded(limit, row).await?.try_get("pid")?)
}
