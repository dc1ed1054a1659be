//! The failures of recent batches, from which the rows at fault are told apart from the database.

use super::bisect::BisectResult;
use super::refusals::RefusalHistory;
use crate::store::error::DbError;

/// What went wrong lately, across batches.
#[derive(Debug, Default)]
pub(in crate::store) struct FailureHistory {
    pub refusals: RefusalHistory,
    /// The unknown code met last, and how often in a row.
    unknown: Option<(Option<String>, u32)>,
}

impl FailureHistory {
    /// A batch with this many events went through whole.
    pub fn passed(&mut self, events: usize) {
        self.refusals.note(events as u64, &[]);
        self.unknown = None;
    }

    /// A batch went through without the rows at fault.
    pub fn sorted(&mut self, sorted: &BisectResult<'_>) {
        self.refusals.note(sorted.accepted(), &sorted.refused);
        self.unknown = None;
    }

    /// An unknown code was met; how often in a row.
    pub fn unknown_again(&mut self, error: &DbError) -> u32 {
        let times = match self.unknown.take() {
            Some((code, times)) if code == error.sqlstate => times + 1,
            _ => 1,
        };
        self.unknown = Some((error.sqlstate.clone(), times));
        times
    }

    /// The unknown code is not one row's: count anew before looking again.
    pub fn unknown_to_all(&mut self) {
        self.unknown = None;
    }
}
