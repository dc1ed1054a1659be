//! Errors of a configuration. They are reported all at once and never contain a secret.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::files::NO_ANSWER;

/// The origin of a value: `default`, a line such as `config.toml:12`, or the name of an environment
/// variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueOrigin(String);

impl ValueOrigin {
    /// Returns the origin of a value on this line (from 1) of the file.
    pub(super) fn line(file: &Path, line: usize) -> Self {
        let name = file.file_name().map_or_else(|| file.to_string_lossy(), |n| n.to_string_lossy());
        Self(format!("{name}:{line}"))
    }

    /// Returns the origin of a value that a variable of this name gave.
    pub(super) fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Returns the text that messages show.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ValueOrigin {
    /// Returns the origin of a value that neither the file nor the environment gave.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One problem of a configuration. No field ever contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key, file or environment variable concerned.
    pub subject: String,
    /// The origin of the value, or `None` where nothing gave it.
    pub origin: Option<ValueOrigin>,
    /// Description of the value found.
    pub found: String,
    /// Description of a valid value.
    pub expected: String,
    /// The remedy, in the imperative.
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

/// A refused configuration. The program exits with [`Self::EXIT_CODE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that was read, or that is absent.
    pub file: PathBuf,
    /// The problems, at least one, in the order of the layers and then of the keys.
    pub problems: Vec<ConfigProblem>,
}

impl ConfigError {
    /// Exit code of the program, `EX_CONFIG` of sysexits(3).
    pub const EXIT_CODE: u8 = 78;

    /// Returns true if a retry may succeed, because the only problem is a file system that does not
    /// answer.
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

/// The reason why a text is not a valid value. Parsers return it, and the reader adds the key and the
/// origin. Neither text quotes the value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}; {hint}")]
pub struct InvalidValue {
    /// Description of a valid value.
    pub expected: String,
    /// The remedy, in the imperative.
    pub hint: String,
}

impl InvalidValue {
    /// Joins the two texts.
    pub(super) fn new(expected: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { expected: expected.into(), hint: hint.into() }
    }
}

/// Most characters of an invalid value that a message quotes. More would not help to find it.
const MAX_QUOTED_CHARS: usize = 80;

/// Quotes a value that is not secret, on one line and at most [`MAX_QUOTED_CHARS`] long.
pub(super) fn quoted(text: &str) -> String {
    let mut cut: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("\"{}\"", cut.escape_debug())
}
