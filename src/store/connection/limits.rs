//! The number of connections that the service uses, and the limits that it may reach.

use crate::store::error::DbError;

/// The stream's writer, the single-writer lock, and one of the pool.
const LEAST: u32 = 3;

/// Returns the number of connections that the service uses.
pub fn needed(max_connections: u32) -> u32 {
    max_connections.max(LEAST)
}

/// Names the limit on connections that was reached, and the number needed.
pub(in crate::store) fn explain(error: DbError, needed: u32) -> DbError {
    if error.sqlstate.as_deref() != Some("53300") {
        return error;
    }
    let text = error.text.to_lowercase();
    let limit = if text.contains("role") {
        "the role's CONNECTION LIMIT is reached: alter role … connection limit"
    } else if text.contains("database") {
        "the database's CONNECTION LIMIT is reached: alter database … connection limit"
    } else {
        "max_connections of the server is reached: raise it, or close connections of others"
    };
    let found = error.text.split("; ").next().unwrap_or_default();
    let text = format!(
        "{found}; {limit}; this service uses {needed} connections (database.max_connections, at \
         least {LEAST})"
    );
    DbError { text, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_told_apart() {
        for (message, words) in [
            ("too many connections for role \"bridge\"", "alter role"),
            ("too many connections for database \"x\"", "alter database"),
            ("sorry, too many clients already", "max_connections of the server"),
        ] {
            let text = format!("{message} (SQLSTATE 53300); advice");
            let error = DbError { sqlstate: Some("53300".into()), ..DbError::retry(text) };
            let text = explain(error, 4).text;
            assert!(text.starts_with(message) && text.contains(words), "{text}");
            assert!(text.contains("uses 4 connections") && !text.contains("advice"), "{text}");
        }
    }

    #[test]
    fn other_faults_stay_as_they_are() {
        assert_eq!(explain(DbError::retry("x"), 4), DbError::retry("x"));
        assert_eq!((needed(1), needed(8)), (3, 8));
    }
}
