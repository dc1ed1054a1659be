//! Availability of the database, as the writer and maintenance observe it. Each change is reported once,
//! in the log, in the health snapshot and in the metric.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use time::OffsetDateTime;

use super::error::StoreError;
use crate::telemetry::{Health, Metrics};

/// The observer of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusSource {
    /// The stage that writes the stream. Its error remains until its own success.
    Writer,
    /// The heartbeat of maintenance, which detects an outage while the stream is idle.
    Maintenance,
}

/// Availability of the database.
#[derive(Debug)]
pub struct DatabaseStatus {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    state: Mutex<StatusState>,
}

#[derive(Debug, Default)]
struct StatusState {
    /// True once the writer has found the schema in place. Before that nothing can be stored, even if
    /// the server answers.
    prepared: bool,
    writer: Option<OngoingError>,
    maintenance: Option<OngoingError>,
}

impl StatusState {
    fn note(&mut self, source: StatusSource, text: &str, needs_action: bool) -> ErrorNovelty {
        let (own, other) = match source {
            StatusSource::Writer => (&mut self.writer, &self.maintenance),
            StatusSource::Maintenance => (&mut self.maintenance, &self.writer),
        };
        let is_same = |error: &Option<OngoingError>| error.as_ref().is_some_and(|e| e.text == text);
        if is_same(own) {
            return ErrorNovelty::Repeated;
        }
        let (since, since_time) = own.take().map_or_else(
            || (Instant::now(), OffsetDateTime::now_utc()),
            |error| (error.since, error.since_time),
        );
        *own = Some(OngoingError { text: text.to_owned(), needs_action, since, since_time });
        if is_same(other) { ErrorNovelty::KnownToOther } else { ErrorNovelty::New }
    }
}

/// Novelty of an error among those that are ongoing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorNovelty {
    /// The same source observed it before.
    Repeated,
    /// The other source observed it before: one outage is one line of the log.
    KnownToOther,
    /// No source observed it before.
    New,
}

#[derive(Debug)]
struct OngoingError {
    text: String,
    needs_action: bool,
    since: Instant,
    since_time: OffsetDateTime,
}

impl DatabaseStatus {
    /// Returns the status before the first observation.
    pub fn new(health: Arc<Health>, metrics: Arc<Metrics>) -> Self {
        Self { health, metrics, state: Mutex::default() }
    }

    /// Records a success.
    pub fn answered(&self, source: StatusSource) {
        self.change(|state| {
            let mut resolved = state.maintenance.take();
            if source == StatusSource::Writer {
                // If the stream flows, nothing else matters.
                resolved = state.writer.take().or(resolved);
            }
            let first = source == StatusSource::Writer && !state.prepared;
            let changed = resolved.is_some() || first;
            state.prepared |= first;
            if let Some(problem) = resolved.filter(|_| state.writer.is_none()) {
                let seconds = problem.since.elapsed().as_secs_f64();
                tracing::info!(after_seconds = seconds, "database is available again");
            }
            changed
        });
    }

    /// Records a failure.
    pub fn failed(&self, source: StatusSource, error: &StoreError) {
        let text = error.to_string();
        self.change(|state| {
            let novelty = state.note(source, &text, matches!(error, StoreError::Stop(_)));
            match (novelty, error) {
                (ErrorNovelty::Repeated | ErrorNovelty::KnownToOther, _) => {}
                (ErrorNovelty::New, StoreError::Stop(_)) => tracing::error!(
                    error = %text,
                    "database requires operator action; holding events"
                ),
                (ErrorNovelty::New, _) => tracing::warn!(error = %text, "database error; retrying"),
            }
            novelty != ErrorNovelty::Repeated
        });
    }

    fn change(&self, change: impl FnOnce(&mut StatusState) -> bool) {
        // What a panic left behind is whole: each change is one assignment.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut state) {
            return;
        }
        let ongoing = state.writer.as_ref().or(state.maintenance.as_ref());
        let problem = ongoing.map(|error| error.text.clone());
        let needs_action = ongoing.is_some_and(|error| error.needs_action);
        let down_since = ongoing.map(|error| error.since_time);
        let up = problem.is_none() && state.prepared;
        self.metrics.database_up.set(i64::from(up));
        self.health.update(|snapshot| {
            snapshot.database.up = up;
            snapshot.database.problem = problem;
            snapshot.database.needs_action = needs_action;
            snapshot.database.down_since = down_since;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::error::DbError;

    fn condition() -> (DatabaseStatus, Arc<Health>) {
        let health = Arc::new(Health::default());
        (DatabaseStatus::new(Arc::clone(&health), Arc::new(Metrics::new())), health)
    }

    fn stop(text: &str) -> StoreError {
        StoreError::Stop(DbError::stop(text))
    }

    #[test]
    fn database_is_down_until_schema_is_found() {
        let (condition, health) = condition();
        condition.answered(StatusSource::Maintenance);
        assert!(!health.snapshot().database.up);
        condition.answered(StatusSource::Writer);
        assert!(health.snapshot().database.up);
        assert_eq!(condition.metrics.database_up.get(), 1);
    }

    #[test]
    fn working_heartbeat_does_not_hide_stuck_stream() {
        let (condition, health) = condition();
        condition.failed(StatusSource::Writer, &stop("permission denied"));
        condition.answered(StatusSource::Maintenance);
        let database = health.snapshot().database;
        assert!(!database.up);
        assert_eq!(database.problem.as_deref(), Some("permission denied"));
        condition.answered(StatusSource::Writer);
        assert!(health.snapshot().database.up);
        assert_eq!(health.snapshot().database.problem, None);
    }

    #[test]
    fn idle_outage_ends_with_the_next_commit() {
        let (condition, health) = condition();
        condition.answered(StatusSource::Writer);
        condition.failed(StatusSource::Maintenance, &stop("gone"));
        assert!(!health.snapshot().database.up);
        condition.answered(StatusSource::Writer);
        assert!(health.snapshot().database.up);
    }

    #[test]
    fn error_of_both_sources_is_new_once() {
        let mut state = StatusState::default();
        assert_eq!(state.note(StatusSource::Writer, "a", false), ErrorNovelty::New);
        assert_eq!(state.note(StatusSource::Maintenance, "a", false), ErrorNovelty::KnownToOther);
        assert_eq!(state.note(StatusSource::Maintenance, "a", false), ErrorNovelty::Repeated);
        assert_eq!(state.note(StatusSource::Maintenance, "b", false), ErrorNovelty::New);
        assert_eq!(state.note(StatusSource::Writer, "a", false), ErrorNovelty::Repeated);
    }

    #[test]
    fn writer_success_clears_both_errors() {
        let (condition, health) = condition();
        condition.failed(StatusSource::Writer, &stop("a"));
        condition.failed(StatusSource::Maintenance, &stop("b"));
        condition.answered(StatusSource::Writer);
        assert!(health.snapshot().database.up);
    }
}
