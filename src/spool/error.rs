//! Errors of the file, by the action that follows.

use std::io;
use std::path::Path;

/// An error of the file, with the action of the stage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// A failure that may pass or needs operator action. The stage holds its messages and retries.
    #[error("{0}")]
    Unavailable(String),
    /// The disk is full. The stage holds its messages, or bypasses the disk.
    #[error("no space is left on the disk of spool.dir; free some")]
    NoSpace,
    /// The content of the file is not what was written. The stage sets the file aside and keeps the
    /// readable rows.
    #[error("the spool is damaged: {0}")]
    Damaged(String),
}

/// `SQLite`'s primary result codes, <https://www.sqlite.org/rescode.html>.
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const NOT_A_DATABASE: i32 = 26;

impl SpoolError {
    /// Makes an error of a file system operation.
    pub fn io(path: &Path, error: &io::Error) -> Self {
        Self::Unavailable(format!(
            "spool.dir: {} cannot be used: {error}; check that the service's user may write there \
             and that the disk works",
            path.display()
        ))
    }
}

impl From<sqlx::Error> for SpoolError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                // The upper bits refine the primary code.
                let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
                match code & 0xff {
                    CORRUPT | NOT_A_DATABASE => Self::Damaged(error_text(&error)),
                    FULL => Self::NoSpace,
                    _ => Self::Unavailable(format!(
                        "spool.dir cannot be written to: {} (SQLite code {code}); check its disk and \
                         permissions",
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
