//! The JSON documents of the endpoint: liveness, readiness with reasons and hints, and the status.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;

use super::AdminState;
use super::overview_cache::CachedOverview;
use super::summary::{Situation, Summary};
use super::tiles::{Tile, tiles};
use crate::event::{EventKind, RejectReason};
use crate::progress::StuckTask;
use crate::telemetry::Metrics;
use crate::telemetry::health::{HealthSnapshot, SessionPhase};
use crate::telemetry::metrics::{KindLabel, ReasonLabel};

/// The document of `/livez`.
#[derive(Debug, Serialize)]
pub struct LivenessReport {
    /// True if all stages and background tasks make progress.
    pub live: bool,
    /// Tasks that make no progress, the most overdue first.
    pub stuck: Vec<StuckTask>,
}

impl LivenessReport {
    /// Reports the process as live if no task is stuck.
    pub fn new(stuck: Vec<StuckTask>) -> Self {
        Self { live: stuck.is_empty(), stuck }
    }
}

/// The document of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    /// True if events are received and can be made durable.
    pub ready: bool,
    /// Reasons for not being ready, empty while ready.
    pub not_ready: Vec<ReadinessProblem>,
}

/// A part of the service that keeps it from being ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadinessProblem {
    /// `session`, `database`, `spool`, `accounting` or `task`.
    pub part: &'static str,
    /// Problem of the part, with a hint.
    pub problem: String,
}

impl ReadinessReport {
    /// Assesses readiness: all filters are subscribed at QoS 1, the database answers and the spool,
    /// where it is on, accepts messages.
    ///
    /// `unaccounted` counts received messages of which the service has lost track. With any, it is
    /// not ready.
    pub fn new(snapshot: &HealthSnapshot, unaccounted: i64) -> Self {
        let mut not_ready = Vec::new();
        if snapshot.session.phase != SessionPhase::Subscribed || snapshot.session.problem.is_some()
        {
            let problem = snapshot.session.problem.clone();
            let problem = problem.unwrap_or_else(|| phase_in_words(snapshot.session.phase));
            not_ready.push(ReadinessProblem { part: "session", problem });
        }
        if !snapshot.database.up {
            let problem = snapshot.database.problem.clone().unwrap_or_else(|| {
                "not connected yet; if this lasts, see the log and database.url".to_owned()
            });
            not_ready.push(ReadinessProblem { part: "database", problem });
        }
        if let Some(problem) = snapshot.spool.as_ref().and_then(|spool| spool.problem.clone()) {
            not_ready.push(ReadinessProblem { part: "spool", problem });
        }
        for down in &snapshot.tasks_down {
            let problem = format!(
                "the task {} failed and is restarted; if this lasts, see the log: {}",
                down.task, down.problem
            );
            not_ready.push(ReadinessProblem { part: "task", problem });
        }
        if unaccounted != 0 {
            let problem = format!(
                "{unaccounted} received messages are neither stored nor with the broker; restart \
                 the service, so that the broker delivers them again, and report this as a bug"
            );
            not_ready.push(ReadinessProblem { part: "accounting", problem });
        }
        Self { ready: not_ready.is_empty(), not_ready }
    }
}

/// Returns the number of received messages that nothing accounts for.
pub fn unaccounted(metrics: &Metrics) -> i64 {
    metrics.accounting().counts().unaccounted()
}

fn phase_in_words(phase: SessionPhase) -> String {
    match phase {
        SessionPhase::Starting => "starting",
        SessionPhase::Standby => {
            "standing by: another process holds the client id; stop that one, or give this one \
             its own mqtt.client_id"
        }
        SessionPhase::Connecting => {
            "connecting to the broker; if this lasts, see the log and mqtt.host"
        }
        SessionPhase::Subscribed => "subscribed",
        SessionPhase::Stopping => "stopping",
    }
    .to_owned()
}

