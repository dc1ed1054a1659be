//! Makes a batch durable. The common batch, of one kind and with nothing wrong, is one statement
//! in one round trip; everything else is one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use crate::store::Store;
use crate::store::batch::bisect::{self, BisectResult};
use crate::store::batch::rows::{BatchRows, DeadLetter, DecodedMessage, EventRows};
use crate::store::batch::write::{self, RowCounts};
use crate::store::error::{DbError, ErrorClass, StoreError};
use crate::store::query::{Db, Transaction};

/// A batch that met an unknown code this often in a row is taken apart, to see whether one row
/// causes it. Fewer would take a passing trouble of the server for the row's.
const UNKNOWN_TRIES: u32 = 3;

/// What became of one kind of event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindCount {
    /// Rows that are new.
    pub inserted: u64,
    /// Events whose row existed, or that came twice in the batch.
    pub duplicates: u64,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Item events.
    pub items: KindCount,
    /// Board events.
    pub boards: KindCount,
    /// Messages set aside, by `reason`.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Item rows that went to the default partition.
    pub default_partition_rows: u64,
}

impl CommitOutcome {
    /// Returns how many messages it accounts for, which is all of the batch.
    pub fn messages(&self) -> u64 {
        let events = |count: KindCount| count.inserted + count.duplicates;
        events(self.items) + events(self.boards) + self.dead_letters.values().sum::<u64>()
    }
}

impl Store {
    /// Writes the whole batch durably, or nothing of it. Rows that the database refuses become
    /// dead letters in the same transaction. May be repeated: keys come from the content.
    pub async fn commit(&self, batch: &[DecodedMessage]) -> Result<CommitOutcome, StoreError> {
        let mut writer = self.writer.take().await?;
        let result = self.commit_checked(writer.conn(), batch).await;
        self.memory.committed(result.is_ok());
        writer.finish(result)
    }

    async fn commit_checked(
        &self,
        conn: &mut Db<'_>,
        batch: &[DecodedMessage],
    ) -> Result<CommitOutcome, DbError> {
        if let Some(client_id) = self.memory.suspect() {
            self.advance_position(conn, &client_id).await?;
        }
        let latest = self.latest_plausible(conn).await?;
        self.commit_on(conn, &BatchRows::of(batch, latest)).await
    }

    async fn commit_on(
        &self,
        conn: &mut Db<'_>,
        rows: &BatchRows<'_>,
    ) -> Result<CommitOutcome, DbError> {
        self.make_partitions(conn, rows).await?;
        let mut result = self.write_whole(conn, rows).await;
        if matches!(&result, Err(error) if error.class == ErrorClass::NoPartition) {
            let restored = self.partitions.restore_default(conn, self.link.answer_within).await;
            self.partitions.forget();
            self.make_partitions(conn, rows).await?;
            result = self.write_whole(conn, rows).await;
            if matches!(&result, Err(error) if error.class == ErrorClass::NoPartition) {
                // Why there is none says more than that there is none.
                restored?;
            }
        }
        let outcome = match result {
            Ok(outcome) => {
                self.trouble().passed(rows.events());
                outcome
            }
            Err(error) if error.class == ErrorClass::SetAside => {
                self.write_sorted(conn, rows, &[ErrorClass::SetAside]).await?
            }
            Err(error) if error.class == ErrorClass::Unknown => {
                if self.trouble().unknown_again(&error) < UNKNOWN_TRIES {
                    return Err(error);
                }
                // After an error of no known meaning the connection itself is not trusted.
                *conn = self.link.open().await?.into();
                self.write_sorted(conn, rows, &[ErrorClass::SetAside, ErrorClass::Unknown]).await?
            }
            Err(error) => return Err(error),
        };
        self.look_again_if_misplaced(rows, &outcome);
        Ok(outcome)
    }

    pub(in crate::store) async fn make_partitions(
        &self,
        conn: &mut Db<'_>,
        rows: &BatchRows<'_>,
    ) -> Result<(), DbError> {
        let momenta = rows.items.iter().map(|r| r.event.momentum);
        let now = self.later_clock(OffsetDateTime::now_utc());
        let missing = self.partitions.missing(momenta, now);
        self.partitions.ensure(conn, self.link.answer_within, missing).await
    }

    /// The batch as it is. One kind alone needs no transaction of ours.
    async fn write_whole(
        &self,
        conn: &mut Db<'_>,
        rows: &BatchRows<'_>,
    ) -> Result<CommitOutcome, DbError> {
        let limit = self.link.answer_within;
        if rows.kinds() <= 1 {
            return write_all(conn, limit, rows).await;
        }
        let mut transaction = Transaction::begin(conn, limit).await?;
        let written = write_all(transaction.conn(), limit, rows).await;
        transaction.end(written).await
    }

