//! Every figure the admin endpoint serves under `/metrics`. Names are part of the contract.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::accounting_collector::AccountingCollector;
use super::gaps::GapMetrics;
use super::optional_gauge::OptionalGauge;
use super::process::ProcessCollector;
use super::stderr;
use crate::accounting::MessageAccounting;
use crate::event::RejectReason;
use crate::version::COMMIT;

#[cfg(test)]
mod tests;

/// Label `topic`, `qos`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReceivedLabels {
    /// Topic name.
    pub topic: String,
    /// 0 or 1.
    pub qos: u8,
}

/// Label `kind`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabel {
    /// `item` or `board`.
    pub kind: &'static str,
}

/// Label `reason`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReasonLabel {
    /// A word of the vocabulary of the metric.
    pub reason: &'static str,
}

/// Label `class`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ClassLabel {
    /// One of [`FAILURE_CLASSES`].
    pub class: &'static str,
}

/// Classes of failed commits: `retry` passes by itself, `halve` is a statement that took too long,
/// `stop` needs an operator, `unknown` is a code without a known meaning, which is retried.
pub const FAILURE_CLASSES: [&str; 4] = ["retry", "halve", "stop", "unknown"];

/// Label `stage`.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct StageLabel {
    /// A stage of the pipeline or a background task.
    pub stage: &'static str,
}

/// A gauge of whole numbers.
pub type IntGauge = Gauge<i64, AtomicI64>;
/// A gauge of seconds.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

/// The label `topic` may hold at most this many values: topics come from the broker, and a
/// wildcard share must not grow memory without end. Further ones are counted under `other`.
const MAX_TOPICS: usize = 64;

/// The registry with every metric in it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    accounting: Arc<MessageAccounting>,
    topics: Mutex<Vec<String>>,
    /// PUBLISH packets received.
    pub received: Family<ReceivedLabels, Counter>,
    /// Events that became a row.
    pub committed: Family<KindLabel, Counter>,
    /// Events whose row existed.
    pub duplicates: Family<KindLabel, Counter>,
    /// Messages set aside.
    pub dead_letters: Family<ReasonLabel, Counter>,
    /// PUBACK packets handed to the connection.
    pub acks: Counter,
    /// Received and not yet acknowledged.
    pub unacked: IntGauge,
    /// Age of the oldest of them.
    pub oldest_unacked_seconds: SecondsGauge,
    /// Time of one committed batch.
    pub commit_seconds: Histogram,
    /// From momentum to commit, retained messages left out.
    pub event_to_commit_seconds: Histogram,
    /// Messages in one batch.
    pub batch_events: Histogram,
    /// Connections lost or refused.
    pub reconnects: Family<ReasonLabel, Counter>,
    /// 1 while subscribed.
    pub connected: IntGauge,
    /// 1 if the broker still knew the session at the last CONNACK.
    pub session_present: OptionalGauge<i64>,
    /// 1 while another process holds the client id.
    pub standby: IntGauge,
    /// Possible losses.
    pub gaps: GapMetrics,
    /// Transactions that failed.
    pub commit_failures: Family<ClassLabel, Counter>,
    /// Time left on the client certificate; negative once expired.
    pub certificate_expiry_seconds: OptionalGauge<f64>,
    /// Messages in the spool.
    pub spool_events: OptionalGauge<i64>,
    /// Size of the spool.
    pub spool_bytes: OptionalGauge<i64>,
    /// `spool.max_size`.
    pub spool_max_bytes: OptionalGauge<i64>,
    /// Age of the oldest message in the spool; 0 while it is empty.
    pub spool_oldest_seconds: OptionalGauge<f64>,
    /// 1 while PostgreSQL answers.
    pub database_up: IntGauge,
    /// How long the oldest partition that could not be dropped is past its retention.
    pub retention_overdue_seconds: SecondsGauge,
    /// Rows that no partition could be made for.
    pub default_partition_rows: Counter,
    /// Stages and background tasks that failed and were restarted.
    stage_restarts: Family<StageLabel, Counter>,
    /// Momentum of the newest committed event, Unix time.
    pub last_event_timestamp_seconds: OptionalGauge<f64>,
    /// When the last batch was committed, Unix time.
    pub last_commit_timestamp_seconds: OptionalGauge<f64>,
}

