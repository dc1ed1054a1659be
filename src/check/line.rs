//! One line of `check`: its name, its status, and three texts.

use serde::Serialize;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Works, but wants attention.
    Warning,
    /// Does not work.
    Failed,
}

/// One line of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckLine {
    /// What was checked; people script against it.
    pub name: &'static str,
    /// How it came out.
    pub status: CheckStatus,
    /// What was found.
    pub found: String,
    /// What was expected; empty where `found` is it.
    pub expected: String,
    /// The hint; empty where nothing is to be done.
    pub what_to_do: String,
}

impl CheckLine {
    /// As it should be.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        let (expected, what_to_do) = (String::new(), String::new());
        Self { name, status: CheckStatus::Ok, found: found.into(), expected, what_to_do }
    }

    /// Not as it should be.
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

    /// Failed with an error or warned with a note of the form "cause; hint".
    pub fn from_sentence(
        name: &'static str,
        status: CheckStatus,
        sentence: &str,
        expected: impl Into<String>,
    ) -> Self {
        let (found, hint) = sentence.split_once("; ").unwrap_or((sentence, ""));
        let (found, what_to_do) = (found.to_owned(), hint.to_owned());
        Self { name, status, found, expected: expected.into(), what_to_do }
    }

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

    /// A line from a sentence of the form "cause; hint", with a hint in any case.
    pub(super) fn from_sentence_or(
        name: &'static str,
        status: CheckStatus,
        sentence: &str,
        expected: &str,
        else_do: &str,
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
                None => else_do.clone_into(&mut check.what_to_do),
            }
        }
        check
    }
}
