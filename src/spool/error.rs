//! What went wrong with the file, in terms of what to do next.

use std::io;
use std::path::Path;

/// What the stage does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// Time or a person mends it: hold, and try again.
    #[error("{0}")]
    Unavailable(String),
    /// The disk is full: hold, or do without it.
    #[error("no space is left on the disk of spool.dir; free some")]
    NoSpace,
    /// What the file holds is not what was written: set it aside and keep what can be read.
    #[error("the spool is damaged: {0}")]
    Damaged(String),
}

/// `SQLite`'s primary result codes, <https://www.sqlite.org/rescode.html>.
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const NOT_A_DATABASE: i32 = 26;

impl SpoolError {
    /// An error of the file system.
    pub fn io(path: &Path, error: &io::Error) -> Self {
        Self::Unavailable(format!(
            "spool.dir: {} cannot be used: {error}; check that the service's user may write there \
             and that the disk is well",
            path.display()
        ))
    }
}

impl From<sqlx::Error> for SpoolError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                // The upper bits tell more than the primary code does.
                let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
                match code & 0xff {
                    CORRUPT | NOT_A_DATABASE => Self::Damaged(error_text(&error)),
                    FULL => Self::NoSpace,
                    _ => Self::Unavailable(format!(
                        "spool.dir cannot be written to: {} (SQLite code {code}); check its disk and \
                         rights",
                        error_text(&error)
                    )),
                }
            }
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Damaged(error_text(&error))
            }
            _ => Self::Unavailable(format!("spool.dir cannot be used: {}", error_text(&error))),
        }
    }
}

fn error_text(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => database.message().to_owned(),
        other => other.to_string(),
    }
}
