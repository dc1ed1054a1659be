//! Finds the rows that the database refuses, when it has refused a batch: halves it under
//! savepoints until single rows are left. The accepted rows stay in the transaction.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::refusals::RefusedRow;
use super::rows::{DeadLetter, EventRows};
use super::write::{self, RowCounts};
use crate::event::EventKind;
use crate::store::error::{DbError, ErrorClass};
use crate::store::query::Db;

/// The rows of a bisected batch, accepted or refused.
#[derive(Debug, Default)]
pub(in crate::store) struct BisectResult<'a> {
    /// Rows that the transaction now holds, or that existed.
    pub written: BTreeMap<EventKind, RowCounts>,
    /// The refused rows, as dead letters.
    pub letters: Vec<DeadLetter<'a>>,
    /// The refused rows, for [`super::refusals::RefusalHistory`].
    pub refused: Vec<RefusedRow>,
}

impl BisectResult<'_> {
    /// Counts the rows that were accepted.
    pub fn accepted(&self) -> u64 {
        self.written.values().map(|counts| counts.rows).sum()
    }
}

/// Writes the rows that can be written within the open transaction. An error of a class in
/// `culpable` is attributed to the row. Any other ends the attempt.
pub(in crate::store) async fn bisect<'a>(
    db: &mut Db,
    latest: OffsetDateTime,
    rows: EventRows<'_, 'a>,
    culpable: &[ErrorClass],
    result: &mut BisectResult<'a>,
) -> Result<(), DbError> {
    let mut stack = vec![rows];
    while let Some(rows) = stack.pop() {
        if rows.len() == 0 {
            continue;
        }
        db.execute("savepoint part").await?;
        match write::events(db, latest, rows).await {
            Ok(written) => {
                db.execute("release part").await?;
                *result.written.entry(rows.kind).or_default() += written;
            }
            Err(error) if culpable.contains(&error.class) => {
                db.execute("rollback to part; release part").await?;
                if let Some((message, id)) = rows.single() {
                    result.refused.push(RefusedRow { id, code: error.sqlstate.clone() });
                    result.letters.push(DeadLetter::refused(message, error.text, error.sqlstate));
                } else {
                    // The first half is written first, so that the first form of an event stays
                    // the first.
                    let [first, second] = rows.halves();
                    stack.extend([second, first]);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
