//! Metrics of gaps: their number since the start, and the age of the newest gap in the database,
//! which outlives the process.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;

use crate::stream::gap::GapCause;

/// The label set with `cause`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    /// Cause of the gap, as in the column `gap.cause`.
    cause: &'static str,
}

/// The newest row in `gap` of this client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewestGap {
    /// The gap has not ended.
    Ongoing,
    /// The gap ended at this time.
    Ended(OffsetDateTime),
}

impl NewestGap {
    /// Returns the seconds since the end of the gap, or 0 if it has not ended.
    fn age_seconds(self, now: OffsetDateTime) -> f64 {
        match self {
            Self::Ongoing => 0.0,
            Self::Ended(at) => (now - at).as_seconds_f64().max(0.0),
        }
    }
}

/// The newest gap as last read from the database, or `None` if there is none, or before the first
/// read.
type NewestGapCell = Mutex<Option<NewestGap>>;

/// Counters of gaps by cause, and the age of the newest gap.
#[derive(Debug)]
pub struct GapMetrics {
    counters: Family<CauseLabel, Counter>,
    /// Gaps counted before the first scrape, which shows the counters without them. No alert could
    /// see the rise of a counter that first appears at 1. `None` after the first scrape.
    unseen: Mutex<Option<Vec<GapCause>>>,
    newest: Arc<NewestGapCell>,
}

impl Default for GapMetrics {
    fn default() -> Self {
        let gaps = Self {
            counters: Family::default(),
            unseen: Mutex::new(Some(Vec::new())),
            newest: Arc::default(),
        };
        for cause in GapCause::ALL {
            drop(gaps.counter(cause));
        }
        gaps
    }
}

impl GapMetrics {
    /// Counts a recorded gap of this cause.
    pub fn count(&self, cause: GapCause) {
        match &mut *self.unseen.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(unseen) => unseen.push(cause),
            None => _ = self.counter(cause).inc(),
        }
    }

    /// Returns the number of gaps counted since the start.
    pub fn total(&self) -> u64 {
        let unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen: u64 = GapCause::ALL.iter().map(|cause| self.counter(*cause).get()).sum();
        seen + unseen.as_ref().map_or(0, Vec::len) as u64
    }

    /// Sets the newest gap of this client id, or `None` if there is none.
    pub fn set_newest(&self, newest: Option<NewestGap>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = newest;
    }

    /// Adds the metrics to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "gaps",
            "Recorded gaps, in which messages may have been lost",
            self.counters.clone(),
        );
        registry.register_collector(Box::new(NewestGapCollector(Arc::clone(&self.newest))));
    }

    /// Adds the gaps that the scrape did not show, so that the next scrape shows the rise.
    pub(super) fn scraped(&self) {
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        for cause in unseen.take().into_iter().flatten() {
            self.counter(cause).inc();
        }
    }

    fn counter(&self, cause: GapCause) -> Counter {
        self.counters.get_or_create_owned(&CauseLabel { cause: cause.as_str() })
    }
}

/// Encodes the age of the newest gap at the moment of a scrape.
#[derive(Debug)]
struct NewestGapCollector(Arc<NewestGapCell>);

impl Collector for NewestGapCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let newest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(newest) = newest else { return Ok(()) };
        let age = ConstGauge::new(newest.age_seconds(OffsetDateTime::now_utc()));
        age.encode(encoder.encode_descriptor(
            "newest_gap_age_seconds",
            "Time since the end of the newest unacknowledged gap in the database, 0 while it lasts",
            None,
            MetricType::Gauge,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_counts_from_the_end_of_the_gap() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let age = |gap: NewestGap, later: i64| gap.age_seconds(at + time::Duration::seconds(later));
        assert!((age(NewestGap::Ended(at), 90) - 90.0).abs() < f64::EPSILON);
        assert!(age(NewestGap::Ended(at), -90).abs() < f64::EPSILON, "a clock that was set back");
        assert!(age(NewestGap::Ongoing, 90).abs() < f64::EPSILON);
    }
}
