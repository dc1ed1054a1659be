//! Keeps the house: tells that the connection stands, that the database answers and how its clock
//! differs, makes partitions ahead, deletes what is past its time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Store;
use super::condition::{Condition, Source};
use super::fault::{Fault, StoreError};
use super::payload_retention::PayloadSweep;
use super::retention::Deleted;
use super::span::Range;
use super::write::bounded;
use crate::message::ConnectionName;
use crate::progress::idle;
use crate::telemetry::Health;
use crate::telemetry::health::ClockReading;

/// How exactly `connection.last_seen_at` tells when a process died.
const BEAT: Duration = Duration::from_secs(10);

/// How long a misplaced row stays in the default partition at most, about.
const PARTITIONS_EVERY: Duration = Duration::from_secs(600);

/// Retention is counted in days.
const RETENTION_EVERY: Duration = Duration::from_secs(3600);

/// Partitions made ahead of the present one: two spans are a day or a month of a database that
/// nobody can write DDL to.
const SPANS_AHEAD: usize = 2;

/// Distinct days looked at in the default partition at once.
const MISPLACED_DAYS: i64 = 1000;

/// What maintenance needs.
#[derive(Debug)]
pub struct MaintenanceParts {
    /// Where.
    pub store: Arc<Store>,
    /// `retention.events`, as it is at the moment.
    pub keep_events: watch::Receiver<Option<Duration>>,
    /// `retention.payloads`, as it is at the moment.
    pub keep_payloads: watch::Receiver<Option<Duration>>,
    /// The database's condition.
    pub condition: Arc<Condition>,
    /// State.
    pub health: Arc<Health>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Runs until `stop`.
pub async fn run(parts: MaintenanceParts) {
    let stop = parts.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep_house(&parts) => {}
    }
}

async fn keep_house(parts: &MaintenanceParts) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut keep_events = parts.keep_events.clone();
    let mut payloads = PayloadSweep::default();
    let (mut partitions_due, mut retention_due) = (Instant::now(), Instant::now());
    loop {
        idle(beat.tick()).await;
        let standing = parts.health.read(|s| s.session.connection.clone());
        let skew = match parts.store.beat(standing.as_ref(), OffsetDateTime::now_utc()).await {
            Ok(skew) => {
                let (at, monotonic_at) = (OffsetDateTime::now_utc(), Instant::now());
                let reading = ClockReading { skew_seconds: skew, at, monotonic_at };
                parts.health.update(|s| {
                    s.database.clock_skew_seconds = Some(skew);
                    s.database.clock = Some(reading);
                });
                parts.condition.answered(Source::Maintenance);
                skew
            }
            Err(error) => {
                parts.condition.failed(Source::Maintenance, &error);
                continue;
            }
        };
        // The writer makes the tables; without them there is no house to keep, but the server is
        // still looked at.
        tokio::select! {
            biased;
            () = idle(parts.store.until_prepared()) => {}
            _ = beat.tick() => {
                beat.reset_immediately();
                continue;
            }
        }
        if Instant::now() >= partitions_due {
            partitions_due = Instant::now() + PARTITIONS_EVERY;
            let now = parts.store.later_clock(OffsetDateTime::now_utc());
            let made = parts.store.make_partitions_ahead(now).await;
            complain(made, "could not look after the partitions; trying again in 10 minutes");
        }
        // By the clock that is behind: a wrong one must not delete before its time.
        let now = OffsetDateTime::now_utc() - time::Duration::seconds_f64(skew.max(0.0));
        let kept = *parts.keep_payloads.borrow();
        let cleared = payloads.advance(&parts.store, kept, now).await;
        complain(
            cleared.map(report_payloads),
            "could not remove the messages kept beside events; trying again in 10 seconds",
        );
        // A sender that is gone changes nothing.
        let changed = keep_events.has_changed().unwrap_or(false);
        if Instant::now() >= retention_due || changed {
            retention_due = Instant::now() + RETENTION_EVERY;
            let kept = *keep_events.borrow_and_update();
            let deleted = parts.store.delete_expired(kept, now).await;
            complain(
                deleted.map(|deleted| report(&deleted)),
                "could not delete what is past its time; trying again in an hour",
            );
        }
    }
}

