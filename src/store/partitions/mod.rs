//! Makes the partitions of `item_event` that rows need. What is known to exist is remembered, so
//! that the hot path sends no query. Rows that land in the default partition unexpectedly cause a
//! new listing.

mod catalog;
mod make;
mod moving;
pub(super) mod span;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

pub(super) use self::catalog::{ListedPartition, default_partition, free_name, list};
pub(super) use self::make::{LOCK, become_maker};
use self::make::{MakeAttempt, make};
use self::moving::GrowingPartition;
pub(super) use self::moving::{MoveProgress, STEP_ANSWER, columns_of};
pub use self::upkeep::UpkeepOutcome;
pub(super) use self::upkeep::pause;
use super::error::DbError;
use super::partitions::span::{PartitionRange, is_plausible, range_to_make};
use super::query::Db;
use crate::config::PartitionSpan;

/// After a partition could not be made, its rows go to the default partition for this long.
const DEFERRED_FOR: Duration = Duration::from_secs(60);

/// The partitions of `item_event` as last listed, and the work left on them.
#[derive(Debug)]
pub(super) struct PartitionManager {
    span: PartitionSpan,
    known: Mutex<KnownPartitions>,
}

#[derive(Debug, Default)]
struct KnownPartitions {
    /// Ranges of the partitions that rows are routed to.
    ranges: Vec<PartitionRange>,
    /// Ranges of the partitions that are being detached. No rows are routed there, and no other
    /// partition can be made there.
    blocked: Vec<PartitionRange>,
    /// Ranges that could not be made.
    deferred: Vec<DeferredRange>,
    /// True if there is new work for maintenance.
    wanted: bool,
    growing: Option<GrowingPartition>,
}

#[derive(Debug)]
struct DeferredRange {
    range: PartitionRange,
    /// Time of the next attempt.
    until: Instant,
    reason: String,
}

impl KnownPartitions {
    fn covers(&self, momentum: OffsetDateTime) -> bool {
        self.ranges.iter().any(|r| r.contains(momentum))
    }

    /// Returns true if no known partition overlaps a range.
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

    /// Defers a range. Returns true if this is a new reason for it.
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

    /// Forgets the partitions, so that they are listed again before the next batch.
    pub fn forget(&self) {
        self.known().ranges.clear();
    }

    /// Forgets the partitions, and has maintenance move misplaced rows.
    pub fn misplaced(&self) {
        self.forget();
        self.known().wanted = true;
    }

    /// Returns true if there is new work for maintenance since the last call.
    pub fn take_wanted(&self) -> bool {
        std::mem::take(&mut self.known().wanted)
    }

    /// Counts the momenta without a known partition.
    pub fn count_uncovered(&self, momenta: impl Iterator<Item = OffsetDateTime>) -> u64 {
        let known = self.known();
        momenta.filter(|momentum| !known.covers(*momentum)).count() as u64
    }

    /// Makes partitions for the momenta that [`Self::missing`] found. A partition that cannot be made
    /// is no failure: the default partition takes its rows, and maintenance moves them later. Fails
    /// only if the server does not answer.
    pub async fn ensure(
        &self,
        db: &mut Db,
        missing: BTreeSet<OffsetDateTime>,
    ) -> Result<(), DbError> {
        if missing.is_empty() {
            return Ok(());
        }
        let mut busy = match list(db).await {
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
                None => make(db, range).await,
            };
            match attempt {
                Ok(MakeAttempt::Made) => self.known().made(range, Some(&range.table())),
                Ok(MakeAttempt::Exists(listed)) => self.known().refresh(listed),
                Ok(MakeAttempt::Left(reason)) => self.defer(range, reason),
                Err(error) if error.is_from_server() => {
                    self.defer(range, &error.text);
                    // A reader that blocks one also blocks the next: the batch must not wait for each.
                    busy = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the default partition if it is missing.
    pub async fn restore_default(&self, db: &mut Db) -> Result<(), DbError> {
        db.transaction(async |db| {
            become_maker(db, "10s").await?;
            catalog::ensure_default(db).await.map(drop)
        })
        .await?;
        // It is empty, so no row of it can block a new partition.
        self.known().deferred.clear();
        Ok(())
    }

    /// Returns the momenta, one per missing range, that need a partition.
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
                // Partitions made by hand, also those not listed yet, may leave several parts of a day.
                let day = PartitionRange::around(momentum, PartitionSpan::Day);
                last = day.filter(|day| known.leave_whole(day));
                missing.insert(momentum);
            }
        }
        missing
    }

    /// Returns the range to make for a momentum. `None` if it has one, or none can be made.
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
                error = reason,
                "could not make a partition; its events go to the default partition until it is made"
            );
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownPartitions> {
        // After a panic the list is at worst incomplete, and is then read again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
