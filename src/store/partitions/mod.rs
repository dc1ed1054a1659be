//! Makes the partitions of `item_event` that rows need. What is known to exist is remembered, so
//! that the hot path asks nothing; rows that land in the default partition without being expected
//! there make us look again.

mod catalog;
mod make;
mod moving;
mod span;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

pub(super) use self::catalog::{ListedPartition, default_partition, list};
pub(super) use self::make::{LOCK, become_maker};
use self::make::{MakeAttempt, make};
use self::moving::GrowingPartition;
pub(super) use self::moving::{MoveProgress, STEP_ANSWER};
pub use self::upkeep::UpkeepOutcome;
pub(super) use self::upkeep::pause;
use super::batch::write::bounded;
use super::error::DbError;
use super::partitions::span::{PartitionRange, is_plausible, range_to_make};
use super::query::{Db, Transaction};
use crate::config::PartitionSpan;

/// After a partition could not be made, its rows go to the default partition for this long.
const DEFERRED_FOR: Duration = Duration::from_secs(60);

/// The partitions as last seen.
#[derive(Debug)]
pub(super) struct PartitionManager {
    span: PartitionSpan,
    known: Mutex<KnownPartitions>,
}

#[derive(Debug, Default)]
struct KnownPartitions {
    /// Bounds of those that take rows.
    ranges: Vec<PartitionRange>,
    /// Bounds of those that are being detached: they take none, and no other can be made there.
    blocked: Vec<PartitionRange>,
    /// Ranges that could not be made.
    deferred: Vec<DeferredRange>,
    /// Whether maintenance has something to do that it does not know of.
    wanted: bool,
    growing: Option<GrowingPartition>,
}

#[derive(Debug)]
struct DeferredRange {
    range: PartitionRange,
    /// When to try again.
    until: Instant,
    reason: String,
}

impl KnownPartitions {
    fn covers(&self, momentum: OffsetDateTime) -> bool {
        self.ranges.iter().any(|r| r.contains(momentum))
    }

    /// Whether no partition lies in a range, as far as they were looked up.
    fn leave_whole(&self, range: &PartitionRange) -> bool {
        !self.ranges.is_empty() && !self.ranges.iter().any(|r| r.overlaps(range))
    }

    fn is_deferred(&self, momentum: OffsetDateTime, now: Instant) -> bool {
        self.deferred.iter().any(|d| now < d.until && d.range.contains(momentum))
    }

    fn refresh(&mut self, listed: Vec<ListedPartition>) {
        let (routable, blocked): (Vec<_>, Vec<_>) = listed.into_iter().partition(|n| n.routable);
        self.ranges = routable.into_iter().map(|named| named.range).collect();
        self.blocked = blocked.into_iter().map(|named| named.range).collect();
    }

    /// Notes a partition that was made, or that grew.
    fn made(&mut self, range: PartitionRange, table: Option<&str>) {
        self.deferred.retain(|d| !range.covers(&d.range));
        if let Some(known) = self.ranges.iter_mut().find(|known| known.from == range.from) {
            *known = range;
        } else {
            self.ranges.push(range);
            tracing::info!(partition = table, "made a partition");
        }
    }

    /// True if this is a new reason for this range.
    fn defer(&mut self, range: PartitionRange, reason: &str) -> bool {
        let until = Instant::now() + DEFERRED_FOR;
        if let Some(known) = self.deferred.iter_mut().find(|d| d.range == range) {
            known.until = until;
            let is_new = known.reason != reason;
            reason.clone_into(&mut known.reason);
            return is_new;
        }
        self.deferred.push(DeferredRange { range, until, reason: reason.to_owned() });
        self.wanted = true;
        true
    }
}

impl PartitionManager {
    pub fn new(span: PartitionSpan) -> Self {
        Self { span, known: Mutex::default() }
    }

    /// The configured span of one partition.
    pub fn span(&self) -> PartitionSpan {
        self.span
    }

    /// Looks again before the next batch.
    pub fn forget(&self) {
        self.known().ranges.clear();
    }

    /// Looks again before the next batch, and has maintenance move what is misplaced.
    pub fn misplaced(&self) {
        self.forget();
        self.known().wanted = true;
    }

    /// Whether maintenance has something to do that has come up since it was asked last.
    pub fn take_wanted(&self) -> bool {
        std::mem::take(&mut self.known().wanted)
    }