fn report_payloads(cleared: Option<u64>) {
    if let Some(payloads) = cleared.filter(|cleared| *cleared > 0) {
        tracing::info!(payloads, "removed messages past retention.payloads");
    }
}

fn complain(result: Result<(), StoreError>, sentence: &'static str) {
    if let Err(error) = result {
        tracing::warn!(reason = %error, "{sentence}");
    }
}

fn report(deleted: &Deleted) {
    if *deleted != Deleted::default() {
        tracing::info!(
            partitions = deleted.partitions,
            events = deleted.events,
            dead_letters = deleted.dead_letters,
            connections = deleted.connections,
            "deleted what is past its retention"
        );
    }
}

impl Store {
    /// Refreshes `last_seen_at` of the connection that stands, if it has a row; also to an earlier
    /// time: a clock that was ahead and came back would otherwise hide a later absence. Returns how
    /// far this host's clock is ahead of the database's, seconds.
    pub async fn beat(
        &self,
        standing: Option<&ConnectionName>,
        now: OffsetDateTime,
    ) -> Result<f64, StoreError> {
        const TOUCH: &str = "
            update centiloc.connection set last_seen_at = $2
             where id = $1 and disconnected_at is null and instance = $3";
        let limit = self.link.answer_within;
        let mut conn = self.acquire().await?;
        let result = async {
            let skew = skew(&mut conn, limit).await?;
            self.clocks.note(skew);
            if let Some(open) = standing.and_then(|name| self.open.get(name)) {
                let name = open.name();
                self.advance_position(&mut conn, &name.client_id).await?;
                let touch = sqlx::query(TOUCH).bind(open.row()).bind(now).bind(name.instance);
                let touched = bounded(limit, touch.execute(&mut *conn)).await?.rows_affected();
                if touched == 0 {
                    self.reopen(&mut conn, open).await?;
                }
            }
            Ok::<f64, Fault>(skew)
        }
        .await;
        if result.is_err() {
            conn.close_on_drop();
        }
        Ok(result?)
    }

    /// Makes the present partition and the next ones, looks up which exist, and brings home the
    /// rows that the default partition holds though they have or could have one of their own.
    pub async fn make_partitions_ahead(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        let limit = self.link.answer_within;
        let mut conn = self.acquire().await?;
        self.partitions.forget();
        let result = async {
            let misplaced = misplaced(&mut conn, limit, now).await?;
            let missing = self.partitions.missing(misplaced.into_iter(), now);
            self.partitions.ensure(&mut conn, limit, missing).await?;
            let mut at = now;
            for _ in 0..=SPANS_AHEAD {
                // A span ahead is always plausible seen from its own beginning.
                let missing = self.partitions.missing(std::iter::once(at), at);
                self.partitions.ensure(&mut conn, limit, missing).await?;
                match Range::around(at, self.partitions.span()) {
                    Some(range) => at = range.to,
                    None => break,
                }
            }
            Ok::<(), Fault>(())
        }
        .await;
        if result.is_err() {
            conn.close_on_drop();
        }
        Ok(result?)
    }
}

/// One momentum per day that the default partition holds and a partition could be made for.
async fn misplaced(
    conn: &mut PgConnection,
    limit: Duration,
    now: OffsetDateTime,
) -> Result<Vec<OffsetDateTime>, Fault> {
    const SQL: &str = "
        select min(momentum)
          from centiloc.item_event_default
         where momentum >= $1 and momentum < $2
         group by date_trunc('day', momentum, 'UTC')
         limit $3";
    let query = sqlx::query_scalar(SQL)
        .bind(super::span::EARLIEST)
        .bind(now + super::span::AHEAD)
        .bind(MISPLACED_DAYS);
    bounded(limit, query.fetch_all(conn)).await
}

/// Host clock minus database clock, seconds, taken in the middle of the exchange.
pub(super) async fn skew(conn: &mut PgConnection, limit: Duration) -> Result<f64, Fault> {
    let before = OffsetDateTime::now_utc();
    let query = sqlx::query_scalar("select clock_timestamp()");
    let theirs: OffsetDateTime = bounded(limit, query.fetch_one(conn)).await?;
    let took: time::Duration = OffsetDateTime::now_utc() - before;
    let ahead: time::Duration = before + took / 2 - theirs;
    Ok(ahead.as_seconds_f64())
}
