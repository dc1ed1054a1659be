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

use self::statement::Statement;
use super::connect::Link;
use super::fault::{Class, Fault};
use super::write::bounded;
use super::{Store, StoreError};
use crate::erase::Selector;

/// Tries of one transaction: the writer of a running service may be in the way, or the server restart.
const TRIES: u32 = 8;

/// The wait before the second try; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Settings of the connection: momenta are passed back as text.
const SETTINGS: &str = "set datestyle = 'ISO'; set timezone = 'UTC'; set lock_timeout = '2s'";

/// Whether rows are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only counted.
    Count,
    /// Deleted.
    Erase,
}

/// Rows and messages of a trace, as in the columns of `erasure`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
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

impl Counts {
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
    link: Link,
    selector: &'s Selector,
    mode: Mode,
    /// `None` before the first statement and after a failure.
    conn: Option<PgConnection>,
    /// The row of `erasure`; 0 while only counting.
    erasure: i64,
    counts: Counts,
}

impl<'s> Eraser<'s> {
    /// Connects, and writes down that a trace is being erased.
    pub async fn begin(
        store: &'s Store,
        selector: &'s Selector,
        mode: Mode,
    ) -> Result<Self, StoreError> {
        let link = store.link.clone();
        let counts = Counts::default();
        let mut eraser = Self { store, link, selector, mode, conn: None, erasure: 0, counts };
        if mode == Mode::Erase {
            let row = eraser.run(&[sql::begin(selector)]).await?.pop();
            eraser.erasure = row.ok_or_else(no_row)?.try_get(0).map_err(Fault::from)?;
        }
        Ok(eraser)
    }

    /// Returns what was found so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Enters messages that were removed from a spool.
    pub async fn spooled(&mut self, messages: u64) -> Result<(), StoreError> {
        self.counts.spooled += messages;
        if self.mode == Mode::Erase && messages > 0 {
            self.run(&[sql::spooled(messages, self.erasure)]).await?;
        }
        Ok(())
    }

    /// Writes down that the trace is gone. Returns what was found.
    pub async fn finish(mut self) -> Result<Counts, StoreError> {
        if self.mode == Mode::Erase {
            self.run(&[sql::finish(self.erasure)]).await?;
        }
        Ok(self.counts)
    }

    /// Runs statements as one transaction and returns the rows of the last. Tries again where time
    /// may help: a transaction that did happen after all finds nothing left to delete.
    async fn run(&mut self, statements: &[Statement]) -> Result<Vec<PgRow>, Fault> {
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            match self.try_once(statements).await {
                Err(fault) if may_pass(&fault) => tokio::time::sleep(wait).await,
                done => return done,
            }
            wait *= 2;
        }
        self.try_once(statements).await
    }

    async fn try_once(&mut self, statements: &[Statement]) -> Result<Vec<PgRow>, Fault> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        // With the connection a transaction that failed is gone.
        let rows = statement::transaction(&mut conn, self.link.answer_within, statements).await?;
        self.conn = Some(conn);
        Ok(rows)
    }

    async fn connect(&self) -> Result<PgConnection, Fault> {
        let mut conn = self.link.open().await?;
        bounded(self.link.answer_within, sqlx::raw_sql(SETTINGS).execute(&mut conn)).await?;
        Ok(conn)
    }
}

fn may_pass(fault: &Fault) -> bool {
    matches!(fault.class, Class::Retry | Class::Halve | Class::Unknown)
}

fn no_row() -> Fault {
    Fault::stop("PostgreSQL returned no row where one was asked for")
}

/// Reads a count.
fn count(row: &PgRow, column: &str) -> Result<u64, Fault> {
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
