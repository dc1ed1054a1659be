//! Computes stays, boards of tags and lists of known values apart from the ingest, never on the path of an
//! acknowledgement. Each batch leaves the tags of its new events in `stay_pending`, in its own
//! transaction. A round takes some of these rows, computes and deletes them in one transaction, so
//! that a kill at any point loses nothing. The same transaction adds each batch to the change feed, so that
//! positions become visible in their order.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Store;
use super::error::{DbError, StoreError};
use super::query::Db;
use super::rollups::DueRollups;
use crate::progress::{self, idle};
use crate::telemetry::Metrics;

const COMPUTE: &str = include_str!("sql/stays.sql");

/// Waits until no other process computes stays, and keeps others from it until the transaction ends.
pub(super) const LOCK: &str = "select pg_advisory_xact_lock(7161677110969590389)";

/// Takes the same lock as [`LOCK`], or returns false.
const TRY_LOCK: &str = "select pg_try_advisory_xact_lock(7161677110969590389)";

/// Settings of a transaction that computes. The planner cannot know the length of arrays: the
/// statements say where an index is used, and texts are grouped by hash because sorting them takes
/// longer.
const SETTINGS: &str = "
    set transaction isolation level read committed;
    set local enable_seqscan = off;
    set local enable_nestloop = off;
    set local enable_sort = off;
    set local plan_cache_mode = force_custom_plan;
    set local jit = off";

/// Bounds the wait for events that another process stores.
const POLL: Duration = Duration::from_secs(10);

/// Shortest wait between two rounds: a tag that moves often is computed once a second.
const PAUSE: Duration = Duration::from_secs(1);

/// Wait for another process that computes.
pub(super) const OTHERS_PAUSE: Duration = Duration::from_millis(100);

/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// Events of the first round.
pub(super) const FIRST_EVENTS: i64 = 1_000;

/// Fewest events of a round.
pub(super) const LEAST_EVENTS: i64 = 100;

/// Most events of a round: one or two seconds.
const MOST_EVENTS: i64 = 100_000;

/// A round that took less lets the next one read more events.
pub(super) const SHORT_ROUND: Duration = Duration::from_millis(300);

/// A round that took more lets the next one read fewer events.
pub(super) const LONG_ROUND: Duration = Duration::from_secs(1);

/// Most batches of one round. Their tags are merged, so that more cost little.
const BATCHES: i64 = 512;

/// While more messages than this wait for a commit, most of the time is left to the ingest.
const BUSY: i64 = 2_000;

/// Wait after a round while the ingest is busy, as a multiple of its duration: one part in twenty of the
/// time is spent computing.
const BUSY_WAIT: u32 = 19;

/// Holds the inputs and outputs of the task.
#[derive(Debug)]
pub struct StaysParts {
    /// The database.
    pub store: Arc<Store>,
    /// Shows whether the ingest is busy. Receives the lag.
    pub metrics: Arc<Metrics>,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// One round of the computation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StaysRound {
    /// Tags whose stays were computed.
    pub tags: u64,
    /// Batches that are still pending.
    pub pending: u64,
    /// Age of the oldest pending batch.
    pub lag: Duration,
}

/// Runs until `stop`.
pub async fn run(parts: StaysParts) {
    let stop = parts.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = compute_rounds(&parts) => {}
    }
}

async fn compute_rounds(parts: &StaysParts) {
    idle(parts.store.until_prepared()).await;
    let mut events = FIRST_EVENTS;
    let mut problem = None;
    loop {
        progress::tick();
        let started = Instant::now();
        let wait = match parts.store.compute_stays(events).await {
            Ok(round) => {
                problem = None;
                parts.metrics.stays_lag_seconds.set(round.lag.as_secs_f64());
                events = next_events(events, started.elapsed());
                let is_more = round.pending == 0 && compute_rollups(parts).await;
                let pause = wait_after(started.elapsed(), is_busy(&parts.metrics));
                if round.pending == 0 && !is_more {
                    let stored = parts.store.events_stored.notified();
                    // A time-out shows what other processes stored.
                    let _ = idle(tokio::time::timeout(POLL, stored)).await;
                    pause.max(PAUSE)
                } else if round.pending > 0 && round.tags == 0 {
                    // Another process computes.
                    pause.max(PAUSE)
                } else {
                    pause
                }
            }
            Err(error) => {
                events = fewer(events);
                let text = error.to_string();
                if problem.as_ref() != Some(&text) {
                    tracing::warn!(error = %text, "could not compute stays; retrying");
                    problem = Some(text);
                }
                if matches!(error, StoreError::Halve(_)) { PAUSE } else { RETRY }
            }
        };
        idle(tokio::time::sleep(wait)).await;
    }
}

/// Computes some sums of hours and days. Returns true if more are left.
async fn compute_rollups(parts: &StaysParts) -> bool {
    match parts.store.compute_rollups(DueRollups::Settled).await {
        Ok(is_more) => is_more,
        Err(error) => {
            // The next round has the same error, or succeeds.
            tracing::debug!(%error, "could not compute sums of hours and days");
            false
        }
    }
}

