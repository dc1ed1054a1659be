//! Makes a batch durable. The common batch, of one kind and with nothing wrong, is one statement
//! in one round trip. Any other batch is one transaction.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::bisect::{BisectResult, bisect};
use super::rows::{BatchRows, DeadLetter, DecodedMessage};
use super::write::{self, RowCounts};
use crate::event::EventKind;
use crate::store::Store;
use crate::store::error::{DbError, ErrorClass, StoreError};
use crate::store::query::Db;

/// A batch that met an unknown code this often in a row is bisected, to see whether one row causes
/// it. With fewer tries a transient failure of the server would be attributed to the row.
const UNKNOWN_TRIES: u32 = 3;

/// The committed events of one kind, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindCount {
    /// Rows that are new.
    pub inserted: u64,
    /// Events whose row existed, or that came twice in the batch.
    pub duplicates: u64,
}

/// The messages of a committed batch, counted by their outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Events, by kind.
    pub events: BTreeMap<EventKind, KindCount>,
    /// Messages that became dead letters, by `reason`.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Event rows that went to the default partition.
    pub default_partition_rows: u64,
}

impl CommitOutcome {
    /// Returns the count of one kind.
    pub fn of(&self, kind: EventKind) -> KindCount {
        self.events.get(&kind).copied().unwrap_or_default()
    }

    /// Returns the number of messages accounted for, which is that of the whole batch.
    pub fn messages(&self) -> u64 {
        let events = self.events.values().map(|count| count.inserted + count.duplicates);
        events.sum::<u64>() + self.dead_letters.values().sum::<u64>()
    }
}

impl Store {
    /// Writes the whole batch durably, or nothing of it. Rows that the database refuses become
    /// dead letters in the same transaction. May be repeated: keys are derived from the content.
    pub async fn commit(&self, batch: &[DecodedMessage]) -> Result<CommitOutcome, StoreError> {
        let mut writer = self.writer.take().await?;
        let result = self.commit_checked(writer.db(), batch).await;
        self.position.committed(result.is_ok());
        if result.is_ok() {
            self.events_stored.notify_one();
        }
        writer.finish(result)
    }

    async fn commit_checked(
        &self,
        db: &mut Db,
        batch: &[DecodedMessage],
    ) -> Result<CommitOutcome, DbError> {
        if let Some(client_id) = self.position.suspect() {
            self.advance_position(db, &client_id).await?;
        }
        let latest = self.latest_plausible(db).await?;
        self.commit_on(db, &BatchRows::of(batch, latest)).await
    }

    async fn commit_on(&self, db: &mut Db, rows: &BatchRows<'_>) -> Result<CommitOutcome, DbError> {
        self.make_partitions(db, rows).await?;
        let mut result = write_whole(db, rows).await;
        if matches!(&result, Err(error) if error.class == ErrorClass::NoPartition) {
            let restored = self.partitions.restore_default(db).await;
            self.partitions.forget();
            self.make_partitions(db, rows).await?;
            result = write_whole(db, rows).await;
            if matches!(&result, Err(error) if error.class == ErrorClass::NoPartition) {
                // The reason why there is none is more useful than the fact.
                restored?;
            }
        }
        let outcome = match result {
            Ok(outcome) => {
                self.failures().record_success(rows.event_count());
                outcome
            }
            Err(error) if error.class == ErrorClass::SetAside => {
                self.write_bisected(db, rows, &[ErrorClass::SetAside]).await?
            }
            Err(error) if error.class == ErrorClass::Unknown => {
                if self.failures().record_unknown(&error) < UNKNOWN_TRIES {
                    return Err(error);
                }
                // After an error of unknown meaning the connection itself is not trusted.
                *db = self.connector.open().await?;
                self.write_bisected(db, rows, &[ErrorClass::SetAside, ErrorClass::Unknown]).await?
            }
            Err(error) => return Err(error),
        };
        self.refresh_if_misplaced(rows, &outcome);
        Ok(outcome)
    }

    /// Makes the partitions that the rows need.
    pub(in crate::store) async fn make_partitions(
        &self,
        db: &mut Db,
        rows: &BatchRows<'_>,
    ) -> Result<(), DbError> {
        let now = self.later_clock(OffsetDateTime::now_utc());
        let missing = self.partitions.missing(rows.partitioned_momenta(), now);
        self.partitions.ensure(db, missing).await
    }

