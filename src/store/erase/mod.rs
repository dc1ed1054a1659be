//! Removes a trace from the tables, in small transactions: none holds a lock for long, none is lost by
//! an interruption, and each enters what it deleted in `erasure`.

mod events;
mod letters;
mod sql;
mod statement;
mod states;

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use self::statement::SqlStatement;
use super::batch::write::bounded;
use super::connection::connector::Connector;
use super::error::{DbError, ErrorClass};
use super::{Store, StoreError};
use crate::erase::TraceSelector;

/// Tries of one transaction: the writer of a running service may be in the way, or the server restart.
const TRIES: u32 = 8;

/// The wait before the second try; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Settings of the connection: momenta are passed back as text.
const SETTINGS: &str = "set datestyle = 'ISO'; set timezone = 'UTC'; set lock_timeout = '2s'";

/// Whether rows are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseMode {
    /// Only counted.
    KindCount,
    /// Deleted.
    Erase,
}

/// Rows and messages of a trace, as in the columns of `erasure`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErasedCounts {
    /// Rows of `item_event`.
    pub item_events: u64,
    /// Rows of `board_event`.
    pub board_events: u64,
    /// Rows of `item_state`.
    pub item_states: u64,
    /// Rows of `board_state`.
    pub board_states: u64,
    /// Rows of `dead_letter`.
    pub dead_letters: u64,
    /// Messages in spools on disk.
    pub spooled: u64,
}

impl ErasedCounts {
    /// Returns the number of all rows and messages.
    pub fn total(&self) -> u64 {
        self.item_events
            + self.board_events
            + self.item_states
            + self.board_states
            + self.dead_letters
            + self.spooled
    }
}

/// Removes one trace, or counts it.
#[derive(Debug)]
pub struct Eraser<'s> {
    store: &'s Store,
    link: Connector,
    selector: &'s TraceSelector,
    mode: EraseMode,
    /// `None` before the first statement and after a failure.
    conn: Option<PgConnection>,
    /// The row of `erasure`; 0 while only counting.
    erasure: i64,
    counts: ErasedCounts,
}

impl<'s> Eraser<'s> {
    /// Connects, and writes down that a trace is being erased.
    pub async fn begin(
        store: &'s Store,
        selector: &'s TraceSelector,
        mode: EraseMode,
    ) -> Result<Self, StoreError> {
        let link = store.link.clone();
        let counts = ErasedCounts::default();
        let mut eraser = Self { store, link, selector, mode, conn: None, erasure: 0, counts };
        if mode == EraseMode::Erase {
            let row = eraser.run(&[sql::begin(selector)]).await?.pop();
            eraser.erasure = row.ok_or_else(no_row)?.try_get(0).map_err(DbError::from)?;
        }
        Ok(eraser)
    }

    /// Returns what was found so far.
    pub fn counts(&self) -> &ErasedCounts {
        &self.counts
    }

    /// Enters messages that were removed from a spool.
    pub async fn spooled(&mut self, messages: u64) -> Result<(), StoreError> {
        self.counts.spooled += messages;
        if self.mode == EraseMode::Erase && messages > 0 {
            self.run(&[sql::spooled(messages, self.erasure)]).await?;
        }
        Ok(())
    }

    /// Writes down that the trace is gone. Returns what was found.
    pub async fn finish(mut self) -> Result<ErasedCounts, StoreError> {
        if self.mode == EraseMode::Erase {
            self.run(&[sql::finish(self.erasure)]).await?;
        }
        Ok(self.counts)
    }

    /// Runs statements as one transaction and returns the rows of the last. Tries again where time
    /// may help: a transaction that did happen after all finds nothing left to delete.
    async fn run(&mut self, statements: &[SqlStatement]) -> Result<Vec<PgRow>, DbError> {
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            match self.try_once(statements).await {
                Err(error) if may_pass(&error) => tokio::time::sleep(wait).await,
                done => return done,
            }
            wait *= 2;
        }
        self.try_once(statements).await
    }

    async fn try_once(&mut self, statements: &[SqlStatement]) -> Result<Vec<PgRow>, DbError> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        // With the connection a transaction that failed is gone.
        let rows = statement::transaction(&mut conn, self.link.answer_within, statements).await?;
        self.conn = Some(conn);
        Ok(rows)
    }

    async fn connect(&self) -> Result<PgConnection, DbError> {
        let mut conn = self.link.open().await?;
        bounded(self.link.answer_within, sqlx::raw_sql(SETTINGS).execute(&mut conn)).await?;
        Ok(conn)
    }
}

fn may_pass(error: &DbError) -> bool {
    matches!(error.class, ErrorClass::Retry | ErrorClass::Halve | ErrorClass::Unknown)
}

fn no_row() -> DbError {
    DbError::stop("PostgreSQL returned no row where one was asked for")
}

/// Reads a count.
fn count(row: &PgRow, column: &str) -> Result<u64, DbError> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

impl Store {
    /// Returns the spool of each client whose newest connection had one: client id and folder.
    pub async fn spools_in_use(&self) -> Result<Vec<(String, String)>, StoreError> {
        const SQL: &str = "
            select client_id, spool_dir
              from (select distinct on (client_id) client_id, spool_dir
                      from centiloc.connection
                     order by client_id, id desc) newest
             where spool_dir is not null";
        let mut conn = self.acquire().await?;
        let query = sqlx::query_as(SQL).fetch_all(&mut *conn);
        let spools = bounded(self.link.answer_within, query).await;
        Ok(conn.finish(spools)?)
    }
}
