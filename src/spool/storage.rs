//! The operations on the disk that the spool needs: `SQLite` in the service, a model in the fault
//! simulator.

use std::future::Future;

use super::error::SpoolError;
pub use super::row::SpoolRow;

/// Opens the file of one `spool.dir`.
pub trait SpoolStorage: Send + Sync {
    /// A connection to the file.
    type File: StorageFile;
    /// Keeps every other process from the file for as long as it lives.
    type Lock: Send;

    /// Opens the file, made if there is none, for one connection that writes and one that reads.
    fn open(&self) -> impl Future<Output = Result<OpenSpool<Self>, SpoolError>> + Send;

    /// Sets a damaged file aside, and puts what can be read of it in its place. What may be lost is
    /// told in a row after `last_known`.
    fn salvage(
        &self,
        problem: &str,
        last_known: u64,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;
}

/// The file, open for writing and for reading.
#[derive(Debug)]
pub struct OpenSpool<S: SpoolStorage + ?Sized> {
    /// Writes, and makes durable what it wrote.
    pub writer: S::File,
    /// Reads what was written.
    pub reader: S::File,
    /// The right to have both.
    pub lock: S::Lock,
}

/// A connection to the file.
pub trait StorageFile: Send {
    /// Returns what the file holds, and the last id; 0 if it is empty.
    fn depth(&mut self) -> impl Future<Output = Result<(SpoolDepth, u64), SpoolError>> + Send;

    /// Returns when the oldest row was received, Unix time in nanoseconds.
    fn oldest(&mut self) -> impl Future<Output = Result<Option<i64>, SpoolError>> + Send;

    /// Returns when the newest row was received, Unix time in nanoseconds.
    fn newest(&mut self) -> impl Future<Output = Result<Option<i64>, SpoolError>> + Send;

    /// Returns the connection of a process that ended without notice.
    fn last_seen(&mut self) -> impl Future<Output = Result<Option<LastSeen>, SpoolError>> + Send;

    /// Makes the changes durable, or none of them.
    fn write(
        &mut self,
        changes: &SpoolChanges<'_>,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Returns rows after this id, in order: at most `rows`, and not many more than `bytes` of payload.
    fn read(
        &mut self,
        after: u64,
        rows: i64,
        bytes: usize,
    ) -> impl Future<Output = Result<Vec<(u64, SpoolRow<'static>)>, SpoolError>> + Send;

    /// Keeps the write-ahead log short. After an error other than a full disk the file is to be closed
    /// and opened again.
    fn limit_log(&mut self) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Writes what is there anyway, durably.
    fn touch(&mut self) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Gives freed space back; to be called while it is empty.
    fn shrink(&mut self) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Closes it: what the write-ahead log holds goes into the file.
    fn close(self) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Closes it at the end of the process, and marks that it holds this, so that the next process need
    /// not look at all of it.
    fn close_in_order(
        self,
        depth: SpoolDepth,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;
}

/// What the file holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolDepth {
    /// Rows: messages, and news of connections.
    pub rows: u64,
    /// Messages.
    pub messages: u64,
    /// As [`SpoolRow::cost`] counts them.
    pub bytes: u64,
}

impl SpoolDepth {
    /// Returns what one row counts for.
    pub fn of(row: &SpoolRow<'_>) -> Self {
        Self { rows: 1, messages: row.topic.is_some().into(), bytes: row.cost() }
    }

    /// Returns this with `more`.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            rows: self.rows + more.rows,
            messages: self.messages + more.messages,
            bytes: self.bytes + more.bytes,
        }
    }

    /// Returns this without `less`.
    #[must_use]
    pub fn minus(self, less: Self) -> Self {
        Self {
            rows: self.rows.saturating_sub(less.rows),
            messages: self.messages.saturating_sub(less.messages),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// The connection that was standing when the process was last known to live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSeen {
    /// The connection's name, as JSON.
    pub connection: String,
    /// Unix time in nanoseconds.
    pub seen_at: i64,
}

/// One transaction.
#[derive(Debug, Default)]
pub struct SpoolChanges<'a> {
    /// Rows with their ids.
    pub append: &'a [(u64, SpoolRow<'a>)],
    /// Everything up to this id is committed in the database.
    pub delete_through: Option<u64>,
    /// What becomes of the connection that is written down.
    pub last_seen: LastSeenChange,
}

/// What becomes of the [`LastSeen`] that is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LastSeenChange {
    /// Nothing.
    #[default]
    None,
    /// No connection is open any more.
    Cleared,
    /// This connection is open.
    Set(LastSeen),
}