    /// Writes the batch without the rows at fault, which become dead letters.
    async fn write_bisected(
        &self,
        db: &mut Db,
        rows: &BatchRows<'_>,
        culpable: &[ErrorClass],
    ) -> Result<CommitOutcome, DbError> {
        let mut result = BisectResult::default();
        let written = db.transaction(async |db| {
            for of_kind in rows.events() {
                bisect(db, rows.latest, of_kind, culpable, &mut result).await?;
            }
            self.check_systemic(&result, culpable)?;
            let letters: Vec<_> = rows.letters.iter().chain(&result.letters).collect();
            write_letters(db, &letters).await?;
            Ok(outcome(&result.written, letters.into_iter()))
        });
        let outcome = written.await?;
        self.failures().record_bisection(&result);
        Ok(outcome)
    }

    /// Fails if the tables or the server are at fault, rather than the rows.
    fn check_systemic(
        &self,
        result: &BisectResult<'_>,
        culpable: &[ErrorClass],
    ) -> Result<(), DbError> {
        let Some(example) = result.letters.first() else { return Ok(()) };
        if culpable.contains(&ErrorClass::Unknown) && result.accepted() == 0 {
            self.failures().forget_unknown();
            let error = DbError::retry(example.detail.as_ref());
            let class = ErrorClass::Unknown;
            return Err(DbError { class, sqlstate: example.sqlstate.clone(), ..error });
        }
        if self.failures().refusals.is_systemic(result.accepted(), &result.refused) {
            let error = DbError::stop(format!(
                "PostgreSQL refuses every event alike, so the tables must be at fault: {}; \
                 undo the last change to schema centiloc",
                example.detail
            ));
            return Err(DbError { sqlstate: example.sqlstate.clone(), ..error });
        }
        Ok(())
    }

    /// Has the partitions listed again if more rows went to the default partition than are known to
    /// have no other: one was dropped by someone else.
    fn refresh_if_misplaced(&self, rows: &BatchRows<'_>, outcome: &CommitOutcome) {
        if outcome.default_partition_rows > 0
            && outcome.default_partition_rows
                > self.partitions.count_uncovered(rows.partitioned_momenta())
        {
            self.partitions.misplaced();
        }
    }
}

/// Writes the batch unchanged. A single statement needs no transaction of ours.
async fn write_whole(db: &mut Db, rows: &BatchRows<'_>) -> Result<CommitOutcome, DbError> {
    if rows.statements() <= 1 {
        return write_all(db, rows).await;
    }
    db.transaction(async |db| write_all(db, rows).await).await
}

async fn write_all(db: &mut Db, rows: &BatchRows<'_>) -> Result<CommitOutcome, DbError> {
    let mut written = BTreeMap::new();
    for of_kind in rows.events() {
        written.insert(of_kind.kind, write::events(db, rows.latest, of_kind).await?);
    }
    let letters: Vec<_> = rows.letters.iter().collect();
    write_letters(db, &letters).await?;
    Ok(outcome(&written, rows.letters.iter()))
}

/// Writes dead letters. They are the last resort, and cleaned so that no row of them can be refused.
/// If the database refuses them all the same, the table is at fault.
async fn write_letters(db: &mut Db, letters: &[&DeadLetter<'_>]) -> Result<(), DbError> {
    if letters.is_empty() {
        return Ok(());
    }
    write::letters(db, letters).await.map_err(|error| match error.class {
        ErrorClass::SetAside | ErrorClass::NoPartition => error.with_class(ErrorClass::Stop),
        _ => error,
    })
}

fn outcome<'l, 'a: 'l>(
    written: &BTreeMap<EventKind, RowCounts>,
    letters: impl Iterator<Item = &'l DeadLetter<'a>>,
) -> CommitOutcome {
    let count = |w: &RowCounts| KindCount { inserted: w.inserted, duplicates: w.rows - w.inserted };
    let mut dead_letters = BTreeMap::new();
    for letter in letters {
        *dead_letters.entry(letter.reason.as_str()).or_default() += 1;
    }
    CommitOutcome {
        events: written.iter().map(|(kind, written)| (*kind, count(written))).collect(),
        dead_letters,
        default_partition_rows: written.values().map(|written| written.in_default).sum(),
    }
}
