//! Statements as values, so that a transaction can be tried again on another connection.

use sqlx::Postgres;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::error::DbError;
use crate::store::query::Db;

/// A parameter.
#[derive(Debug, Clone)]
pub(super) enum SqlParameter {
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
pub(super) struct SqlStatement {
    sql: String,
    parameters: Vec<SqlParameter>,
}

impl SqlStatement {
    pub fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    pub fn bind(mut self, parameter: SqlParameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    async fn fetch(&self, db: &mut Db) -> Result<Vec<PgRow>, DbError> {
        let mut query = sqlx::query::<Postgres>(sqlx::AssertSqlSafe(self.sql.clone()));
        for parameter in &self.parameters {
            query = match parameter {
                SqlParameter::Text(text) => query.bind(text),
                SqlParameter::Texts(texts) => query.bind(texts),
                SqlParameter::Bytes(bytes) => query.bind(bytes),
                SqlParameter::Number(number) => query.bind(number),
                SqlParameter::Numbers(numbers) => query.bind(numbers),
                SqlParameter::Time(time) => query.bind(time),
                SqlParameter::OptionalTime(time) => query.bind(time),
                SqlParameter::OptionalText(text) => query.bind(text),
                SqlParameter::Id(id) => query.bind(id),
            };
        }
        db.query(|conn| query.fetch_all(conn)).await
    }
}

/// Runs statements as one transaction and returns the rows of the last.
pub(super) async fn run_all(
    db: &mut Db,
    statements: &[SqlStatement],
) -> Result<Vec<PgRow>, DbError> {
    if let [statement] = statements {
        return statement.fetch(db).await;
    }
    db.transaction(async |db| {
        let mut rows = Vec::new();
        for statement in statements {
            rows = statement.fetch(db).await?;
        }
        Ok(rows)
    })
    .await
}
