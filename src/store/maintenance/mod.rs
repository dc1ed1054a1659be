//! Periodic maintenance: refreshes `last_seen_at`, checks the database and its clock, makes partitions
//! ahead of time, applies retention and looks for silent boards. Work that blocks readers and writers is done in small steps,
//! with short lock timeouts and pauses in between.

pub mod members;
mod payload_retention;
mod retention;
mod silence;

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::progress::idle;
use crate::store::database_status::{DatabaseStatus, StatusSource};
use crate::store::error::{DbError, StoreError};
use crate::store::maintenance::members::{GroupMembership, MemberWatch};
use crate::store::maintenance::payload_retention::PayloadSweep;
use crate::store::maintenance::retention::RetentionOutcome;
pub(in crate::store) use crate::store::maintenance::retention::{held_back, not_restored};
use crate::store::maintenance::silence::SilenceWatch;
pub use crate::store::partitions::UpkeepOutcome;
use crate::store::{Store, clocks};
use crate::stream::connection_event::ConnectionName;
use crate::telemetry::health::ClockReading;
use crate::telemetry::{Health, Metrics};

/// Interval of heartbeats: the accuracy of `connection.last_seen_at` for a process that died.
const BEAT: Duration = Duration::from_secs(10);

/// Interval of the upkeep of partitions while nothing is left to do.
const PARTITIONS_EVERY: Duration = Duration::from_secs(600);

/// Retention is counted in days.
const RETENTION_EVERY: Duration = Duration::from_secs(3600);

/// Inputs and outputs of maintenance.
#[derive(Debug)]
pub struct MaintenanceParts {
    /// The database.
    pub store: Arc<Store>,
    /// `retention.events`, as it is at the moment.
    pub keep_events: watch::Receiver<Option<Duration>>,
    /// True if the events past `retention.events` are archived, by another task.
    pub archives: bool,
    /// `retention.payloads`, as it is at the moment.
    pub keep_payloads: watch::Receiver<Option<Duration>>,
    /// The database's condition.
    pub condition: Arc<DatabaseStatus>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// State.
    pub health: Arc<Health>,
    /// Looks after the other members of a share group.
    pub members: GroupMembership,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Runs until `stop`.
pub async fn run(parts: MaintenanceParts) {
    let stop = parts.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = maintenance_loop(&parts) => {}
    }
}

async fn maintenance_loop(parts: &MaintenanceParts) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut duties = MaintenanceDuties::new(parts);
    loop {
        idle(beat.tick()).await;
        let Some(skew) = measure_skew(parts).await else {
            duties.lookout = MemberWatch::default();
            continue;
        };
        // The writer makes the tables. Until then only the heartbeat is due.
        tokio::select! {
            biased;
            () = idle(parts.store.until_prepared()) => {}
            _ = beat.tick() => {
                beat.reset_immediately();
                continue;
            }
        }
        match parts.store.newest_gap(&parts.members.client_id).await {
            Ok(newest) => parts.metrics.gaps.set_newest(newest),
            // The next beat finds out whether the database answers at all.
            Err(error) => tracing::debug!(%error, "could not read the newest gap"),
        }
        duties.maintain_partitions().await;
        // By the clock that is behind: a wrong one must not delete before its time.
        let now = OffsetDateTime::now_utc() - time::Duration::seconds_f64(skew.max(0.0));
        duties.lookout.look(parts, now).await;
        duties.clear_payloads(now).await;
        duties.delete_expired(now).await;
        duties.silence.look(parts).await;
    }
}

/// Refreshes the connection's row. `None` if the database does not answer.
async fn measure_skew(parts: &MaintenanceParts) -> Option<f64> {
    let standing = parts.health.read(|s| s.session.connection.clone());
    match parts.store.beat(standing.as_ref(), OffsetDateTime::now_utc()).await {
        Ok(skew) => {
            let reading = ClockReading::now(skew);
            parts.health.update(|s| {
                s.database.clock_skew_seconds = Some(skew);
                s.database.clock = Some(reading);
            });
            parts.condition.answered(StatusSource::Maintenance);
            Some(skew)
        }
        Err(error) => {
            parts.condition.failed(StatusSource::Maintenance, &error);
            None
        }
    }
}

/// Duties with the time at which each is due.
struct MaintenanceDuties<'p> {
    parts: &'p MaintenanceParts,
    keep_events: watch::Receiver<Option<Duration>>,
    payloads: PayloadSweep,
    lookout: MemberWatch,
    silence: SilenceWatch,
    partitions_due: Instant,
    /// Wait between two runs of upkeep while something is left to do.
    partitions_wait: Duration,
    retention_due: Instant,
    partitions_problem: RepeatedWarning,
    payloads_problem: RepeatedWarning,
    retention_problem: RepeatedWarning,
}

impl<'p> MaintenanceDuties<'p> {
    fn new(parts: &'p MaintenanceParts) -> Self {
        Self {
            parts,
            keep_events: parts.keep_events.clone(),
            payloads: PayloadSweep::default(),
            lookout: MemberWatch::default(),
            silence: SilenceWatch::default(),
            partitions_due: Instant::now(),
            partitions_wait: BEAT,
            retention_due: Instant::now(),
            partitions_problem: RepeatedWarning::default(),
            payloads_problem: RepeatedWarning::default(),
            retention_problem: RepeatedWarning::default(),
        }
    }

