//! Finds the rows that the database refuses, when it has refused a batch: halves it under
//! savepoints until single rows are left. What is accepted stays in the transaction.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use super::fault::{Class, Fault};
use super::partitions::run;
use super::refusals::Refused;
use super::rows::{Chunk, Letter};
use super::write::{self, Written};

/// What became of the rows.
#[derive(Debug, Default)]
pub(super) struct Sorted<'a> {
    /// What the transaction now holds (or that existed).
    pub items: Written,
    pub boards: Written,
    /// The others, as dead letters.
    pub letters: Vec<Letter<'a>>,
    /// The same, for [`super::refusals::Refusals`].
    pub refused: Vec<Refused>,
}

impl Sorted<'_> {
    /// Rows that were accepted.
    pub fn accepted(&self) -> u64 {
        self.items.rows + self.boards.rows
    }
}

/// Writes what can be written of `chunk` within the open transaction. Errors of a class in
/// `culpable` blame the row; any other ends the attempt.
pub(super) async fn sort<'a>(
    conn: &mut PgConnection,
    limit: Duration,
    latest: OffsetDateTime,
    chunk: Chunk<'_, 'a>,
    culpable: &[Class],
    sorted: &mut Sorted<'a>,
) -> Result<(), Fault> {
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
                    Chunk::Items(_) => sorted.items += written,
                    Chunk::Boards(_) => sorted.boards += written,
                }
            }
            Err(fault) if culpable.contains(&fault.class) => {
                run(conn, limit, "rollback to part; release part".into()).await?;
                if let Some((message, id)) = chunk.single() {
                    sorted.refused.push(Refused { id, code: fault.sqlstate.clone() });
                    sorted.letters.push(Letter::refused(message, fault.text, fault.sqlstate));
                } else {
                    // The first half is written first, so that the first form of an event stays
                    // the first.
                    let [first, second] = chunk.halves();
                    stack.extend([second, first]);
                }
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}