/// The document of `/api/status`.
#[derive(Debug, Serialize)]
pub struct ServiceStatus {
    /// Version of the running program.
    pub version: &'static str,
    /// Identifier of this run of the program.
    pub instance: String,
    /// Tenant of the configuration.
    pub tenant: String,
    /// MQTT client identifier of the session.
    pub client_id: String,
    /// Start time of the process.
    #[serde(serialize_with = "crate::timestamp::serialize")]
    pub started_at: OffsetDateTime,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// True if the process makes progress, as `/livez` reports.
    pub live: bool,
    /// The state in one sentence, with the cause and the remedy of each problem.
    pub summary: Summary,
    /// The parts of the service at a glance.
    pub tiles: Vec<Tile>,
    /// The fields of `/readyz`.
    #[serde(flatten)]
    pub readiness: ReadinessReport,
    /// State of the broker session, the database and the other parts.
    #[serde(flatten)]
    pub parts: HealthSnapshot,
    /// Counters since the start.
    pub figures: StatusCounters,
}

impl ServiceStatus {
    /// Collects the present state.
    pub fn new(state: &AdminState, cached: &CachedOverview) -> Self {
        let parts = state.health.snapshot();
        let figures = StatusCounters::new(&state.metrics);
        let stuck = state.progress.stuck();
        let unaccounted = unaccounted(&state.metrics);
        let uptime = state.started.elapsed();
        let situation = Situation {
            parts: &parts,
            figures: &figures,
            stuck: &stuck,
            unaccounted,
            stays_lag_seconds: state.metrics.stays_lag_seconds.get(),
            spool_max_bytes: state.metrics.spool_max_bytes.get().and_then(|n| n.try_into().ok()),
            overview: cached.overview(),
            uptime_seconds: uptime.as_secs_f64(),
            now: OffsetDateTime::now_utc(),
        };
        let summary = Summary::new(&situation);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            instance: state.instance.to_string(),
            tenant: state.tenant.clone(),
            client_id: state.client_id.clone(),
            started_at: state.started_at,
            uptime_seconds: uptime.as_secs(),
            live: stuck.is_empty(),
            tiles: tiles(&situation, &summary),
            summary,
            readiness: ReadinessReport::new(&parts, unaccounted),
            parts,
            figures,
        }
    }
}

/// The most important metrics, summed over their labels.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct StatusCounters {
    /// PUBLISH packets received on all topics.
    pub received: u64,
    /// Events stored as a new row: `items_committed` and so on, for each kind.
    #[serde(flatten)]
    pub committed: BTreeMap<String, u64>,
    /// Events whose row already existed.
    pub duplicates: u64,
    /// Messages stored as dead letters.
    pub dead_letters: u64,
    /// PUBACK packets sent to the broker.
    pub acks: u64,
    /// Messages received and not yet acknowledged.
    pub unacked: i64,
    /// Age of the oldest unacknowledged message, seconds.
    pub oldest_unacked_seconds: f64,
    /// Gaps recorded in the database.
    pub gaps: u64,
    /// Rows stored in the default partition because no other could be created.
    pub default_partition_rows: u64,
}

