//! Removes a trace from the tables, in small transactions: none holds a lock for long, none is lost by
//! an interruption, and each enters what it deleted in `erasure`.

mod events;
mod letters;
mod sql;
mod statement;
mod states;
mod stays;

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use self::statement::SqlStatement;
use super::connection::connector::Connector;
use super::error::{DbError, ErrorClass};
use super::kinds;
use super::query::Db;
use super::{Store, StoreError};
use crate::erase::TraceSelector;
use crate::event::{ByKind, EventKind};

/// Tries of one transaction: the writer of a running service may be in the way, or the server restart.
const TRIES: u32 = 8;

/// The wait before the second try. Each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Settings of the connection: momenta are passed back as text.
const SETTINGS: &str = "set datestyle = 'ISO'; set timezone = 'UTC'; set lock_timeout = '2s'";

/// Selects between counting and deleting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseMode {
    /// Rows are only counted.
    Count,
    /// Rows are deleted.
    Erase,
}

/// Rows and messages of a trace, as in the columns of `erasure`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErasedCounts {
    /// Rows of the tables of events.
    pub events: ByKind<u64>,
    /// Rows of the tables of states.
    pub states: ByKind<u64>,
    /// Rows of `dead_letter`.
    pub dead_letters: u64,
    /// Messages in spools on disk.
    pub spooled: u64,
}

impl ErasedCounts {
    /// Returns the number of all rows and messages.
    pub fn total(&self) -> u64 {
        self.by_place().map(|(_, number)| number).sum()
    }

    /// Returns the number for each table, and for spools.
    pub fn by_place(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let events =
            EventKind::ALL.map(|kind| (kinds::tables(kind).event_table(), self.events[kind]));
        let states =
            EventKind::ALL.map(|kind| (kinds::tables(kind).state_table(), self.states[kind]));
        let others = [("dead_letter", self.dead_letters), ("spool", self.spooled)];
        events.into_iter().chain(states).chain(others)
    }
}

/// Removes one trace, or counts it.
#[derive(Debug)]
pub struct Eraser<'s> {
    store: &'s Store,
    connector: Connector,
    selector: &'s TraceSelector,
    mode: EraseMode,
    /// `None` before the first statement and after a failure.
    db: Option<Db>,
    /// The row of `erasure`. 0 while only counting.
    erasure: i64,
    counts: ErasedCounts,
}

impl<'s> Eraser<'s> {
    /// Connects, and records that a trace is being erased.
    pub async fn begin(
        store: &'s Store,
        selector: &'s TraceSelector,
        mode: EraseMode,
    ) -> Result<Self, StoreError> {
        let connector = store.connector.clone();
        let counts = ErasedCounts::default();
        let mut eraser = Self { store, connector, selector, mode, db: None, erasure: 0, counts };
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

    /// Records that the trace is erased. Returns the counts.
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
        let mut db = match self.db.take() {
            Some(db) => db,
            None => self.connect().await?,
        };
        // After a failure the connection is dropped, and with it a transaction that is still open.
        let rows = statement::run_all(&mut db, statements).await?;
        self.db = Some(db);
        Ok(rows)
    }

    async fn connect(&self) -> Result<Db, DbError> {
        let mut db = self.connector.open().await?;
        db.execute(SETTINGS).await?;
        Ok(db)
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
        let mut db = self.acquire().await?;
        let query = sqlx::query_as(SQL);
        let spools = db.query(|conn| query.fetch_all(conn)).await;
        Ok(db.finish(spools)?)
    }
}