    /// The batch without the rows that are at fault, which become dead letters.
    async fn write_sorted(
        &self,
        conn: &mut Db<'_>,
        rows: &BatchRows<'_>,
        culpable: &[ErrorClass],
    ) -> Result<CommitOutcome, DbError> {
        let limit = self.link.answer_within;
        let mut transaction = Transaction::begin(conn, limit).await?;
        let mut sorted = BisectResult::default();
        let written = async {
            let conn = transaction.conn();
            let latest = rows.latest;
            bisect::sort(conn, limit, latest, EventRows::Items(&rows.items), culpable, &mut sorted)
                .await?;
            bisect::sort(
                conn,
                limit,
                latest,
                EventRows::Boards(&rows.boards),
                culpable,
                &mut sorted,
            )
            .await?;
            self.judge(&sorted, culpable)?;
            let letters: Vec<_> = rows.letters.iter().chain(&sorted.letters).collect();
            write_letters(conn, limit, &letters).await?;
            Ok(outcome(sorted.items, sorted.boards, letters.into_iter()))
        }
        .await;
        let outcome = transaction.end(written).await?;
        self.trouble().sorted(&sorted);
        Ok(outcome)
    }

    /// Whether the rows are at fault, rather than the tables or the server.
    fn judge(&self, sorted: &BisectResult<'_>, culpable: &[ErrorClass]) -> Result<(), DbError> {
        let Some(example) = sorted.letters.first() else { return Ok(()) };
        if culpable.contains(&ErrorClass::Unknown) && sorted.accepted() == 0 {
            self.trouble().unknown_to_all();
            let error = DbError::retry(example.detail.as_ref());
            let class = ErrorClass::Unknown;
            return Err(DbError { class, sqlstate: example.sqlstate.clone(), ..error });
        }
        if self.trouble().refusals.blame_tables(sorted.accepted(), &sorted.refused) {
            let error = DbError::stop(format!(
                "PostgreSQL refuses every event alike, so the tables must be at fault: {}; \
                 undo what was changed on schema centiloc",
                example.detail
            ));
            return Err(DbError { sqlstate: example.sqlstate.clone(), ..error });
        }
        Ok(())
    }

    /// More rows in the default partition than are known to have no other: one was dropped behind
    /// our back.
    fn look_again_if_misplaced(&self, rows: &BatchRows<'_>, outcome: &CommitOutcome) {
        let momenta = rows.items.iter().map(|r| r.event.momentum);
        if outcome.default_partition_rows > 0
            && outcome.default_partition_rows > self.partitions.count_uncovered(momenta)
        {
            self.partitions.misplaced();
        }
    }
}

async fn write_all(
    conn: &mut PgConnection,
    limit: Duration,
    rows: &BatchRows<'_>,
) -> Result<CommitOutcome, DbError> {
    let mut items = RowCounts::default();
    let mut boards = RowCounts::default();
    if !rows.items.is_empty() {
        items = write::events(conn, limit, rows.latest, EventRows::Items(&rows.items)).await?;
    }
    if !rows.boards.is_empty() {
        boards = write::events(conn, limit, rows.latest, EventRows::Boards(&rows.boards)).await?;
    }
    let letters: Vec<_> = rows.letters.iter().collect();
    write_letters(conn, limit, &letters).await?;
    Ok(outcome(items, boards, rows.letters.iter()))
}

/// Dead letters are the last resort, and cleaned so that no row of them can be refused. If they
/// are all the same, the table is at fault.
async fn write_letters(
    conn: &mut PgConnection,
    limit: Duration,
    letters: &[&DeadLetter<'_>],
) -> Result<(), DbError> {
    if letters.is_empty() {
        return Ok(());
    }
    write::letters(conn, limit, letters).await.map_err(|error| match error.class {
        ErrorClass::SetAside | ErrorClass::NoPartition => error.with_class(ErrorClass::Stop),
        _ => error,
    })
}

fn outcome<'l, 'a: 'l>(
    items: RowCounts,
    boards: RowCounts,
    letters: impl Iterator<Item = &'l DeadLetter<'a>>,
) -> CommitOutcome {
    let count = |w: RowCounts| KindCount { inserted: w.inserted, duplicates: w.rows - w.inserted };
    let mut dead_letters = BTreeMap::new();
    for letter in letters {
        *dead_letters.entry(letter.reason.as_str()).or_default() += 1;
    }
    let default_partition_rows = items.in_default;
    CommitOutcome {
        items: count(items),
        boards: count(boards),
        dead_letters,
        default_partition_rows,
    }
}
