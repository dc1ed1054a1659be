//! The failures of recent batches, from which the rows at fault are distinguished from the database.

use super::bisect::BisectResult;
use super::refusals::RefusalHistory;
use crate::store::error::DbError;

/// The recent failures, across batches.
#[derive(Debug, Default)]
pub(in crate::store) struct FailureHistory {
    pub refusals: RefusalHistory,
    /// The unknown code met last, and how often in a row.
    unknown: Option<(Option<String>, u32)>,
}

impl FailureHistory {
    /// Records a batch with this many events that was written unchanged.
    pub fn record_success(&mut self, events: usize) {
        self.refusals.note(events as u64, &[]);
        self.unknown = None;
    }

    /// Records a batch that was written without the rows at fault.
    pub fn record_bisection(&mut self, result: &BisectResult<'_>) {
        self.refusals.note(result.accepted(), &result.refused);
        self.unknown = None;
    }

    /// Records an unknown code, and returns how often it came in a row.
    pub fn record_unknown(&mut self, error: &DbError) -> u32 {
        let times = match self.unknown.take() {
            Some((code, times)) if code == error.sqlstate => times + 1,
            _ => 1,
        };
        self.unknown = Some((error.sqlstate.clone(), times));
        times
    }

    /// Restarts the count of the unknown code, which no single row causes.
    pub fn forget_unknown(&mut self) {
        self.unknown = None;
    }
}