    /// How many of these momenta no partition is known for.
    pub fn count_uncovered(&self, momenta: impl Iterator<Item = OffsetDateTime>) -> u64 {
        let known = self.known();
        momenta.filter(|momentum| !known.covers(*momentum)).count() as u64
    }

    /// Makes partitions for the momenta that [`Self::missing`] found. A partition that cannot be made
    /// is no failure: the default partition takes its rows, and maintenance moves them later. Fails
    /// only if the server does not answer.
    pub async fn ensure(
        &self,
        conn: &mut Db<'_>,
        limit: Duration,
        missing: BTreeSet<OffsetDateTime>,
    ) -> Result<(), DbError> {
        if missing.is_empty() {
            return Ok(());
        }
        let mut busy = match list(conn, limit).await {
            Ok(listed) => {
                self.known().refresh(listed);
                None
            }
            Err(error) if error.is_from_server() => Some(error),
            Err(error) => return Err(error),
        };
        for momentum in missing {
            let Some(range) = self.next_range(momentum) else { continue };
            let attempt = match &busy {
                Some(error) => Err(error.clone()),
                None => make(conn, limit, range).await,
            };
            match attempt {
                Ok(MakeAttempt::Made) => self.known().made(range, Some(&range.table())),
                Ok(MakeAttempt::Exists(listed)) => self.known().refresh(listed),
                Ok(MakeAttempt::Left(reason)) => self.defer(range, reason),
                Err(error) if error.is_from_server() => {
                    self.defer(range, &error.text);
                    // A reader that holds one up holds up the next: the batch must not wait for each.
                    busy = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the default partition if it is gone.
    pub async fn restore_default(&self, conn: &mut Db<'_>, limit: Duration) -> Result<(), DbError> {
        let mut transaction = Transaction::begin(conn, limit).await?;
        let restored = async {
            let conn = transaction.conn();
            become_maker(conn, limit, "10s").await?;
            catalog::ensure_default(conn, limit).await.map(drop)
        }
        .await;
        transaction.end(restored).await?;
        // It holds nothing that could be in the way.
        self.known().deferred.clear();
        Ok(())
    }

    /// Momenta, one per missing range, that partitions are to be made for.
    pub fn missing(
        &self,
        momenta: impl Iterator<Item = OffsetDateTime>,
        now: OffsetDateTime,
    ) -> BTreeSet<OffsetDateTime> {
        let known = self.known();
        let mut last: Option<PartitionRange> = None;
        let mut missing = BTreeSet::new();
        for momentum in momenta {
            // Neighbours in a batch are neighbours in time.
            if last.is_some_and(|r| r.contains(momentum)) {
                continue;
            }
            last = known.ranges.iter().find(|r| r.contains(momentum)).copied();
            if last.is_none()
                && is_plausible(momentum, now)
                && !known.is_deferred(momentum, Instant::now())
            {
                // Partitions made by hand, also those not looked up yet, may leave several parts of a day.
                let day = PartitionRange::around(momentum, PartitionSpan::Day);
                last = day.filter(|day| known.leave_whole(day));
                missing.insert(momentum);
            }
        }
        missing
    }

    /// The range to make for a momentum; `None` if it has one, or none can be made.
    fn next_range(&self, momentum: OffsetDateTime) -> Option<PartitionRange> {
        let known = self.known();
        if known.covers(momentum) || known.is_deferred(momentum, Instant::now()) {
            return None;
        }
        let existing: Vec<PartitionRange> =
            known.ranges.iter().chain(&known.blocked).copied().collect();
        drop(known);
        let range = range_to_make(momentum, self.span, &existing);
        if range.is_none()
            && let Some(day) = PartitionRange::around(momentum, PartitionSpan::Day)
        {
            self.defer(day, "another partition is in the way");
        }
        range
    }

    fn defer(&self, range: PartitionRange, reason: &str) {
        if self.known().defer(range, reason) {
            tracing::warn!(
                partition = range.table(),
                reason,
                "could not make a partition; its events go to the default partition until it is made"
            );
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownPartitions> {
        // What a panic left behind is at worst incomplete, and is then looked up again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs statements that take no parameters.
pub(super) async fn run(
    conn: &mut PgConnection,
    limit: Duration,
    sql: String,
) -> Result<(), DbError> {
    // Safe: made of constants, numbers, dates and names that the server quoted.
    bounded(limit, sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn)).await.map(drop)
}
