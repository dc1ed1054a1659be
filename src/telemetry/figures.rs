//! Reads the totals behind the charts from the metrics, so that the charts need no counters of their own
//! on the path of an event.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Metrics;
use super::history::FigureTotals;
use super::metrics::KindLabel;
use crate::event::EventKind;

impl Metrics {
    /// Returns the totals at this moment.
    pub fn figure_totals(&self) -> FigureTotals {
        let committed = |kind: EventKind| {
            let label = KindLabel { kind: kind.as_str() };
            self.committed.get(&label).map_or(0, |counter| counter.get())
        };
        let (lag_sum, lag_count) = sum_and_count(&self.event_to_commit_seconds);
        FigureTotals {
            committed: EventKind::ALL.map(committed).iter().sum(),
            lag_sum,
            lag_count,
            unacked: self.unacked.get(),
        }
    }
}

/// Returns sum and number of the observations. The library shows them only in its text format.
fn sum_and_count(histogram: &Histogram) -> (f64, u64) {
    let mut registry = Registry::default();
    registry.register("observed", "Observations", histogram.clone());
    let mut text = String::new();
    // Unwrap safety: writing to a String does not fail.
    encode(&mut text, &registry).expect("a histogram encodes into a String");
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    (
        value("observed_sum ").and_then(|value| value.parse().ok()).unwrap_or(0.0),
        value("observed_count ").and_then(|value| value.parse().ok()).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_those_of_the_metrics() {
        let metrics = Metrics::new();
        assert_eq!(metrics.figure_totals(), FigureTotals::default());
        for seconds in [0.25, 0.5, 4.0] {
            metrics.event_to_commit_seconds.observe(seconds);
        }
        metrics.committed.get_or_create(&KindLabel { kind: "item" }).inc_by(3);
        metrics.committed.get_or_create(&KindLabel { kind: "board" }).inc_by(2);
        metrics.unacked.set(7);
        let expected = FigureTotals { committed: 5, lag_sum: 4.75, lag_count: 3, unacked: 7 };
        assert_eq!(metrics.figure_totals(), expected);
    }
}