    async fn maintain_partitions(&mut self) {
        let wanted = self.parts.store.partitions.take_wanted();
        if wanted {
            self.partitions_wait = BEAT;
        }
        if Instant::now() < self.partitions_due && !wanted {
            return;
        }
        let now = self.parts.store.later_clock(OffsetDateTime::now_utc());
        let result = self.parts.store.make_partitions_ahead(now).await;
        let wait = match &result {
            Ok(UpkeepOutcome::Done) => PARTITIONS_EVERY,
            Ok(UpkeepOutcome::Unfinished) => Duration::ZERO,
            Err(_) => self.partitions_wait,
        };
        self.partitions_wait = match &result {
            Ok(_) => BEAT,
            Err(_) => (self.partitions_wait * 2).min(PARTITIONS_EVERY),
        };
        self.partitions_due = Instant::now() + wait;
        let problem = result.err().map(|error| error.to_string());
        if let Some(error) = self.partitions_problem.changed(problem) {
            tracing::warn!(error, "could not make or fill all partitions; retrying");
        }
    }

    async fn clear_payloads(&mut self, now: OffsetDateTime) {
        let kept = *self.parts.keep_payloads.borrow();
        let cleared = self.payloads.advance(&self.parts.store, kept, now).await;
        if let Ok(Some(payloads @ 1..)) = cleared {
            tracing::info!(payloads, "removed messages past retention.payloads");
        }
        let problem = cleared.err().map(|error| error.to_string());
        if let Some(error) = self.payloads_problem.changed(problem) {
            tracing::warn!(error, "could not remove messages past retention.payloads; retrying");
        }
    }

    async fn delete_expired(&mut self, now: OffsetDateTime) {
        // A sender that is gone changes nothing.
        let changed = self.keep_events.has_changed().unwrap_or(false);
        if Instant::now() < self.retention_due && !changed {
            return;
        }
        let kept = *self.keep_events.borrow_and_update();
        let store = &self.parts.store;
        let result = if self.parts.archives {
            store.delete_expired_except_events(kept, now).await
        } else {
            store.delete_expired(kept, now).await
        };
        let deleted = match result {
            Ok(deleted) => deleted,
            Err(error) => RetentionOutcome {
                problems: vec![error.to_string()],
                ..RetentionOutcome::default()
            },
        };
        // Partitions that readers block are tried again soon.
        let is_done = self.parts.archives || deleted.overdue == Some(Duration::ZERO);
        let wait = if is_done { RETENTION_EVERY } else { BEAT };
        self.retention_due = Instant::now() + wait;
        self.show(&deleted);
        let problem = (!deleted.problems.is_empty()).then(|| deleted.problems.join("; "));
        if let Some(error) = self.retention_problem.changed(problem) {
            tracing::warn!(error, "could not delete all rows past their retention; retrying");
        }
    }

    fn show(&self, deleted: &RetentionOutcome) {
        if let Some(overdue) = deleted.overdue.filter(|_| !self.parts.archives) {
            let overdue = overdue.as_secs_f64();
            self.parts.metrics.retention_overdue_seconds.set(overdue);
            self.parts.health.update(|s| s.database.retention_overdue_seconds = overdue);
        }
        if !deleted.is_empty() {
            tracing::info!(
                partitions = deleted.partitions,
                events = deleted.events,
                stays = deleted.stays,
                dead_letters = deleted.dead_letters,
                connections = deleted.connections,
                "deleted rows past their retention"
            );
        }
    }
}

/// The last problem of a duty, which is logged when it changes.
#[derive(Debug, Default)]
struct RepeatedWarning(Option<String>);

impl RepeatedWarning {
    /// Records the present problem, if any. Returns it if it is another one than before.
    fn changed(&mut self, problem: Option<String>) -> Option<&str> {
        let is_new = self.0 != problem;
        self.0 = problem;
        self.0.as_deref().filter(|_| is_new)
    }
}

impl Store {
    /// Refreshes `last_seen_at` of the open connection, if it has a row. It may go back to an earlier
    /// time: a clock that was ahead and was corrected would otherwise hide a later absence. Returns how
    /// far this host's clock is ahead of the database's, seconds.
    pub async fn beat(
        &self,
        standing: Option<&ConnectionName>,
        now: OffsetDateTime,
    ) -> Result<f64, StoreError> {
        const TOUCH: &str = "
            update centiloc.connection set last_seen_at = $2
             where id = $1 and disconnected_at is null and instance = $3";
        let mut db = self.acquire().await?;
        let result = async {
            let skew = clocks::skew(&mut db).await?;
            self.clocks.note(skew);
            if let Some(open) = standing.and_then(|name| self.open.get(name)) {
                let name = open.name();
                self.advance_position(&mut db, &name.client_id).await?;
                let touch = sqlx::query(TOUCH).bind(open.row()).bind(now).bind(name.instance);
                let touched = db.query(|conn| touch.execute(conn)).await?.rows_affected();
                if touched == 0 {
                    self.reopen(&mut db, open).await?;
                }
            }
            Ok::<f64, DbError>(skew)
        }
        .await;
        Ok(db.finish(result)?)
    }
}
