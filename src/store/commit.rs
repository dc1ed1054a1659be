//! Makes a batch durable. The common batch, of one kind and with nothing wrong, is one statement
//! in one round trip; everything else is one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use super::Store;
use super::bisect::{self, Sorted};
use super::fault::{Class, Fault, StoreError};
use super::rows::{Chunk, Entry, Letter, Rows};
use super::transaction::{Conn, Transaction};
use super::write::{self, Written};

/// A batch that met an unknown code this often in a row is taken apart, to see whether one row
/// causes it. Fewer would take a passing trouble of the server for the row's.
const UNKNOWN_TRIES: u32 = 3;

/// What became of one kind of event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Rows that are new.
    pub inserted: u64,
    /// Events whose row existed, or that came twice in the batch.
    pub duplicates: u64,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Item events.
    pub items: Count,
    /// Board events.
    pub boards: Count,
    /// Messages set aside, by `reason`.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Item rows that went to the default partition.
    pub default_partition_rows: u64,
}

impl Outcome {
    /// Returns how many messages it accounts for, which is all of the batch.
    pub fn messages(&self) -> u64 {
        let events = |count: Count| count.inserted + count.duplicates;
        events(self.items) + events(self.boards) + self.dead_letters.values().sum::<u64>()
    }
}

impl Store {
    /// Writes the whole batch durably, or nothing of it. Rows that the database refuses become
    /// dead letters in the same transaction. May be repeated: keys come from the content.
    pub async fn commit(&self, batch: &[Entry]) -> Result<Outcome, StoreError> {
        let mut writer = self.writer.take().await?;
        let result = self.commit_checked(writer.conn(), batch).await;
        self.memory.committed(result.is_ok());
        writer.finish(result)
    }

    async fn commit_checked(&self, conn: &mut Conn<'_>, batch: &[Entry]) -> Result<Outcome, Fault> {
        if let Some(client_id) = self.memory.suspect() {
            self.advance_position(conn, &client_id).await?;
        }
        let latest = self.latest_plausible(conn).await?;
        self.commit_on(conn, &Rows::of(batch, latest)).await
    }

    async fn commit_on(&self, conn: &mut Conn<'_>, rows: &Rows<'_>) -> Result<Outcome, Fault> {
        self.make_partitions(conn, rows).await?;
        let mut result = self.write_whole(conn, rows).await;
        if matches!(&result, Err(fault) if fault.class == Class::NoPartition) {
            let restored = self.partitions.restore_default(conn, self.link.answer_within).await;
            self.partitions.forget();
            self.make_partitions(conn, rows).await?;
            result = self.write_whole(conn, rows).await;
            if matches!(&result, Err(fault) if fault.class == Class::NoPartition) {
                // Why there is none says more than that there is none.
                restored?;
            }
        }
        let outcome = match result {
            Ok(outcome) => {
                self.trouble().passed(rows.events());
                outcome
            }
            Err(fault) if fault.class == Class::SetAside => {
                self.write_sorted(conn, rows, &[Class::SetAside]).await?
            }
            Err(fault) if fault.class == Class::Unknown => {
                if self.trouble().unknown_again(&fault) < UNKNOWN_TRIES {
                    return Err(fault);
                }
                // After an error of no known meaning the connection itself is not trusted.
                *conn = self.link.open().await?.into();
                self.write_sorted(conn, rows, &[Class::SetAside, Class::Unknown]).await?
            }
            Err(fault) => return Err(fault),
        };
        self.look_again_if_misplaced(rows, &outcome);
        Ok(outcome)
    }

    pub(super) async fn make_partitions(
        &self,
        conn: &mut Conn<'_>,
        rows: &Rows<'_>,
    ) -> Result<(), Fault> {
        let momenta = rows.items.iter().map(|r| r.event.momentum);
        let now = self.later_clock(OffsetDateTime::now_utc());
        let missing = self.partitions.missing(momenta, now);
        self.partitions.ensure(conn, self.link.answer_within, missing).await
    }

    /// The batch as it is. One kind alone needs no transaction of ours.
    async fn write_whole(&self, conn: &mut Conn<'_>, rows: &Rows<'_>) -> Result<Outcome, Fault> {
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
        conn: &mut Conn<'_>,
        rows: &Rows<'_>,
        culpable: &[Class],
    ) -> Result<Outcome, Fault> {
        let limit = self.link.answer_within;
        let mut transaction = Transaction::begin(conn, limit).await?;
        let mut sorted = Sorted::default();
        let written = async {
            let conn = transaction.conn();
            let latest = rows.latest;
            bisect::sort(conn, limit, latest, Chunk::Items(&rows.items), culpable, &mut sorted)
                .await?;
            bisect::sort(conn, limit, latest, Chunk::Boards(&rows.boards), culpable, &mut sorted)
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
    fn judge(&self, sorted: &Sorted<'_>, culpable: &[Class]) -> Result<(), Fault> {
        let Some(example) = sorted.letters.first() else { return Ok(()) };
        if culpable.contains(&Class::Unknown) && sorted.accepted() == 0 {
            self.trouble().unknown_to_all();
            let fault = Fault::retry(example.detail.as_ref());
            let class = Class::Unknown;
            return Err(Fault { class, sqlstate: example.sqlstate.clone(), ..fault });
        }
        if self.trouble().refusals.blame_tables(sorted.accepted(), &sorted.refused) {
            let fault = Fault::stop(format!(
                "PostgreSQL refuses every event alike, so the tables must be at fault: {}; \
                 undo what was changed on schema centiloc",
                example.detail
            ));
            return Err(Fault { sqlstate: example.sqlstate.clone(), ..fault });
        }
        Ok(())
    }

    /// More rows in the default partition than are known to have no other: one was dropped behind
    /// our back.
    fn look_again_if_misplaced(&self, rows: &Rows<'_>, outcome: &Outcome) {
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
    rows: &Rows<'_>,
) -> Result<Outcome, Fault> {
    let mut items = Written::default();
    let mut boards = Written::default();
    if !rows.items.is_empty() {
        items = write::events(conn, limit, rows.latest, Chunk::Items(&rows.items)).await?;
    }
    if !rows.boards.is_empty() {
        boards = write::events(conn, limit, rows.latest, Chunk::Boards(&rows.boards)).await?;
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
    letters: &[&Letter<'_>],
) -> Result<(), Fault> {
    if letters.is_empty() {
        return Ok(());
    }
    write::letters(conn, limit, letters).await.map_err(|fault| match fault.class {
        Class::SetAside | Class::NoPartition => fault.taken_as(Class::Stop),
        _ => fault,
    })
}

fn outcome<'l, 'a: 'l>(
    items: Written,
    boards: Written,
    letters: impl Iterator<Item = &'l Letter<'a>>,
) -> Outcome {
    let count = |w: Written| Count { inserted: w.inserted, duplicates: w.rows - w.inserted };
    let mut dead_letters = BTreeMap::new();
    for letter in letters {
        *dead_letters.entry(letter.reason.as_str()).or_default() += 1;
    }
    let default_partition_rows = items.in_default;
    Outcome { items: count(items), boards: count(boards), dead_letters, default_partition_rows }
}
