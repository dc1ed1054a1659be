//! The database of a test, and queries on it.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Decode, Postgres, Row, Type};

use super::postgres::{PASSWORD, ROLE, ServerAddress};

/// A database that belongs to [`ROLE`]. It is dropped with its cluster.
#[derive(Debug, Clone)]
pub struct Database {
    address: ServerAddress,
    name: String,
}

impl Database {
    pub(super) fn new(address: ServerAddress, name: String) -> Self {
        Self { address, name }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the URL over TCP, with a password.
    pub fn url(&self) -> String {
        self.url_at(self.address.port)
    }

    /// Returns the URL through another listener in front of the server, such as a proxy.
    pub fn url_at(&self, port: u16) -> String {
        let mut url = url::Url::parse("postgres://127.0.0.1").unwrap();
        url.set_port(Some(port)).unwrap();
        url.set_username(ROLE).unwrap();
        url.set_password(Some(PASSWORD)).unwrap();
        url.set_path(&self.name);
        url.into()
    }

    /// Returns the URL over the unix socket, without a password.
    pub fn socket_url(&self) -> String {
        let mut url = url::Url::parse("postgres:///").unwrap();
        url.set_path(&self.name);
        url.query_pairs_mut()
            .append_pair("host", self.address.socket_dir.to_str().unwrap())
            .append_pair("port", &self.address.port.to_string())
            .append_pair("user", ROLE);
        url.into()
    }

    /// Opens a session of the superuser, not through any proxy.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect_with(&self.address.superuser(&self.name)).await
    }

    /// Runs statements as the superuser.
    pub async fn execute(&self, sql: &str) {
        let run = async {
            let mut connection = self.connect().await?;
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
            connection.close().await
        };
        run.await.unwrap_or_else(|e: sqlx::Error| panic!("{sql:?} failed: {e}"));
    }

    /// Returns the rows of a query.
    pub async fn rows(&self, sql: &str) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut connection = self.connect().await?;
        sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await
    }

    /// Returns the first column of every row.
    pub async fn column<T>(&self, sql: &str) -> Vec<T>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        let rows = self.rows(sql).await.unwrap_or_else(|e| panic!("{sql:?} failed: {e}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Returns the only value of a query with one row.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        let mut values = self.column(sql).await;
        assert_eq!(values.len(), 1, "{sql:?} returned not one row");
        values.remove(0)
    }

    /// Counts the rows of a relation (`centiloc.item_event`, or one with a `where` clause after
    /// it). Returns -1 while it does not exist or the server does not answer, so that tests can
    /// wait for it.
    pub async fn count(&self, relation: &str) -> i64 {
        match self.rows(&format!("select count(*) from {relation}")).await {
            Ok(rows) => rows[0].get(0),
            Err(_) => -1,
        }
    }
}

/// Parses a `bytea` as PostgreSQL writes it, without the leading `\\x`.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