impl StatusCounters {
    fn new(metrics: &Metrics) -> Self {
        let committed = |kind: EventKind| {
            let kind = kind.as_str();
            let count =
                metrics.committed.get(&KindLabel { kind }).map_or(0, |counter| counter.get());
            (format!("{kind}s_committed"), count)
        };
        let duplicates = |kind: EventKind| {
            metrics
                .duplicates
                .get(&KindLabel { kind: kind.as_str() })
                .map_or(0, |counter| counter.get())
        };
        let dead_letters = |reason: &RejectReason| {
            let label = ReasonLabel { reason: reason.as_str() };
            metrics.dead_letters.get(&label).map_or(0, |counter| counter.get())
        };
        Self {
            received: metrics.received_total(),
            committed: EventKind::ALL.map(committed).into(),
            duplicates: EventKind::ALL.map(duplicates).iter().sum(),
            dead_letters: RejectReason::ALL.iter().map(dead_letters).sum(),
            acks: metrics.acks.get(),
            unacked: metrics.unacked.get(),
            oldest_unacked_seconds: metrics.oldest_unacked_seconds.get(),
            gaps: metrics.gaps.total(),
            default_partition_rows: metrics.default_partition_rows.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::gap::GapCause;
    use crate::telemetry::health::{SpoolHealth, TaskDown};

    fn snapshot(phase: SessionPhase, database_up: bool, spool: Option<bool>) -> HealthSnapshot {
        let mut snapshot = HealthSnapshot::default();
        snapshot.session.phase = phase;
        snapshot.database.up = database_up;
        snapshot.spool = spool.map(|well| SpoolHealth {
            problem: (!well).then(|| "no space".into()),
            ..SpoolHealth::default()
        });
        snapshot
    }

    #[test]
    fn ready_needs_subscription_database_and_spool() {
        for (phase, database_up, spool, ready) in [
            (SessionPhase::Subscribed, true, None, true),
            (SessionPhase::Subscribed, true, Some(true), true),
            (SessionPhase::Subscribed, true, Some(false), false),
            (SessionPhase::Subscribed, false, Some(true), false),
            (SessionPhase::Subscribed, false, None, false),
            (SessionPhase::Connecting, true, Some(true), false),
            (SessionPhase::Standby, true, None, false),
            (SessionPhase::Starting, false, None, false),
            (SessionPhase::Stopping, true, None, false),
        ] {
            let readiness = ReadinessReport::new(&snapshot(phase, database_up, spool), 0);
            assert_eq!(readiness.ready, ready, "{phase:?} {database_up} {spool:?}");
            assert_eq!(readiness.not_ready.is_empty(), ready);
        }
    }

    #[test]
    fn every_problem_names_its_part_and_cause() {
        let mut snapshot = snapshot(SessionPhase::Connecting, false, None);
        snapshot.session.problem = Some("the broker refused the password".into());
        let down = TaskDown { task: "lock", problem: "it panicked: x".into() };
        snapshot.tasks_down.push(down);
        let readiness = ReadinessReport::new(&snapshot, 3);
        let parts: Vec<_> = readiness.not_ready.iter().map(|o| o.part).collect();
        assert_eq!(parts, ["session", "database", "task", "accounting"]);
        assert!(readiness.not_ready[2].problem.contains("task lock"));
        assert_eq!(readiness.not_ready[0].problem, "the broker refused the password");
        assert!(readiness.not_ready[1].problem.contains("database.url"));
    }

    #[test]
    fn counters_sum_over_labels() {
        let metrics = Metrics::new();
        metrics.count_received("a", 1);
        metrics.count_received("a", 0);
        (0..100).for_each(|n| metrics.count_received(&format!("topic-{n}"), 1));
        for reason in RejectReason::ALL {
            metrics.dead_letters.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
        }
        for cause in GapCause::ALL {
            metrics.gaps.count(cause);
        }
        metrics.committed.get_or_create(&KindLabel { kind: "item" }).inc_by(7);
        metrics.duplicates.get_or_create(&KindLabel { kind: "board" }).inc_by(2);
        metrics.unacked.set(3);
        let committed =
            EventKind::ALL.map(|kind| (kind, if kind == EventKind::Item { 7 } else { 0 }));
        let expected = StatusCounters {
            received: 102,
            committed: committed
                .map(|(k, count)| (format!("{}s_committed", k.as_str()), count))
                .into(),
            duplicates: 2,
            dead_letters: RejectReason::ALL.len() as u64,
            unacked: 3,
            gaps: GapCause::ALL.len() as u64,
            ..StatusCounters::default()
        };
        assert_eq!(StatusCounters::new(&metrics), expected);
    }
}
