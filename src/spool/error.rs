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

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, SqliteConnection};

    use super::*;

    #[tokio::test]
    async fn each_failure_has_its_action() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let mut failure = async |sql: &'static str| {
            SpoolError::from(sqlx::raw_sql(sql).execute(&mut conn).await.unwrap_err())
        };
        let full = "create table a (b); pragma max_page_count = 2;
                    insert into a values (zeroblob(100000))";
        assert_eq!(failure(full).await, SpoolError::NoSpace);
        let unknown = failure("select * from nowhere").await;
        assert!(matches!(&unknown, SpoolError::Unavailable(text) if text.contains("nowhere")));
        let number = sqlx::query_scalar::<_, i64>("select 'text'").fetch_one(&mut conn).await;
        let damaged = SpoolError::from(number.unwrap_err());
        assert!(matches!(&damaged, SpoolError::Damaged(text) if text.contains("decoding")));
    }
}
