//! Statements as values, so that a transaction can be tried again on another connection.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Postgres};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::write::bounded;

/// A parameter.
#[derive(Debug, Clone)]
pub(super) enum Parameter {
    Text(String),
    Texts(Vec<String>),
    Bytes(Option<Vec<u8>>),
    Number(i64),
    Numbers(Vec<i64>),
    Time(OffsetDateTime),
    OptionalTime(Option<OffsetDateTime>),
    OptionalText(Option<String>),
    Id(Uuid),
}

/// A statement and its parameters. Its text is made of constants, numbers and names that PostgreSQL
/// quoted.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    sql: String,
    parameters: Vec<Parameter>,
}

impl Statement {
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    pub fn bind(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    async fn fetch(&self, conn: &mut PgConnection, limit: Duration) -> Result<Vec<PgRow>, Fault> {
        let mut query = sqlx::query::<Postgres>(sqlx::AssertSqlSafe(self.sql.clone()));
        for parameter in &self.parameters {
            query = match parameter {
                Parameter::Text(text) => query.bind(text),
                Parameter::Texts(texts) => query.bind(texts),
                Parameter::Bytes(bytes) => query.bind(bytes),
                Parameter::Number(number) => query.bind(number),
                Parameter::Numbers(numbers) => query.bind(numbers),
                Parameter::Time(time) => query.bind(time),
                Parameter::OptionalTime(time) => query.bind(time),
                Parameter::OptionalText(text) => query.bind(text),
                Parameter::Id(id) => query.bind(id),
            };
        }
        bounded(limit, query.fetch_all(conn)).await
    }
}

/// Runs statements as one transaction and returns the rows of the last.
pub(super) async fn transaction(
    conn: &mut PgConnection,
    limit: Duration,
    statements: &[Statement],
) -> Result<Vec<PgRow>, Fault> {
    if let [statement] = statements {
        return statement.fetch(conn, limit).await;
    }
    let mut transaction = bounded(limit, conn.begin()).await?;
    let mut rows = Vec::new();
    for statement in statements {
        rows = statement.fetch(&mut transaction, limit).await?;
    }
    bounded(limit, transaction.commit()).await?;
    Ok(rows)
}
