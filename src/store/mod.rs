//! PostgreSQL: everything that is written, and when it counts as written.
//!
//! [`Store::commit`] makes a batch durable; [`writer`] is the stage that feeds it and passes on
//! the right to acknowledge; [`maintenance`] keeps the house; [`journal`] writes down connections
//! and gaps. Errors tell what to do next ([`StoreError`]), by SQLSTATE ([`fault`]).

pub mod batch;
mod bisect;
mod clocks;
mod commit;
pub mod condition;
mod connect;
pub mod database;
pub mod dead_letters;
pub mod erase;
mod establish;
pub mod fault;
pub mod gaps;
pub mod inspect;
pub mod journal;
mod limits;
pub mod lock;
pub mod maintenance;
pub mod members;
mod partitions;
mod payload_retention;
mod pool;
mod pooling;
mod refusals;
mod relay;
mod restored;
mod retention;
mod route;
mod rows;
pub mod schema;
mod span;
mod state;
#[cfg(test)]
mod testing;
pub mod text;
mod timestamp;
mod transaction;
mod write;
pub mod writer;
mod writer_slot;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use self::bisect::Sorted;
use self::clocks::Clocks;
pub use self::commit::{Count, Outcome};
pub use self::condition::Condition;
use self::connect::Link;
pub use self::fault::{Fault, StoreError};
use self::partitions::Partitions;
use self::pool::Pool;
use self::refusals::Refusals;
pub use self::rows::Entry;
use self::transaction::Conn;
pub use self::writer::CommitProof;
use self::writer_slot::WriterSlot;
use crate::config::{self, PartitionSpan};

/// Access to the database. Opens connections when they are needed.
#[derive(Debug)]
pub struct Store {
    link: Link,
    writer: WriterSlot,
    /// For everything but the stream itself, so that neither waits for the other.
    pool: Pool,
    partitions: Partitions,
    trouble: Mutex<Trouble>,
    open: journal::OpenConnection,
    clocks: Clocks,
    memory: restored::Memory,
    /// Whether the schema was found to be the one this program knows.
    prepared: watch::Sender<bool>,
}

impl Store {
    /// Reads the configuration; connects to nothing yet.
    pub fn new(config: &config::DatabaseConfig, span: PartitionSpan) -> Result<Self, StoreError> {
        let link = Link::new(config)?;
        Ok(Self {
            writer: WriterSlot::new(link.clone()),
            // The writer and the single-writer lock have their own.
            pool: Pool::new(link.clone(), config.max_connections.saturating_sub(2) as usize),
            partitions: Partitions::new(span),
            trouble: Mutex::default(),
            open: journal::OpenConnection::default(),
            clocks: Clocks::default(),
            memory: restored::Memory::default(),
            prepared: watch::Sender::new(false),
            link,
        })
    }

    /// A connection of the pool.
    async fn acquire(&self) -> Result<Conn<'_>, Fault> {
        Ok(self.pool.acquire().await?.into())
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        // Counters only: a panic between two of them does no harm.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went wrong lately, across batches.
#[derive(Debug, Default)]
struct Trouble {
    refusals: Refusals,
    /// The unknown code met last, and how often in a row.
    unknown: Option<(Option<String>, u32)>,
}

impl Trouble {
    /// A batch with this many events went through whole.
    fn passed(&mut self, events: usize) {
        self.refusals.note(events as u64, &[]);
        self.unknown = None;
    }

    /// A batch went through without the rows at fault.
    fn sorted(&mut self, sorted: &Sorted<'_>) {
        self.refusals.note(sorted.accepted(), &sorted.refused);
        self.unknown = None;
    }

    /// An unknown code was met; how often in a row.
    fn unknown_again(&mut self, fault: &Fault) -> u32 {
        let times = match self.unknown.take() {
            Some((code, times)) if code == fault.sqlstate => times + 1,
            _ => 1,
        };
        self.unknown = Some((fault.sqlstate.clone(), times));
        times
    }

    /// The unknown code is not one row's: count anew before looking again.
    fn unknown_to_all(&mut self) {
        self.unknown = None;
    }
}
