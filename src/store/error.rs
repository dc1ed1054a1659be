//! Errors of the database, by the caller's next action. SQLSTATE decides. An unknown code is retried,
//! and no event is dropped for it.

use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

/// An error, by the next action of the caller of [`super::Store`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Transient: try the same again after a short wait.
    #[error(transparent)]
    Retry(DbError),
    /// The statement took too long: try again with half as much.
    #[error(transparent)]
    Halve(DbError),
    /// Requires operator action: hold, acknowledge nothing, try again every minute.
    #[error(transparent)]
    Stop(DbError),
}

impl StoreError {
    /// Returns the database error.
    pub fn error(&self) -> &DbError {
        match self {
            Self::Retry(error) | Self::Halve(error) | Self::Stop(error) => error,
        }
    }

    /// Returns the class in the words of the metric `commit_failures_total`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Retry(DbError { class: ErrorClass::Unknown, .. }) => "unknown",
            Self::Retry(_) => "retry",
            Self::Halve(_) => "halve",
            Self::Stop(_) => "stop",
        }
    }
}

impl From<DbError> for StoreError {
    /// For callers without rows to bisect or partitions to make: what a row would be set aside for
    /// is then a defect of the tables, so [`StoreError::Stop`].
    fn from(error: DbError) -> Self {
        match error.class {
            ErrorClass::Retry | ErrorClass::Unknown => Self::Retry(error),
            ErrorClass::Halve => Self::Halve(error),
            ErrorClass::SetAside
            | ErrorClass::NoPartition
            | ErrorClass::Stop
            | ErrorClass::Unsuitable => Self::Stop(error),
        }
    }
}

/// Class of an error, by its SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// I/O, overload, conflict, restart: transient.
    Retry,
    /// `statement_timeout`.
    Halve,
    /// The row is at fault.
    SetAside,
    /// No partition takes the row.
    NoPartition,
    /// Schema, privileges, credentials, database name.
    Stop,
    /// The server, or a pooler before it, is not one that this service can work with.
    Unsuitable,
    /// A code without a meaning here. Retried. A row that keeps causing it while others commit is
    /// set aside.
    Unknown,
}

/// Classifies a SQLSTATE. `constraint` is the name of the violated constraint, if the error names one:
/// a missing partition is reported as a check violation of none.
pub fn classify(sqlstate: &str, constraint: Option<&str>) -> ErrorClass {
    match sqlstate {
        "57014" => return ErrorClass::Halve,
        "55P03" | "25006" => return ErrorClass::Retry,
        // Ours are only ever prepared once in a session and never freed: this is another session.
        "42P05" | "26000" => return ErrorClass::Unsuitable,
        "23514" if constraint.is_none() => return ErrorClass::NoPartition,
        _ => {}
    }
    match sqlstate.get(..2) {
        Some("08" | "40" | "53" | "57" | "58") => ErrorClass::Retry,
        Some("22" | "23" | "54") => ErrorClass::SetAside,
        Some("42" | "28" | "3D") => ErrorClass::Stop,
        _ => ErrorClass::Unknown,
    }
}

/// An error of the database, with a message for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct DbError {
    /// Class of the error.
    pub class: ErrorClass,
    /// The server's code. `None` if the server did not answer.
    pub sqlstate: Option<String>,
    /// Description and hint. Never holds a secret.
    pub text: String,
}

impl DbError {
    /// Returns a transient error.
    pub(super) fn retry(text: impl Into<String>) -> Self {
        Self { class: ErrorClass::Retry, sqlstate: None, text: text.into() }
    }

    /// Returns an error that requires operator action.
    pub(super) fn stop(text: impl Into<String>) -> Self {
        Self { class: ErrorClass::Stop, sqlstate: None, text: text.into() }
    }

    /// Returns the error of a server that this service cannot work with.
    pub(super) fn unsuitable(text: impl Into<String>) -> Self {
        Self { class: ErrorClass::Unsuitable, ..Self::stop(text) }
    }

    /// Returns the error of a server that did not answer in time.
    pub(super) fn timed_out(limit: Duration) -> Self {
        Self::retry(format!(
            "PostgreSQL did not answer within {} s; the connection was dropped",
            limit.as_secs()
        ))
    }

    /// Returns the same error with another class.
    pub(super) fn with_class(mut self, class: ErrorClass) -> Self {
        self.class = class;
        self
    }

    /// Returns true if the connection may be used again: the server answered, and only the statement
    /// failed.
    pub(super) fn leaves_connection_usable(&self) -> bool {
        matches!(self.class, ErrorClass::Halve | ErrorClass::SetAside | ErrorClass::NoPartition)
    }

    /// Returns true if the server reported it.
    pub(super) fn is_from_server(&self) -> bool {
        self.sqlstate.is_some()
    }

    /// Returns true if concurrent statements caused it: locks, deadlocks, and rows that were inserted
    /// meanwhile.
    pub(super) fn is_contention(&self) -> bool {
        matches!(self.sqlstate.as_deref(), Some("55P03" | "40P01" | "40001" | "23514"))
    }