impl Metrics {
    /// All metrics, registered.
    pub fn new() -> Self {
        // 0.5 ms to 16 s: a local commit takes about one, a time-out thirty seconds.
        let commit = Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
            0.0005, 2.0, 16,
        ));
        // 5 ms to 1.4 h: an outage of hours belongs in +Inf.
        let lag = Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
            0.005, 2.0, 21,
        ));
        let batch = Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
            1.0, 2.0, 15,
        ));
        let mut metrics = Self {
            registry: Registry::default(),
            accounting: Arc::default(),
            topics: Mutex::default(),
            received: Family::default(),
            committed: Family::default(),
            duplicates: Family::default(),
            dead_letters: Family::default(),
            acks: Counter::default(),
            unacked: Gauge::default(),
            oldest_unacked_seconds: Gauge::default(),
            commit_seconds: commit,
            event_to_commit_seconds: lag,
            batch_events: batch,
            reconnects: Family::default(),
            connected: Gauge::default(),
            session_present: OptionalGauge::default(),
            standby: Gauge::default(),
            gaps: GapMetrics::default(),
            commit_failures: Family::default(),
            certificate_expiry_seconds: OptionalGauge::default(),
            spool_events: OptionalGauge::default(),
            spool_bytes: OptionalGauge::default(),
            spool_max_bytes: OptionalGauge::default(),
            spool_oldest_seconds: OptionalGauge::default(),
            database_up: Gauge::default(),
            retention_overdue_seconds: Gauge::default(),
            default_partition_rows: Counter::default(),
            stage_restarts: Family::default(),
            last_event_timestamp_seconds: OptionalGauge::default(),
            last_commit_timestamp_seconds: OptionalGauge::default(),
        };
        metrics.register();
        // A counter that first shows at 1 has no rise that an alert could see.
        for reason in RejectReason::ALL {
            let reason = reason.as_str();
            drop(metrics.dead_letters.get_or_create(&ReasonLabel { reason }));
        }
        for class in FAILURE_CLASSES {
            drop(metrics.commit_failures.get_or_create(&ClassLabel { class }));
        }
        for kind in ["item", "board"] {
            drop(metrics.committed.get_or_create(&KindLabel { kind }));
            drop(metrics.duplicates.get_or_create(&KindLabel { kind }));
        }
        metrics
    }

    /// Returns the account of the messages received, which is encoded with the metrics.
    pub fn accounting(&self) -> &Arc<MessageAccounting> {
        &self.accounting
    }

    fn register(&mut self) {
        self.registry.register_collector(Box::new(ProcessCollector::started_now()));
        let r = self.registry.sub_registry_with_prefix("centiloc_bridge");
        self.gaps.register(r);
        r.register_collector(Box::new(AccountingCollector(Arc::clone(&self.accounting))));
        r.register("received", "PUBLISH packets received", self.received.clone());
        r.register("committed", "Events that became a row", self.committed.clone());
        r.register("duplicates", "Events whose row already existed", self.duplicates.clone());
        r.register("dead_letters", "Messages set aside", self.dead_letters.clone());
        r.register("acks", "PUBACK and PUBREC packets sent", self.acks.clone());
        r.register("unacked", "Messages received and not yet acknowledged", self.unacked.clone());
        r.register(
            "oldest_unacked_seconds",
            "Age of the oldest message not yet acknowledged",
            self.oldest_unacked_seconds.clone(),
        );
        r.register("commit_seconds", "Time of one committed batch", self.commit_seconds.clone());
        r.register(
            "event_to_commit_seconds",
            "From the event's momentum to its commit, retained messages left out",
            self.event_to_commit_seconds.clone(),
        );
        r.register("batch_events", "Messages in one batch", self.batch_events.clone());
        r.register("reconnects", "Connections lost or refused", self.reconnects.clone());
        r.register("connected", "1 while subscribed at the broker", self.connected.clone());
        r.register(
            "session_present",
            "1 if the broker still knew the session at the last connection",
            self.session_present.clone(),
        );
        r.register("standby", "1 while another process holds the client id", self.standby.clone());
        r.register("commit_failures", "Transactions that failed", self.commit_failures.clone());
        r.register(
            "certificate_expiry_seconds",
            "Time left on the client certificate",
            self.certificate_expiry_seconds.clone(),
        );
        r.register("spool_events", "Messages in the spool", self.spool_events.clone());
        r.register("spool_bytes", "Size of the spool", self.spool_bytes.clone());
        r.register("spool_max_bytes", "Limit of the spool", self.spool_max_bytes.clone());
        r.register(
            "spool_oldest_seconds",
            "Age of the oldest message in the spool",
            self.spool_oldest_seconds.clone(),
        );
        r.register("database_up", "1 while PostgreSQL answers", self.database_up.clone());
        r.register(
            "retention_overdue_seconds",
            "How long the oldest partition that could not be dropped yet is past retention.events",
            self.retention_overdue_seconds.clone(),
        );
        r.register(
            "default_partition_rows",
            "Rows that went to the default partition",
            self.default_partition_rows.clone(),
        );
        r.register(
            "stage_restarts",
            "Restarts of a failed stage or background task",
            self.stage_restarts.clone(),
        );
        r.register(
            "last_event_timestamp_seconds",
            "Momentum of the newest committed event, Unix time",
            self.last_event_timestamp_seconds.clone(),
        );
        r.register(
            "last_commit_timestamp_seconds",
            "Last commit of a batch, Unix time",
            self.last_commit_timestamp_seconds.clone(),
        );
        r.register(
            "log_lines_dropped",
            "Log lines dropped because standard error did not take them",
            stderr::dropped(),
        );
        r.register(
            "build",
            "The running program",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)]),
        );
    }

    /// The labels under which a PUBLISH is counted.
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

    /// Shows the restarts of a task, even if there are none.
    pub fn show_restarts(&self, stage: &'static str) {
        drop(self.stage_restarts.get_or_create(&StageLabel { stage }));
    }

    /// Counts one restart of a task.
    pub fn count_restart(&self, stage: &'static str) {
        self.stage_restarts.get_or_create(&StageLabel { stage }).inc();
    }

    /// Counts one PUBLISH.
    pub fn count_received(&self, topic: &str, qos: u8) {
        self.received.get_or_create(&self.received_labels(topic, qos)).inc();
    }

    /// PUBLISH packets received, over all topics and qualities of service.
    pub fn received_in_all(&self) -> u64 {
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
