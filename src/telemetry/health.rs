//! The health of the service: written by the stages, read by the admin endpoint.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use serde::Serialize;
use time::OffsetDateTime;

use crate::stream::connection_event::ConnectionName;
use crate::timestamp;

/// The health of all parts at one moment, for `/readyz`, `/api/status` and `status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HealthSnapshot {
    /// Health of the broker session.
    pub session: SessionHealth,
    /// Health of the database.
    pub database: DatabaseHealth,
    /// Health of the spool, or `None` while it is off.
    pub spool: Option<SpoolHealth>,
    /// Validity of the client certificate, or `None` without TLS.
    pub certificate: Option<CertificateHealth>,
    /// State of the client credentials.
    pub credentials: CredentialsHealth,
    /// State of the configuration since the start.
    pub configuration: ConfigurationHealth,
    /// Stages and background tasks that failed and wait for their restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks_down: Vec<TaskDown>,
}

/// A stage or background task that failed and does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskDown {
    /// Name of the task.
    pub task: &'static str,
    /// Error that ended the task.
    pub problem: String,
}

/// The state of the broker session.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SessionHealth {
    /// The open connection, if any.
    #[serde(skip)]
    pub connection: Option<ConnectionName>,
    /// Current phase of the session.
    pub phase: SessionPhase,
    /// Reason for not being subscribed, with a hint, or `None` while subscribed.
    pub problem: Option<String>,
    /// True if the problem does not resolve itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub needs_action: bool,
    /// Start of the phase.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub since: Option<OffsetDateTime>,
    /// MQTT Session Present flag of the last CONNACK.
    pub session_present: bool,
    /// Topic filters that the broker granted.
    pub filters: Vec<String>,
    /// Time of the last received message.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub last_message_at: Option<OffsetDateTime>,
}

/// A phase of the broker session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionPhase {
    /// The session has not started yet.
    #[default]
    Starting,
    /// Another process holds the client id, and this one is a standby.
    Standby,
    /// Connecting, or waiting for the next attempt.
    Connecting,
    /// Subscribed to all filters at QoS 1.
    Subscribed,
    /// Shutting down: received messages are committed and acknowledged.
    Stopping,
}

/// The state of the database.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DatabaseHealth {
    /// True if the database answered the last attempt.
    pub up: bool,
    /// Error of the last attempt, with a hint.
    pub problem: Option<String>,
    /// True if the problem does not resolve itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub needs_action: bool,
    /// Start of the outage, or `None` while the database answers.
    #[serde(
        serialize_with = "timestamp::option::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub down_since: Option<OffsetDateTime>,
    /// Time of the last committed batch.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub last_commit_at: Option<OffsetDateTime>,
    /// Momentum of the newest committed event.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub last_event_at: Option<OffsetDateTime>,
    /// Time by which the oldest partition that could not be dropped yet exceeds `retention.events`,
    /// seconds, or 0 without such a partition.
    pub retention_overdue_seconds: f64,
    /// Host clock minus database clock, seconds, or `None` until measured.
    pub clock_skew_seconds: Option<f64>,
    /// The measurement from which the skew was taken.
    #[serde(skip)]
    pub clock: Option<ClockReading>,
}

/// A comparison of the clocks of host and database at one moment.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    /// Host clock minus database clock, seconds.
    pub skew_seconds: f64,
    /// The host's clock at the moment of the comparison.
    pub at: OffsetDateTime,
    /// The same moment on the monotonic clock.
    pub monotonic_at: Instant,
}

impl ClockReading {
    /// Returns the reading of a comparison made now.
    pub fn now(skew_seconds: f64) -> Self {
        Self { skew_seconds, at: OffsetDateTime::now_utc(), monotonic_at: Instant::now() }
    }

