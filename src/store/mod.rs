//! Storage in PostgreSQL.
//!
//! [`Store::commit`] makes a batch durable. [`writer`] is the stage that calls it and forwards the
//! acknowledgements. [`maintenance`] is the periodic work. [`journal`] records connections and gaps.
//! An error is the caller's next action ([`StoreError`]), by SQLSTATE ([`error`]).

pub mod archive;
pub mod batch;
mod clocks;
mod connection;
pub mod database_status;
pub mod dead_letters;
pub mod erase;
pub mod error;
pub mod event_store;
mod figures;
pub mod gaps;
pub mod inspect;
pub mod journal;
mod kinds;
pub mod layout;
pub mod lock;
pub mod maintenance;
pub mod map_reads;
pub mod overview;
mod partitions;
mod pg_timestamp;
mod query;
pub mod rebuild;
mod retry_waits;
pub mod rollups;
pub mod schema;
pub mod stays;
#[cfg(test)]
mod testing;
pub mod text;
pub mod writer;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

pub use self::batch::commit::{CommitOutcome, KindCount};
use self::batch::failure_history::FailureHistory;
pub use self::batch::rows::DecodedMessage;
use self::clocks::ClockComparison;
use self::connection::connector::Connector;
use self::connection::pool::ConnectionPool;
use self::connection::writer_lease::WriterSlot;
pub use self::database_status::DatabaseStatus;
pub use self::error::{DbError, StoreError};
use self::partitions::PartitionManager;
use self::query::Db;
pub use self::writer::CommitProof;
use crate::config::{self, PartitionSpan};

/// Access to the database. Opens connections when they are needed.
#[derive(Debug)]
pub struct Store {
    connector: Connector,
    writer: WriterSlot,
    /// Connections for everything except the stream, so that neither waits for the other.
    pool: ConnectionPool,
    /// The connection of the map, opened while somebody looks at it.
    map_pool: ConnectionPool,
    /// The connection of the status page.
    pages: ConnectionPool,
    partitions: PartitionManager,
    failures: Mutex<FailureHistory>,
    open: journal::OpenConnection,
    clocks: ClockComparison,
    position: journal::position::PositionTracker,
    /// True once the schema was found to be the one this program knows.
    prepared: watch::Sender<bool>,
    /// Notified when events were stored.
    events_stored: Notify,
    /// True if NOTIFY announces new rows of `change_batch`.
    notify: bool,
    rollup_span: rollups::RollupSpan,
}

impl Store {
    /// Reads the configuration. Connects to nothing yet.
    pub fn new(config: &config::DatabaseConfig, span: PartitionSpan) -> Result<Self, StoreError> {
        let connector = Connector::new(config)?;
        Ok(Self {
            writer: WriterSlot::new(connector.clone()),
            // The writer and the single-writer lock have their own.
            pool: ConnectionPool::new(
                connector.clone(),
                config.max_connections.saturating_sub(2) as usize,
            ),
            map_pool: map_reads::pool(&connector),
            pages: ConnectionPool::new(
                connector.with_settings([("statement_timeout", overview::STATEMENT_TIMEOUT)]),
                1,
            ),
            partitions: PartitionManager::new(span),
            failures: Mutex::default(),
            open: journal::OpenConnection::default(),
            clocks: ClockComparison::default(),
            position: journal::position::PositionTracker::default(),
            prepared: watch::Sender::new(false),
            events_stored: Notify::new(),
            notify: config.notify,
            rollup_span: rollups::RollupSpan::default(),
            connector,
        })
    }

    /// Takes a connection of the pool.
    async fn acquire(&self) -> Result<Db, DbError> {
        self.pool.acquire().await
    }

    /// Runs `work` on a connection of the pool.
    async fn with_db<T>(
        &self,
        work: impl AsyncFnOnce(&mut Db) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let mut db = self.pool.acquire().await?;
        let result = work(&mut db).await;
        db.finish(result)
    }

    fn failures(&self) -> MutexGuard<'_, FailureHistory> {
        // Counters only: a panic between two of them does no harm.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