    /// Returns true if the server is reachable and refused: credentials, privileges, a limit on
    /// connections, an unsuitable pooler.
    pub(super) fn is_answer(&self) -> bool {
        self.class == ErrorClass::Unsuitable
            || self.sqlstate.as_deref() == Some("53300")
            || self.is_refusal()
    }

    /// Returns true if a working server refused the statement.
    pub(super) fn is_refusal(&self) -> bool {
        self.sqlstate
            .as_deref()
            .is_some_and(|code| !matches!(code.get(..2), Some("08" | "57" | "58" | "53")))
    }
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                let error = error.downcast_ref::<PgDatabaseError>();
                let code = error.code();
                let detail = error.detail().map(|d| format!(": {d}")).unwrap_or_default();
                let advice = advice(code).map(|a| format!("; {a}")).unwrap_or_default();
                Self {
                    class: classify(code, error.constraint()),
                    sqlstate: Some(code.to_owned()),
                    text: format!("{}{detail} (SQLSTATE {code}){advice}", error.message()),
                }
            }
            sqlx::Error::Encode(error) => Self {
                class: ErrorClass::SetAside,
                sqlstate: None,
                text: format!("a value cannot be sent to PostgreSQL: {error}"),
            },
            sqlx::Error::Configuration(error) => {
                Self::stop(format!("database.url cannot be used: {error}"))
            }
            sqlx::Error::Tls(error) => Self::retry(format!(
                "could not agree on TLS with PostgreSQL: {error}; \
                 check sslmode, sslrootcert, sslcert and sslkey in database.url"
            )),
            sqlx::Error::Io(error) => match error.get_ref().and_then(|e| e.downcast_ref()) {
                Some(tls) => Self::retry(tls_words(tls)),
                None => Self::retry(format!(
                    "could not reach PostgreSQL: {error}; \
                     check that it runs and what database.url names"
                )),
            },
            other => Self::retry(other.to_string()),
        }
    }
}

/// Explains why TLS failed although the server was reached.
fn tls_words(error: &rustls::Error) -> String {
    use rustls::{CertificateError as E, Error};
    let (found, hint) = match error {
        Error::InvalidCertificate(E::UnknownIssuer | E::BadSignature) => (
            "PostgreSQL was reached, but its certificate is not trusted: no authority known here \
             signed it",
            "name the authority's certificate as sslrootcert in database.url",
        ),
        Error::InvalidCertificate(E::NotValidForName | E::NotValidForNameContext { .. }) => (
            "PostgreSQL was reached, but its certificate is for another host name",
            "write the name that is in the certificate as host in database.url",
        ),
        Error::InvalidCertificate(E::Expired | E::ExpiredContext { .. }) => (
            "PostgreSQL was reached, but its certificate has expired",
            "renew it, and compare this machine's clock",
        ),
        Error::InvalidCertificate(E::NotValidYet | E::NotValidYetContext { .. }) => (
            "PostgreSQL was reached, but its certificate is not valid yet",
            "set this machine's clock, which is probably wrong",
        ),
        _ => (
            "PostgreSQL was reached, but TLS failed",
            "check sslmode, sslrootcert, sslcert and sslkey in database.url",
        ),
    };
    format!("{found} ({error}); {hint}")
}

