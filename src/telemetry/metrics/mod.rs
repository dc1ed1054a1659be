//! The metrics that the admin endpoint serves under `/metrics`. Their names are part of the
//! contract.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::accounting_collector::AccountingCollector;
use super::gaps::GapMetrics;
use super::optional_gauge::OptionalGauge;
use super::process::ProcessCollector;
use super::stderr;
use crate::event::{EventKind, RejectReason};
use crate::stream::accounting::MessageAccounting;
use crate::version::COMMIT;

#[cfg(test)]
mod tests;

/// The label set with `topic` and `qos`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReceivedLabels {
    /// Topic name, or `other`.
    pub topic: String,
    /// Quality of service, 0 to 2.
    pub qos: u8,
}

/// The label set with `kind`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabel {
    /// Kind of event: `item` or `board`.
    pub kind: &'static str,
}

/// The label set with `reason`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One of the documented reasons of the metric.
    pub reason: &'static str,
}

/// The label set with `class`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ClassLabel {
    /// Class of the failure: one of [`FAILURE_CLASSES`].
    pub class: &'static str,
}

/// Classes of failed commits. `retry` is transient, `halve` is a statement that took too long,
/// `stop` requires operator action, and `unknown` is a code without a known meaning, which is
/// retried.
pub const FAILURE_CLASSES: [&str; 4] = ["retry", "halve", "stop", "unknown"];

/// The label set with `stage`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StageLabel {
    /// Name of a pipeline stage or background task.
    pub stage: &'static str,
}

/// A gauge of whole numbers.
pub type IntGauge = Gauge<i64, AtomicI64>;
/// A gauge of seconds.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

/// Most values of the label `topic`. Topics come from the broker, and a wildcard share must not
/// grow memory without end. Further topics are counted under `other`.
const MAX_TOPICS: usize = 64;

/// Declares each metric in one place. A line gives the field in [`Metrics`], which has the name of
/// the metric, its initial value unless that is the default, and the help text. The field, its
/// construction and its registration follow from the line.
macro_rules! declare_metrics {
    (@initial) => { Default::default() };
    (@initial $initial:expr) => { $initial };
    ($($visibility:vis $name:ident: $kind:ty $(= $initial:expr)?, $help:literal;)*) => {
        /// All metrics and the registry that encodes them.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            accounting: Arc<MessageAccounting>,
            topics: Mutex<Vec<String>>,
            /// Gaps recorded since the start, and the age of the newest one in the database.
            pub gaps: GapMetrics,
            $(#[doc = concat!($help, ".")] $visibility $name: $kind,)*
        }

        impl Metrics {
            fn unregistered() -> Self {
                Self {
                    registry: Registry::default(),
                    accounting: Arc::default(),
                    topics: Mutex::default(),
                    gaps: GapMetrics::default(),
                    $($name: declare_metrics!(@initial $($initial)?),)*
                }
            }

            fn register_declared(&self, registry: &mut Registry) {
                $(registry.register(stringify!($name), $help, self.$name.clone());)*
            }
        }
    };
}

declare_metrics! {
    pub received: Family<ReceivedLabels, Counter>, "PUBLISH packets received";
    pub committed: Family<KindLabel, Counter>, "Events stored as a new row";
    pub duplicates: Family<KindLabel, Counter>, "Events whose row already existed";
    pub dead_letters: Family<ReasonLabel, Counter>, "Messages stored as dead letters";
    pub acks: Counter, "PUBACK and PUBREC packets sent";
    pub unacked: IntGauge, "Messages received and not yet acknowledged";
    pub oldest_unacked_seconds: SecondsGauge, "Age of the oldest message not yet acknowledged";
    // 0.5 ms to 16 s: a local commit takes about one, a time-out thirty seconds.
    pub commit_seconds: Histogram = doubling_from(0.0005, 16), "Duration of one committed batch";
    // 5 ms to 1.4 h: an outage of hours belongs in +Inf.
    pub event_to_commit_seconds: Histogram = doubling_from(0.005, 21),
        "Time from an event's momentum to its commit, without retained messages";
    pub batch_events: Histogram = doubling_from(1.0, 15), "Messages in one batch";
    pub reconnects: Family<ReasonLabel, Counter>, "Connections lost or refused";
    pub connected: IntGauge, "1 while subscribed at the broker";
    pub session_present: OptionalGauge<i64>,
        "1 if the broker still knew the session at the last connection";
    pub standby: IntGauge, "1 while another process holds the client id";
    pub commit_failures: Family<ClassLabel, Counter>, "Transactions that failed";
    pub certificate_expiry_seconds: OptionalGauge<f64>,
        "Time left on the client certificate, negative once expired";
    pub spool_events: OptionalGauge<i64>, "Messages in the spool";
    pub spool_bytes: OptionalGauge<i64>, "Size of the spool";
    pub spool_max_bytes: OptionalGauge<i64>, "Limit of the spool, spool.max_size";
    pub spool_oldest_seconds: OptionalGauge<f64>,
        "Age of the oldest message in the spool, 0 while it is empty";
    pub database_up: IntGauge, "1 while PostgreSQL answers";
    pub retention_overdue_seconds: SecondsGauge,
        "How long the oldest partition that could not be dropped yet is past retention.events";
    pub stays_lag_seconds: OptionalGauge<f64>,
        "Age of the oldest batch whose stays are not computed yet, 0 if there is none";
    pub boards_silent: OptionalGauge<i64>,
        "Boards that are silent for longer than is usual for them";
    pub map_viewers: IntGauge, "Browsers that follow the map";
    pub map_reads: Counter, "Reads of the database for the map, of all viewers together";
    pub default_partition_rows: Counter, "Rows stored in the default partition";
    stage_restarts: Family<StageLabel, Counter>, "Restarts of a failed stage or background task";
    pub last_event_timestamp_seconds: OptionalGauge<f64>,
        "Momentum of the newest committed event, Unix time";
    pub last_commit_timestamp_seconds: OptionalGauge<f64>, "Last commit of a batch, Unix time";
}

