//! The lines of a run of `check`, and the lines that it could not make.

use serde::Serialize;

use super::line::{CheckLine, CheckStatus};

/// A line that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    /// The line's name.
    pub name: &'static str,
    /// Why not.
    pub because: String,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The lines.
    pub checks: Vec<CheckLine>,
    /// The lines that are missing.
    pub not_checked: Vec<NotChecked>,
}

impl CheckReport {
    /// How many lines came out so.
    pub fn count(&self, status: CheckStatus) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.count(CheckStatus::Failed) == 0
    }

    /// Adds what another part found.
    pub fn append(&mut self, mut other: Self) {
        self.checks.append(&mut other.checks);
        self.not_checked.append(&mut other.not_checked);
    }

    /// Notes which of the `expected` lines are missing, and the line that ended the series.
    pub(super) fn note_missing(&mut self, expected: &[&'static str]) {
        let is_there = |name: &str| self.checks.iter().any(|check| check.name == name);
        let failed = self.checks.iter().rfind(|check| check.status == CheckStatus::Failed);
        let because = match failed {
            Some(check) => format!("{} failed", check.name),
            None => "nothing was found out about it".to_owned(),
        };
        let missing = expected.iter().filter(|name| !is_there(name));
        let missing: Vec<_> =
            missing.map(|name| NotChecked { name, because: because.clone() }).collect();
        self.not_checked.extend(missing);
    }
}