/// Returns the number of events of the next round after one that took too long for the server. Fewer
/// events take less time.
pub(super) fn fewer(events: i64) -> i64 {
    (events / 4).max(LEAST_EVENTS)
}

/// Returns the number of events of the next round after one that took so long.
pub(super) fn next_events(events: i64, took: Duration) -> i64 {
    next_size(events, took, LEAST_EVENTS..=MOST_EVENTS)
}

/// Returns the size of the next round after one of this size that took so long.
pub(super) fn next_size(size: i64, took: Duration, limits: RangeInclusive<i64>) -> i64 {
    if took < SHORT_ROUND {
        (size * 2).min(*limits.end())
    } else if took > LONG_ROUND {
        (size / 2).max(*limits.start())
    } else {
        size
    }
}

/// Returns true while messages wait for a commit, in memory or in the spool.
fn is_busy(metrics: &Metrics) -> bool {
    metrics.unacked.get().max(metrics.spool_events.get().unwrap_or(0)) > BUSY
}

/// Returns the wait after a round, so that the ingest has the database for the rest of the time.
fn wait_after(took: Duration, busy: bool) -> Duration {
    if busy { took * BUSY_WAIT } else { took / 2 }
}

impl Store {
    /// Computes stays of the tags of pending batches, the oldest first, from about so many events.
    /// Does nothing while another process computes.
    pub async fn compute_stays(&self, events: i64) -> Result<StaysRound, StoreError> {
        Ok(self.compute_some_stays(events).await?)
    }

    pub(super) async fn compute_some_stays(&self, events: i64) -> Result<StaysRound, DbError> {
        let notify = self.notify;
        self.with_db(async |db| round(db, events, notify).await).await
    }

    /// Computes stays until no batch is pending.
    pub async fn compute_all_stays(&self) -> Result<(), StoreError> {
        let mut events = FIRST_EVENTS;
        loop {
            let started = Instant::now();
            let round = match self.compute_stays(events).await {
                Err(StoreError::Halve(_)) if events > LEAST_EVENTS => {
                    events = fewer(events);
                    continue;
                }
                round => round?,
            };
            events = next_events(events, started.elapsed());
            if round.pending == 0 {
                return Ok(());
            }
            if round.tags == 0 {
                tokio::time::sleep(OTHERS_PAUSE).await;
            }
        }
    }
}

async fn round(db: &mut Db, events: i64, notify: bool) -> Result<StaysRound, DbError> {
    const PENDING: &str = "
        select count(*) as pending,
               coalesce(extract(epoch from clock_timestamp() - min(committed_at)), 0)::float8 as lag
          from centiloc.stay_pending";
    const NEXT: &str = "select id from centiloc.stay_pending order by id limit $1";
    let next = sqlx::query_scalar(NEXT).bind(BATCHES);
    let ids: Vec<i64> = db.query(|conn| next.fetch_all(conn)).await?;
    let tags = compute(db, &ids, events, notify).await?;
    let row = db.query(|conn| sqlx::query(PENDING).fetch_one(conn)).await?;
    let lag: f64 = row.try_get("lag")?;
    Ok(StaysRound {
        tags,
        pending: row.try_get::<i64, _>("pending")?.try_into().unwrap_or(0),
        lag: Duration::try_from_secs_f64(lag.max(0.0)).unwrap_or_default(),
    })
}

/// Prepares a transaction that computes. Returns false while another process computes.
pub(super) async fn begin_computing(db: &mut Db) -> Result<bool, DbError> {
    db.execute(SETTINGS).await?;
    db.query(|conn| sqlx::query_scalar(TRY_LOCK).fetch_one(conn)).await
}

/// Computes the stays of the tags of these batches in one transaction. Returns the number of tags.
async fn compute(db: &mut Db, ids: &[i64], events: i64, notify: bool) -> Result<u64, DbError> {
    if ids.is_empty() {
        return Ok(0);
    }
    db.transaction(async |db| {
        if !begin_computing(db).await? {
            return Ok(0);
        }
        let compute = sqlx::query_scalar(COMPUTE).bind(ids).bind(events).bind(notify);
        let tags: i64 = db.query(|conn| compute.fetch_one(conn)).await?;
        Ok(tags.try_into().unwrap_or(0))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_adapt_to_their_duration() {
        let mut events = FIRST_EVENTS;
        for _ in 0..20 {
            events = next_events(events, Duration::from_millis(10));
        }
        assert_eq!(events, MOST_EVENTS);
        assert_eq!(next_events(8_000, Duration::from_millis(500)), 8_000);
        for _ in 0..20 {
            events = next_events(events, Duration::from_secs(5));
        }
        assert_eq!(events, LEAST_EVENTS);
    }

    #[test]
    fn backlog_in_spool_is_busy() {
        let metrics = Metrics::new();
        assert!(!is_busy(&metrics));
        metrics.spool_events.set(BUSY + 1);
        assert!(is_busy(&metrics));
        metrics.spool_events.set(0);
        metrics.unacked.set(BUSY + 1);
        assert!(is_busy(&metrics));
    }

    #[test]
    fn busy_ingest_gets_most_of_the_time() {
        let took = Duration::from_millis(500);
        assert!(wait_after(took, true) >= took * 19);
        assert!(wait_after(took, false) < took);
    }
}