/// Returns the hint for a code that requires operator action.
fn advice(sqlstate: &str) -> Option<&'static str> {
    match sqlstate {
        "28P01" | "28000" => Some("check the user and password in database.url, and pg_hba.conf"),
        "3D000" => Some("create the database, or correct database.url"),
        "42501" => Some("grant the role in database.url its privileges, or name the owner there"),
        "42P01" | "42703" | "42883" | "3F000" => Some("run `centiloc-bridge migrate`"),
        "25006" => Some("the server is read-only: a standby, or full"),
        "53100" => Some("free disk space on the database server"),
        "42P05" | "26000" => Some(
            "a connection pooler shares its server connections by transaction, or does not reset \
             them between clients; use session pooling for this service (PgBouncer: \
             pool_mode = session), or name PostgreSQL itself in database.url",
        ),
        "53300" => Some("raise the limit on connections that was reached"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn listed_codes_have_their_documented_class() {
        for (code, class) in [
            ("08006", ErrorClass::Retry),
            ("08P01", ErrorClass::Retry),
            ("40001", ErrorClass::Retry),
            ("40P01", ErrorClass::Retry),
            ("53100", ErrorClass::Retry),
            ("53300", ErrorClass::Retry),
            ("57P01", ErrorClass::Retry),
            ("57P03", ErrorClass::Retry),
            ("58030", ErrorClass::Retry),
            ("55P03", ErrorClass::Retry),
            ("25006", ErrorClass::Retry),
            ("57014", ErrorClass::Halve),
            ("22021", ErrorClass::SetAside),
            ("22P05", ErrorClass::SetAside),
            ("22003", ErrorClass::SetAside),
            ("23502", ErrorClass::SetAside),
            ("23505", ErrorClass::SetAside),
            ("54000", ErrorClass::SetAside),
            ("42P01", ErrorClass::Stop),
            ("42501", ErrorClass::Stop),
            ("28P01", ErrorClass::Stop),
            ("3D000", ErrorClass::Stop),
            ("42P05", ErrorClass::Unsuitable),
            ("26000", ErrorClass::Unsuitable),
            ("XX000", ErrorClass::Unknown),
            ("P0001", ErrorClass::Unknown),
            ("55000", ErrorClass::Unknown),
            ("25P02", ErrorClass::Unknown),
            ("0A000", ErrorClass::Unknown),
            ("21000", ErrorClass::Unknown),
        ] {
            assert_eq!(classify(code, Some("some_check")), class, "{code}");
        }
    }

    #[test]
    fn every_failure_has_a_class_of_the_metric() {
        let mut seen = Vec::new();
        for class in [ErrorClass::Retry, ErrorClass::Halve, ErrorClass::Stop, ErrorClass::Unknown] {
            seen.push(StoreError::from(DbError::retry("x").with_class(class)).class());
        }
        assert_eq!(seen, crate::telemetry::metrics::FAILURE_CLASSES);
    }

    #[test]
    fn unnamed_check_violation_is_missing_partition() {
        assert_eq!(classify("23514", None), ErrorClass::NoPartition);
        assert_eq!(classify("23514", Some("positive")), ErrorClass::SetAside);
        assert_eq!(classify("23502", None), ErrorClass::SetAside);
    }

    #[test]
    fn without_rows_to_blame_a_refused_statement_stops() {
        let error = DbError::retry("x").with_class(ErrorClass::SetAside);
        assert!(matches!(StoreError::from(error), StoreError::Stop(_)));
        let error = DbError::retry("x").with_class(ErrorClass::Unknown);
        assert!(matches!(StoreError::from(error), StoreError::Retry(_)));
    }

    #[test]
    fn statement_failures_leave_the_connection_usable() {
        let usable = [ErrorClass::Halve, ErrorClass::SetAside, ErrorClass::NoPartition];
        let others = [ErrorClass::Retry, ErrorClass::Stop, ErrorClass::Unknown];
        for class in usable.iter().chain(&others) {
            let error = DbError::retry("x").with_class(*class);
            assert_eq!(error.leaves_connection_usable(), usable.contains(class), "{class:?}");
        }
    }

    fn coded(code: &str) -> DbError {
        DbError { sqlstate: Some(code.into()), ..DbError::retry("") }
    }

    #[test]
    fn a_failing_server_refuses_nothing() {
        for code in ["08006", "57P01", "58030", "53100"] {
            assert!(!coded(code).is_refusal() && !coded(code).is_answer(), "{code}");
        }
        let silent = DbError::retry("");
        assert!(!silent.is_refusal() && !silent.is_answer() && !silent.is_from_server());
        assert!(coded("42501").is_refusal() && coded("42501").is_answer());
        assert!(coded("53300").is_answer() && coded("53300").is_from_server());
        assert!(DbError::unsuitable("").is_answer());
    }

    #[test]
    fn only_concurrent_statements_are_contention() {
        let contention = |code: &&str| coded(code).is_contention();
        assert!(["55P03", "40P01", "40001", "23514"].iter().all(contention));
        assert!(!coded("42501").is_contention() && !DbError::retry("").is_contention());
    }

    #[test]
    fn tls_failures_name_their_remedy() {
        use rustls::CertificateError as E;
        for (failure, remedy) in [
            (E::UnknownIssuer, "as sslrootcert"),
            (E::NotValidForName, "as host"),
            (E::Expired, "renew it"),
            (E::NotValidYet, "set this machine's clock"),
            (E::Revoked, "check sslmode"),
        ] {
            let words = tls_words(&rustls::Error::InvalidCertificate(failure));
            assert!(words.contains(remedy), "{words}");
        }
    }

    #[test]
    fn codes_that_need_operator_action_name_it() {
        for (code, word) in [
            ("28P01", "password"),
            ("28000", "password"),
            ("3D000", "create the database"),
            ("42501", "grant"),
            ("42P01", "migrate"),
            ("42703", "migrate"),
            ("42883", "migrate"),
            ("3F000", "migrate"),
            ("25006", "read-only"),
            ("53100", "disk"),
            ("53300", "connections"),
            ("42P05", "session pooling"),
        ] {
            assert!(advice(code).is_some_and(|advice| advice.contains(word)), "{code}");
        }
        assert_eq!(advice("22021"), None);
    }

    proptest! {
        #[test]
        fn only_three_sqlstate_classes_blame_a_row(code in "\\PC{0,6}") {
            let class = classify(&code, Some("c"));
            let blamed = ["22", "23", "54"].iter().any(|c| code.starts_with(c));
            prop_assert_eq!(class == ErrorClass::SetAside, blamed);
        }
    }
}
