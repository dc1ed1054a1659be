//! One line of `check`.

use serde::Serialize;

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// The value is right.
    Ok,
    /// The service works, but the value should be changed.
    Warning,
    /// The service does not work with this value.
    Failed,
}

/// A line of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckLine {
    /// Name of the check, on which scripts match.
    pub name: &'static str,
    /// Result of the check.
    pub status: CheckStatus,
    /// Description of the value found.
    pub found: String,
    /// Description of the value expected, or empty if `found` is right.
    pub expected: String,
    /// The remedy, or empty if `found` is right.
    pub what_to_do: String,
}

impl CheckLine {
    /// Creates the line of a check that passed.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        let (expected, what_to_do) = (String::new(), String::new());
        Self { name, status: CheckStatus::Ok, found: found.into(), expected, what_to_do }
    }

    /// Creates the line of a check that did not pass.
    pub fn problem(
        name: &'static str,
        status: CheckStatus,
        found: impl Into<String>,
        expected: impl Into<String>,
        what_to_do: impl Into<String>,
    ) -> Self {
        let (found, expected, what_to_do) = (found.into(), expected.into(), what_to_do.into());
        Self { name, status, found, expected, what_to_do }
    }

    /// Creates a line from an error or warning, split at its first semicolon into cause and remedy.
    pub fn from_sentence(
        name: &'static str,
        status: CheckStatus,
        sentence: &str,
        expected: impl Into<String>,
    ) -> Self {
        let (found, remedy) = sentence.split_once("; ").unwrap_or((sentence, ""));
        let (found, what_to_do) = (found.to_owned(), remedy.to_owned());
        Self { name, status, found, expected: expected.into(), what_to_do }
    }

    /// Creates a line that passes without a note and warns with one.
    pub(super) fn noted(
        name: &'static str,
        note: Option<&str>,
        found: String,
        expected: &str,
    ) -> Self {
        match note {
            None => Self::ok(name, found),
            Some(note) => Self::from_sentence(name, CheckStatus::Warning, note, expected),
        }
    }

    /// Creates a line from a sentence whose remedy follows a semicolon, or a colon and an imperative.
    /// A sentence without a remedy gets `default_remedy`.
    pub(super) fn from_sentence_or(
        name: &'static str,
        status: CheckStatus,
        sentence: &str,
        expected: &str,
        default_remedy: &str,
    ) -> Self {
        let mut check = Self::from_sentence(name, status, sentence, expected);
        if check.what_to_do.is_empty() {
            let imperative = [": check ", ": ask ", ": give "];
            let at = imperative.iter().filter_map(|start| check.found.find(start)).min();
            match at {
                Some(at) => {
                    check.what_to_do = check.found[at + 2..].to_owned();
                    check.found.truncate(at);
                }
                None => default_remedy.clone_into(&mut check.what_to_do),
            }
        }
        check
    }
}
