//! The state of the service in one sentence, with the cause and the remedy of each problem. Page,
//! `/api/status` and the command `status` show the same. Pure: the time is an argument.

mod findings;
#[cfg(test)]
mod tests;

use serde::Serialize;
use time::OffsetDateTime;

use super::report::StatusCounters;
use super::shell::Glance;
use crate::progress::StuckTask;
use crate::store::overview::Overview;
use crate::telemetry::health::HealthSnapshot;

/// Facts from which the summary is derived.
#[derive(Debug)]
pub struct Situation<'a> {
    /// Health of all parts.
    pub parts: &'a HealthSnapshot,
    /// Counters since the start.
    pub figures: &'a StatusCounters,
    /// Tasks that make no progress.
    pub stuck: &'a [StuckTask],
    /// Received messages of which the service has lost track.
    pub unaccounted: i64,
    /// Age of the oldest batch whose stays are not computed, seconds. `None` until known.
    pub stays_lag_seconds: Option<f64>,
    /// Limit of the spool, bytes.
    pub spool_max_bytes: Option<u64>,
    /// The newest gaps, dead letters and connections, as last read.
    pub overview: Option<&'a Overview>,
    /// Seconds since the start of the process.
    pub uptime_seconds: f64,
    /// The present time.
    pub now: OffsetDateTime,
}

/// Urgency of a problem, and of the whole state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Events are stored as they arrive.
    Well,
    /// Something is wrong that resolves itself, or can wait until the morning.
    Degraded,
    /// An operator must act.
    NeedsYou,
}

impl Verdict {
    /// Returns the words on top of page and terminal.
    pub fn words(self) -> &'static str {
        match self {
            Self::Well => "Well",
            Self::Degraded => "Degraded",
            Self::NeedsYou => "Needs you",
        }
    }

    /// Returns the state at a glance.
    pub fn glance(self) -> Glance {
        match self {
            Self::Well => Glance::Good,
            Self::Degraded => Glance::Warn,
            Self::NeedsYou => Glance::Bad,
        }
    }
}

/// A problem, with its cause and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Part of the service, such as `session` or `database`.
    pub part: &'static str,
    /// Urgency of the problem.
    pub verdict: Verdict,
    /// The problem in a few words, without a full stop.
    pub problem: String,
    /// Consequence for events.
    pub effect: String,
    /// Cause, as far as it is known.
    pub cause: String,
    /// Action of the operator.
    pub remedy: String,
}

/// The state of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The most urgent verdict of all findings.
    pub verdict: Verdict,
    /// The state in one sentence.
    pub sentence: String,
    /// All problems, the most urgent first.
    pub findings: Vec<Finding>,
}

impl Summary {
    /// Assesses the situation.
    pub fn new(situation: &Situation<'_>) -> Self {
        let mut findings = findings::of(situation);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
        let verdict = findings.first().map_or(Verdict::Well, |finding| finding.verdict);
        let sentence = match &findings[..] {
            [] => "Well: events are stored as they arrive.".to_owned(),
            [only] => format!("{}: {}.", verdict.words(), only.problem),
            [first, rest @ ..] => {
                let others = if rest.len() == 1 { "problem" } else { "problems" };
                let number = rest.len();
                format!("{}: {}, and {number} other {others}.", verdict.words(), first.problem)
            }
        };
        Self { verdict, sentence, findings }
    }
}
