//! Finds the rows that the database refuses, when it has refused a batch: halves it under
//! savepoints until single rows are left. What is accepted stays in the transaction.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use crate::store::batch::refusals::RefusedRow;
use crate::store::batch::rows::{DeadLetter, EventRows};
use crate::store::batch::write::{self, RowCounts};
use crate::store::error::{DbError, ErrorClass};
use crate::store::partitions::run;

/// What became of the rows.
#[derive(Debug, Default)]
pub(in crate::store) struct BisectResult<'a> {
    /// What the transaction now holds (or that existed).
    pub items: RowCounts,
    pub boards: RowCounts,
    /// The others, as dead letters.
    pub letters: Vec<DeadLetter<'a>>,
    /// The same, for [`crate::store::batch::refusals::RefusalHistory`].
    pub refused: Vec<RefusedRow>,
}

impl BisectResult<'_> {
    /// Rows that were accepted.
    pub fn accepted(&self) -> u64 {
        self.items.rows + self.boards.rows
    }
}

/// Writes what can be written of `chunk` within the open transaction. Errors of a class in
/// `culpable` blame the row; any other ends the attempt.
pub(in crate::store) async fn sort<'a>(
    conn: &mut PgConnection,
    limit: Duration,
    latest: OffsetDateTime,
    chunk: EventRows<'_, 'a>,
    culpable: &[ErrorClass],
    sorted: &mut BisectResult<'a>,
) -> Result<(), DbError> {
    let mut stack = vec![chunk];
    while let Some(chunk) = stack.pop() {
        if chunk.len() == 0 {
            continue;
        }
        run(conn, limit, "savepoint part".into()).await?;
        match write::events(conn, limit, latest, chunk).await {
            Ok(written) => {
                run(conn, limit, "release part".into()).await?;
                match chunk {
                    EventRows::Items(_) => sorted.items += written,
                    EventRows::Boards(_) => sorted.boards += written,
                }
            }
            Err(error) if culpable.contains(&error.class) => {
                run(conn, limit, "rollback to part; release part".into()).await?;
                if let Some((message, id)) = chunk.single() {
                    sorted.refused.push(RefusedRow { id, code: error.sqlstate.clone() });
                    sorted.letters.push(DeadLetter::refused(message, error.text, error.sqlstate));
                } else {
                    // The first half is written first, so that the first form of an event stays
                    // the first.
                    let [first, second] = chunk.halves();
                    stack.extend([second, first]);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
