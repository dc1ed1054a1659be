//! PostgreSQL: everything that is written, and when it counts as written.
//!
//! [`Store::commit`] makes a batch durable; [`writer`] is the stage that feeds it and passes on
//! the right to acknowledge; [`maintenance`] keeps the house; [`journal`] writes down connections
//! and gaps. Errors tell what to do next ([`StoreError`]), by SQLSTATE ([`error`]).

pub mod batch;
mod clocks;
mod connection;
pub mod database_status;
pub mod dead_letters;
pub mod erase;
pub mod error;
pub mod event_store;
pub mod gaps;
pub mod inspect;
pub mod journal;
pub mod lock;
pub mod maintenance;
mod partitions;
mod pg_timestamp;
mod query;
pub mod schema;
#[cfg(test)]
mod testing;
pub mod text;
pub mod writer;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

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
    link: Connector,
    writer: WriterSlot,
    /// For everything but the stream itself, so that neither waits for the other.
    pool: ConnectionPool,
    partitions: PartitionManager,
    trouble: Mutex<FailureHistory>,
    open: journal::OpenConnection,
    clocks: ClockComparison,
    memory: journal::position::PositionTracker,
    /// Whether the schema was found to be the one this program knows.
    prepared: watch::Sender<bool>,
}

impl Store {
    /// Reads the configuration; connects to nothing yet.
    pub fn new(config: &config::DatabaseConfig, span: PartitionSpan) -> Result<Self, StoreError> {
        let link = Connector::new(config)?;
        Ok(Self {
            writer: WriterSlot::new(link.clone()),
            // The writer and the single-writer lock have their own.
            pool: ConnectionPool::new(
                link.clone(),
                config.max_connections.saturating_sub(2) as usize,
            ),
            partitions: PartitionManager::new(span),
            trouble: Mutex::default(),
            open: journal::OpenConnection::default(),
            clocks: ClockComparison::default(),
            memory: journal::position::PositionTracker::default(),
            prepared: watch::Sender::new(false),
            link,
        })
    }

    /// A connection of the pool.
    async fn acquire(&self) -> Result<Db<'_>, DbError> {
        Ok(self.pool.acquire().await?.into())
    }

    fn trouble(&self) -> MutexGuard<'_, FailureHistory> {
        // Counters only: a panic between two of them does no harm.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