/// Returns a histogram with `count` buckets, each twice as wide as the one before.
fn doubling_from(first: f64, count: u16) -> Histogram {
    Histogram::new(exponential_buckets(first, 2.0, count))
}

impl Metrics {
    /// Creates and registers all metrics.
    pub fn new() -> Self {
        let metrics = Self::unregistered();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.create_labels();
        Self { registry, ..metrics }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(ProcessCollector::started_now()));
        let registry = registry.sub_registry_with_prefix("centiloc_bridge");
        self.gaps.register(registry);
        let accounting = AccountingCollector(Arc::clone(&self.accounting));
        registry.register_collector(Box::new(accounting));
        self.register_declared(registry);
        registry.register(
            "log_lines_dropped",
            "Log lines dropped because standard error did not accept them",
            stderr::dropped(),
        );
        let build = vec![("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)];
        registry.register("build", "Version and commit of the running program", Info::new(build));
    }

    /// Creates the counters of all known labels at 0. No alert could see the rise of a counter that
    /// first appears at 1.
    fn create_labels(&self) {
        for reason in RejectReason::ALL {
            let reason = reason.as_str();
            drop(self.dead_letters.get_or_create(&ReasonLabel { reason }));
        }
        for class in FAILURE_CLASSES {
            drop(self.commit_failures.get_or_create(&ClassLabel { class }));
        }
        for kind in EventKind::ALL.map(EventKind::as_str) {
            drop(self.committed.get_or_create(&KindLabel { kind }));
            drop(self.duplicates.get_or_create(&KindLabel { kind }));
        }
    }

    /// Returns the account of received messages, which is encoded with the metrics.
    pub fn accounting(&self) -> &Arc<MessageAccounting> {
        &self.accounting
    }

    /// Returns the labels under which a PUBLISH is counted.
    pub fn received_labels(&self, topic: &str, qos: u8) -> ReceivedLabels {
        // Unwrap safety: nothing panics while this lock is held.
        let mut topics = self.topics.lock().expect("topics lock");
        let mut known = topics.iter().any(|known| known == topic);
        if !known && topics.len() < MAX_TOPICS {
            topics.push(topic.to_owned());
            known = true;
        }
        ReceivedLabels { topic: if known { topic } else { "other" }.to_owned(), qos }
    }

    /// Creates the restart counter of a task at 0.
    pub fn show_restarts(&self, stage: &'static str) {
        drop(self.stage_restarts.get_or_create(&StageLabel { stage }));
    }

    /// Counts one restart of a task.
    pub fn count_restart(&self, stage: &'static str) {
        self.stage_restarts.get_or_create(&StageLabel { stage }).inc();
    }

    /// Counts one received PUBLISH.
    pub fn count_received(&self, topic: &str, qos: u8) {
        self.received.get_or_create(&self.received_labels(topic, qos)).inc();
    }

    /// Returns the number of PUBLISH packets received, over all topics and qualities of service.
    pub fn received_total(&self) -> u64 {
        // Unwrap safety: nothing panics while this lock is held.
        let mut topics = self.topics.lock().expect("topics lock").clone();
        if !topics.iter().any(|topic| topic == "other") {
            topics.push("other".to_owned());
        }
        let labels = topics
            .into_iter()
            .flat_map(|topic| [0, 1, 2].map(|qos| ReceivedLabels { topic: topic.clone(), qos }));
        labels.filter_map(|labels| self.received.get(&labels).map(|counter| counter.get())).sum()
    }

    /// Observes a duration in a histogram of seconds.
    pub fn observe(histogram: &Histogram, duration: Duration) {
        histogram.observe(duration.as_secs_f64());
    }

    /// Returns all metrics in the Prometheus text format 0.0.4.
    pub fn encode_text(&self) -> String {
        super::text_format::from_openmetrics(&self.encode_openmetrics())
    }

    /// Returns all metrics as OpenMetrics text.
    pub fn encode_openmetrics(&self) -> String {
        let mut text = String::new();
        // Unwrap safety: writing to a String does not fail.
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("metrics encode into a String");
        self.gaps.scraped();
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
