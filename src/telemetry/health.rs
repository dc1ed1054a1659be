//! The state of the service as seen from outside: written by the stages, read by the admin
//! endpoint.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use serde::Serialize;
use time::OffsetDateTime;

use crate::connection_event::ConnectionName;
use crate::timestamp;

/// A snapshot for `/readyz`, `/api/status` and `status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HealthSnapshot {
    /// The broker.
    pub session: SessionHealth,
    /// PostgreSQL.
    pub database: DatabaseHealth,
    /// The spool; `None` while it is off.
    pub spool: Option<SpoolHealth>,
    /// The client certificate; `None` without TLS.
    pub certificate: Option<CertificateHealth>,
    /// What proves who we are.
    pub credentials: CredentialsHealth,
    /// The configuration while running.
    pub configuration: ConfigurationHealth,
    /// Stages and background tasks that failed and are about to be restarted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks_down: Vec<TaskDown>,
}

/// A stage or background task that does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskDown {
    /// Its name.
    pub task: &'static str,
    /// Why it ended.
    pub problem: String,
}

/// The broker, as the session sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SessionHealth {
    /// The connection that stands.
    #[serde(skip)]
    pub connection: Option<ConnectionName>,
    /// What the session is doing.
    pub phase: SessionPhase,
    /// Why it is not subscribed, with the cure; empty while it is.
    pub problem: Option<String>,
    /// Since when the phase lasts.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub since: Option<OffsetDateTime>,
    /// MQTT Session Present of the last CONNACK.
    pub session_present: bool,
    /// Granted filters.
    pub filters: Vec<String>,
    /// When the last message came.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub last_message_at: Option<OffsetDateTime>,
}

/// What the session is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionPhase {
    /// Not started yet.
    #[default]
    Starting,
    /// Another process holds the client id.
    Standby,
    /// Connecting, or waiting to.
    Connecting,
    /// Subscribed at QoS 1.
    Subscribed,
    /// Draining.
    Stopping,
}

/// PostgreSQL, as the store sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DatabaseHealth {
    /// Whether the last attempt was answered.
    pub up: bool,
    /// Why not, with the cure.
    pub problem: Option<String>,
    /// When the last batch was committed.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub last_commit_at: Option<OffsetDateTime>,
    /// Momentum of the newest committed event.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub last_event_at: Option<OffsetDateTime>,
    /// How long the oldest partition that could not be dropped yet is past `retention.events`,
    /// seconds; 0 without one.
    pub retention_overdue_seconds: f64,
    /// Host clock minus database clock, seconds; `None` until measured.
    pub clock_skew_seconds: Option<f64>,
    /// The measurement behind it.
    #[serde(skip)]
    pub clock: Option<ClockReading>,
}

/// The clocks of host and database, compared at some moment.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    /// Host clock minus database clock, seconds.
    pub skew_seconds: f64,
    /// The host's clock at that moment.
    pub at: OffsetDateTime,
    /// The same moment on the clock that nobody sets.
    pub monotonic_at: Instant,
}

impl ClockReading {
    /// Makes the reading of a comparison that was just made.
    pub fn now(skew_seconds: f64) -> Self {
        Self { skew_seconds, at: OffsetDateTime::now_utc(), monotonic_at: Instant::now() }
    }

    /// The skew at a later moment, told by both of the host's clocks, seconds: a host's clock that
    /// was set meanwhile is off by as much more than time has passed.
    pub fn skew_at(self, now: OffsetDateTime, monotonic_now: Instant) -> f64 {
        let passed = monotonic_now.saturating_duration_since(self.monotonic_at);
        self.skew_seconds + (now - self.at).as_seconds_f64() - passed.as_secs_f64()
    }

    /// Returns the time of the later of the two clocks, at a later moment.
    pub fn later_clock(self, now: OffsetDateTime, monotonic_now: Instant) -> OffsetDateTime {
        let behind = (-self.skew_at(now, monotonic_now)).max(0.0);
        now.saturating_add(time::Duration::saturating_seconds_f64(behind))
    }
}

/// The spool.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SpoolHealth {
    /// Messages held.
    pub events: u64,
    /// Bytes held.
    pub bytes: u64,
    /// When the oldest was received.
    #[serde(serialize_with = "timestamp::option::serialize")]
    pub oldest_at: Option<OffsetDateTime>,
    /// What is wrong, with the cure.
    pub problem: Option<String>,
}

/// The client certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateHealth {
    /// End of its validity.
    #[serde(serialize_with = "timestamp::serialize")]
    pub not_after: OffsetDateTime,
}

/// What proves who we are.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CredentialsHealth {
    /// Why the files as they are now are not used, with the cure; earlier ones are in use.
    pub problem: Option<String>,
    /// Why the broker refused the newest credentials; earlier ones are in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// That the certificate ends soon, and how to renew it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal: Option<String>,
    /// When they were renewed last since the start.
    #[serde(
        serialize_with = "timestamp::option::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub renewed_at: Option<OffsetDateTime>,
}

/// The configuration while running.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConfigurationHealth {
    /// Why the configuration as it is now was refused; the earlier one stays in force.
    pub problem: Option<String>,
    /// When it was last reloaded.
    #[serde(
        serialize_with = "timestamp::option::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub reloaded_at: Option<OffsetDateTime>,
    /// Keys whose new values count only after a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<String>,
}

/// Shared between the stages and the admin endpoint.
#[derive(Debug, Default)]
pub struct Health(Mutex<HealthSnapshot>);

impl Health {
    /// A copy of the present state.
    pub fn snapshot(&self) -> HealthSnapshot {
        self.lock().clone()
    }

    /// One figure of the present state, without copying the rest.
    pub fn read<T>(&self, figure: impl FnOnce(&HealthSnapshot) -> T) -> T {
        figure(&self.lock())
    }

    /// Changes the state.
    pub fn update(&self, change: impl FnOnce(&mut HealthSnapshot)) {
        change(&mut self.lock());
    }

    /// Notes that a task failed and does not run.
    pub fn task_is_down(&self, task: &'static str, problem: &str) {
        self.update(|snapshot| {
            snapshot.tasks_down.retain(|down| down.task != task);
            snapshot.tasks_down.push(TaskDown { task, problem: problem.to_owned() });
        });
    }

    /// Notes that a task runs again.
    pub fn task_is_up(&self, task: &str) {
        self.update(|snapshot| snapshot.tasks_down.retain(|down| down.task != task));
    }

    fn lock(&self) -> MutexGuard<'_, HealthSnapshot> {
        // A stage that panicked mid-update left a snapshot that is at worst half new.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_was_set_after_the_comparison_is_off_by_as_much() {
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
