//! The later of host and database clock, which decides how far ahead a momentum may be: one of the
//! two may be wrong, and a wrong clock must not keep true events out of the states.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use time::OffsetDateTime;

use super::Store;
use super::error::DbError;
use super::pg_timestamp::PgTimestamp;
use super::query::Db;
use crate::event::plausibility;
use crate::telemetry::health::ClockReading;

/// The last comparison of the two clocks.
#[derive(Debug, Default)]
pub(super) struct ClockComparison(Mutex<Option<ClockReading>>);

impl ClockComparison {
    /// Notes by how many seconds the host's clock is ahead now.
    pub fn note(&self, skew_seconds: f64) {
        let reading = ClockReading::now(skew_seconds);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    /// Returns the later clock's time. `None` if they were never compared.
    fn later(&self, host: OffsetDateTime) -> Option<OffsetDateTime> {
        let reading = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(reading?.later_clock(host, Instant::now()))
    }
}

impl Store {
    /// Returns the time of the later of host and database clock. The host's until they are compared.
    pub fn later_clock(&self, host: OffsetDateTime) -> OffsetDateTime {
        self.clocks.later(host).unwrap_or(host)
    }

    /// Returns the latest plausible momentum, and compares the clocks first if that was never done.
    pub(super) async fn latest_plausible(&self, db: &mut Db) -> Result<OffsetDateTime, DbError> {
        let host = OffsetDateTime::now_utc();
        if self.clocks.later(host).is_none() {
            self.clocks.note(skew(db).await?);
        }
        Ok(plausibility::latest(self.later_clock(host)))
    }
}

/// Host clock minus database clock, seconds, taken in the middle of the exchange.
pub(super) async fn skew(db: &mut Db) -> Result<f64, DbError> {
    let before = OffsetDateTime::now_utc();
    let query = sqlx::query_scalar("select clock_timestamp()");
    let PgTimestamp(theirs) = db.query(|conn| query.fetch_one(conn)).await?;
    let took: time::Duration = OffsetDateTime::now_utc() - before;
    let ahead: time::Duration = before + took / 2 - theirs;
    Ok(ahead.as_seconds_f64())
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn the_later_clock_decides() {
        let (clocks, host) = (ClockComparison::default(), OffsetDateTime::now_utc());
        assert_eq!(clocks.later(host), None);
        clocks.note(3600.0);
        let ahead = clocks.later(host).unwrap() - host;
        assert!(ahead < Duration::seconds(60), "the host's: {ahead}");
        clocks.note(-3600.0);
        let behind = clocks.later(host).unwrap() - host;
        assert!((behind - Duration::hours(1)).abs() < Duration::seconds(60), "{behind}");
    }
}
