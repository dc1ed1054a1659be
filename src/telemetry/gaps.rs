//! Possible losses: counted since the start, and the age of the newest in the database, which
//! outlives the process.

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

use crate::gap::GapCause;

/// Label `cause`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    /// A value of `gap.cause`.
    cause: &'static str,
}

/// The newest row of `gap` of this client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewestGap {
    /// It lasts.
    Ongoing,
    /// It ended at this time.
    Ended(OffsetDateTime),
}

impl NewestGap {
    /// Returns the seconds since its end; 0 while it lasts.
    fn age_seconds(self, now: OffsetDateTime) -> f64 {
        match self {
            Self::Ongoing => 0.0,
            Self::Ended(at) => (now - at).as_seconds_f64().max(0.0),
        }
    }
}

/// The newest gap as last read from the database; `None` while there is none, or none is known.
type NewestGapCell = Mutex<Option<NewestGap>>;

/// The metrics of possible losses.
#[derive(Debug)]
pub struct GapMetrics {
    counters: Family<CauseLabel, Counter>,
    /// Counted before the first scrape, which shows the counters without them: a counter that first
    /// shows at 1 has no rise that an alert could see. `None` after the first scrape.
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
    /// Counts a gap row of this cause.
    pub fn count(&self, cause: GapCause) {
        match &mut *self.unseen.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(unseen) => unseen.push(cause),
            None => _ = self.counter(cause).inc(),
        }
    }

    /// Returns the gap rows counted since the start.
    pub fn total(&self) -> u64 {
        let unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen: u64 = GapCause::ALL.iter().map(|cause| self.counter(*cause).get()).sum();
        seen + unseen.as_ref().map_or(0, Vec::len) as u64
    }

    /// Notes the newest gap row of this client id; `None` if there is none.
    pub fn set_newest(&self, newest: Option<NewestGap>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = newest;
    }

    /// Adds the metrics to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("gaps", "Possible losses written down", self.counters.clone());
        registry.register_collector(Box::new(NewestGapCollector(Arc::clone(&self.newest))));
    }

    /// Notes that the counters were shown, so that a later scrape shows the rise.
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

/// Encodes the age at the moment of the scrape.
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
    fn age_counts_from_the_end() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let age = |gap: NewestGap, later: i64| gap.age_seconds(at + time::Duration::seconds(later));
        assert!((age(NewestGap::Ended(at), 90) - 90.0).abs() < f64::EPSILON);
        assert!(age(NewestGap::Ended(at), -90).abs() < f64::EPSILON, "a clock that was set back");
        assert!(age(NewestGap::Ongoing, 90).abs() < f64::EPSILON);
    }
}
