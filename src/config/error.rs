//! What is wrong with a configuration, all of it at once, in words that name no secret.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::files::NO_ANSWER;

/// Where a value came from, in the words a person looks for it by: `default`, `config.toml:12`, or
/// the name of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueOrigin(String);

impl ValueOrigin {
    /// A line (from 1) of the file.
    pub(super) fn line(file: &Path, line: usize) -> Self {
        let name = file.file_name().map_or_else(|| file.to_string_lossy(), |n| n.to_string_lossy());
        Self(format!("{name}:{line}"))
    }

    /// An origin that is already in words: a variable's name, or one that was passed through.
    pub(super) fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ValueOrigin {
    /// No layer gave it.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One thing that is wrong. No field ever holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key, file or environment variable.
    pub subject: String,
    /// Where it was given, if it was.
    pub origin: Option<ValueOrigin>,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.subject)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(f, ": found {}, expected {}; {}", self.found, self.expected, self.hint)
    }
}

/// Everything that is wrong; never empty. The program ends with [`Self::EXIT_CODE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that was read or looked for.
    pub file: PathBuf,
    /// What is wrong, in the order of the layers and then of the keys.
    pub problems: Vec<ConfigProblem>,
}

impl ConfigError {
    /// `EX_CONFIG` of sysexits(3).
    pub const EXIT_CODE: u8 = 78;

    /// Whether another try may find the configuration good: files did not answer, no more.
    pub fn may_pass(&self) -> bool {
        self.problems.iter().all(|problem| problem.found.contains(NO_ANSWER))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.problems.len() == 1 { "problem" } else { "problems" };
        write!(f, "the configuration is refused, {} {many}", self.problems.len())?;
        write!(f, " (file {}):", self.file.display())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// A value that will not do: what a pure parser says, to which the reader adds key and origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InvalidValue {
    /// What should be there.
    pub expected: String,
    /// What to do.
    pub hint: String,
}

impl InvalidValue {
    /// Neither text may quote the value: it may be a secret.
    pub fn new(expected: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { expected: expected.into(), hint: hint.into() }
    }
}

/// More of a wrong value than this helps nobody.
const MAX_QUOTED_CHARS: usize = 80;

/// A value that is not secret, in quotes, on one line, and not endless.
pub(super) fn quoted(text: &str) -> String {
    let mut cut: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("\"{}\"", cut.escape_debug())
}
