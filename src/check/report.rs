//! The lines of a run of `check`, and the checks it skipped.

use serde::Serialize;

use super::line::{CheckLine, CheckStatus};

/// A check that was skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    /// Name of the check.
    pub name: &'static str,
    /// The reason why it was skipped.
    pub because: String,
}

/// The result of a run of `check`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The lines of the checks that ran.
    pub checks: Vec<CheckLine>,
    /// The checks that were skipped.
    pub not_checked: Vec<NotChecked>,
}

impl CheckReport {
    /// Returns the number of lines with this status.
    pub fn count(&self, status: CheckStatus) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// Returns true if no check failed.
    pub fn passed(&self) -> bool {
        self.count(CheckStatus::Failed) == 0
    }

    /// Adds the lines of another report.
    pub fn append(&mut self, mut other: Self) {
        self.checks.append(&mut other.checks);
        self.not_checked.append(&mut other.not_checked);
    }

    /// Adds the `expected` checks that have no line as skipped, because of the last line that failed.
    pub(super) fn note_missing(&mut self, expected: &[&'static str]) {
        let is_there = |name: &str| self.checks.iter().any(|check| check.name == name);
        let failed = self.checks.iter().rfind(|check| check.status == CheckStatus::Failed);
        let because = match failed {
            Some(check) => format!("{} failed", check.name),
            None => "no result".to_owned(),
        };
        let missing = expected.iter().filter(|name| !is_there(name));
        let missing: Vec<_> =
            missing.map(|name| NotChecked { name, because: because.clone() }).collect();
        self.not_checked.extend(missing);
    }
}