    /// Returns the skew at a later moment given on both of the host's clocks, seconds. If the
    /// host's clock was set in between, the skew includes the change.
    pub fn skew_at(self, now: OffsetDateTime, monotonic_now: Instant) -> f64 {
        let passed = monotonic_now.saturating_duration_since(self.monotonic_at);
        self.skew_seconds + (now - self.at).as_seconds_f64() - passed.as_secs_f64()
    }

    /// Returns the time on the clock that is ahead of the other, at a later moment.
    pub fn later_clock(self, now: OffsetDateTime, monotonic_now: Instant) -> OffsetDateTime {
        let behind = (-self.skew_at(now, monotonic_now)).max(0.0);
        now.saturating_add(time::Duration::saturating_seconds_f64(behind))
    }
}

/// The state of the spool.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SpoolHealth {
    /// Number of messages in the spool.
    pub events: u64,
    /// Size of the messages, bytes.
    pub bytes: u64,
    /// Time of receipt of the oldest message.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub oldest_at: Option<OffsetDateTime>,
    /// Problem of the spool, with a hint.
    pub problem: Option<String>,
}

/// The validity of the client certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateHealth {
    /// End of the validity period.
    #[serde(serialize_with = "timestamp::serialize")]
    pub not_after: OffsetDateTime,
}

/// The state of the client credentials.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CredentialsHealth {
    /// Reason why the current files are not used, with a hint. Earlier credentials are in use.
    pub problem: Option<String>,
    /// Reason why the broker refused the newest credentials. Earlier ones are in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Notice that the certificate expires soon, with the steps of a renewal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal: Option<String>,
    /// Time of the last renewal since the start.
    #[serde(
        serialize_with = "timestamp::option::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub renewed_at: Option<OffsetDateTime>,
}

/// The state of the configuration since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConfigurationHealth {
    /// Reason why the current configuration was refused. The earlier one stays in force.
    pub problem: Option<String>,
    /// Time of the last reload.
    #[serde(
        serialize_with = "timestamp::option::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub reloaded_at: Option<OffsetDateTime>,
    /// Keys whose new values take effect only after a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<String>,
}

/// The current health, shared between the stages and the admin endpoint.
#[derive(Debug, Default)]
pub struct Health(Mutex<HealthSnapshot>);

impl Health {
    /// Returns a copy of the current state.
    pub fn snapshot(&self) -> HealthSnapshot {
        self.lock().clone()
    }

    /// Reads one value of the current state, without copying the rest.
    pub fn read<T>(&self, value: impl FnOnce(&HealthSnapshot) -> T) -> T {
        value(&self.lock())
    }

    /// Changes the current state.
    pub fn update(&self, change: impl FnOnce(&mut HealthSnapshot)) {
        change(&mut self.lock());
    }

    /// Records that a task failed and does not run.
    pub fn task_is_down(&self, task: &'static str, problem: &str) {
        self.update(|snapshot| {
            snapshot.tasks_down.retain(|down| down.task != task);
            snapshot.tasks_down.push(TaskDown { task, problem: problem.to_owned() });
        });
    }

    /// Records that a task runs again.
    pub fn task_is_up(&self, task: &str) {
        self.update(|snapshot| snapshot.tasks_down.retain(|down| down.task != task));
    }

    fn lock(&self) -> MutexGuard<'_, HealthSnapshot> {
        // If a stage panics during an update, the snapshot is at worst partly updated.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn skew_includes_later_changes_of_the_clock() {
        let (at, monotonic_at) = (OffsetDateTime::UNIX_EPOCH, Instant::now());
        let reading = ClockReading { skew_seconds: 0.5, at, monotonic_at };
        let skew_after = |wall: i64, passed: u64| {
            let now = at + time::Duration::seconds(wall);
            reading.skew_at(now, monotonic_at + Duration::from_secs(passed))
        };
        for (wall, passed, expected) in
            [(8, 8, 0.5), (-3600 + 8, 8, -3599.5), (3600 + 8, 8, 3600.5), (0, 0, 0.5)]
        {
            assert!((skew_after(wall, passed) - expected).abs() < 1e-6, "{wall} {passed}");
        }
    }
}
