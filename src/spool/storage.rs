//! The disk operations of the spool, implemented by `SQLite` in the service and by a model in the fault
//! simulator.

use std::future::Future;

use super::error::SpoolError;
pub use super::row::SpoolRow;

/// Opens the file of one `spool.dir`.
pub trait SpoolStorage: Send + Sync {
    /// A connection to the file.
    type File: StorageFile;
    /// Keeps every other process from the file until it is dropped.
    type Lock: Send;

    /// Opens the file, or makes it, with one connection that writes and one that reads.
    fn open(&self) -> impl Future<Output = Result<OpenSpool<Self>, SpoolError>> + Send;

    /// Sets a damaged file aside, and puts a new one with its readable rows in its place. A row after
    /// `last_known` reports the possible loss as a gap.
    fn salvage(
        &self,
        problem: &str,
        last_known: u64,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;
}

/// The file, open for writing and for reading.
#[derive(Debug)]
pub struct OpenSpool<S: SpoolStorage + ?Sized> {
    /// The connection that writes.
    pub writer: S::File,
    /// The connection that reads what the other wrote.
    pub reader: S::File,
    /// The lock that protects both.
    pub lock: S::Lock,
}

/// A connection to the file.
pub trait StorageFile: Send {
    /// Returns the content of the file in numbers, and the last id, which is 0 if the file is empty.
    fn depth(&mut self) -> impl Future<Output = Result<(SpoolDepth, u64), SpoolError>> + Send;

    /// Returns the time of receipt of the oldest row, in nanoseconds of Unix time.
    fn oldest(&mut self) -> impl Future<Output = Result<Option<i64>, SpoolError>> + Send;

    /// Returns the time of receipt of the newest row, in nanoseconds of Unix time.
    fn newest(&mut self) -> impl Future<Output = Result<Option<i64>, SpoolError>> + Send;

    /// Returns the connection that was open when the process was last known to run.
    fn last_seen(&mut self) -> impl Future<Output = Result<Option<LastSeen>, SpoolError>> + Send;

    /// Makes all changes durable, or none.
    fn write(
        &mut self,
        changes: &SpoolChanges<'_>,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Returns rows after this id, in order: at most `rows`, and about `bytes` of payload at most.
    fn read(
        &mut self,
        after: u64,
        rows: i64,
        bytes: usize,
    ) -> impl Future<Output = Result<Vec<(u64, SpoolRow<'static>)>, SpoolError>> + Send;

    /// Keeps the write-ahead log short. After an error other than a full disk the file must be closed
    /// and opened again.
    fn limit_log(&mut self) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Writes unchanged data durably, to find out if the disk works.
    fn touch(&mut self) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Returns freed space to the file system. To be called while the file is empty.
    fn shrink(&mut self) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Closes the file, and moves the write-ahead log into it.
    fn close(self) -> impl Future<Output = Result<(), SpoolError>> + Send;

    /// Closes the file at the end of the process, and marks it with this content, so that the next
    /// process need not scan it.
    fn close_in_order(
        self,
        depth: SpoolDepth,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;
}

/// The content of the file in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolDepth {
    /// Rows: messages and connection events.
    pub rows: u64,
    /// Rows that are messages.
    pub messages: u64,
    /// Bytes as counted by [`SpoolRow::cost`].
    pub bytes: u64,
}

impl SpoolDepth {
    /// Returns the numbers of one row.
    pub fn of(row: &SpoolRow<'_>) -> Self {
        Self { rows: 1, messages: row.topic.is_some().into(), bytes: row.cost() }
    }

    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            rows: self.rows + more.rows,
            messages: self.messages + more.messages,
            bytes: self.bytes + more.bytes,
        }
    }

    /// Returns the difference, at least zero.
    #[must_use]
    pub fn minus(self, less: Self) -> Self {
        Self {
            rows: self.rows.saturating_sub(less.rows),
            messages: self.messages.saturating_sub(less.messages),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// The connection that was open when the process was last known to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSeen {
    /// The name of the connection, as JSON.
    pub connection: String,
    /// The time at which it was last known to be open, in nanoseconds of Unix time.
    pub seen_at: i64,
}

/// The changes of one transaction.
#[derive(Debug, Default)]
pub struct SpoolChanges<'a> {
    /// Rows with their ids.
    pub append: &'a [(u64, SpoolRow<'a>)],
    /// The last row to delete: the database has all rows up to it.
    pub delete_through: Option<u64>,
    /// The change of the recorded connection.
    pub last_seen: LastSeenChange,
}

/// A change of the recorded [`LastSeen`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LastSeenChange {
    /// The record stays unchanged.
    #[default]
    None,
    /// No connection is open any more.
    Cleared,
    /// This connection is open.
    Set(LastSeen),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_add_up_and_never_go_below_zero() {
        let message = SpoolRow {
            received_at: 1,
            topic: Some("topic".into()),
            payload: vec![0; 10].into(),
            qos: 1,
            retain: false,
        };
        let event = SpoolRow { topic: None, ..message.clone() };
        let (one, other) = (SpoolDepth::of(&message), SpoolDepth::of(&event));
        assert_eq!(one, SpoolDepth { rows: 1, messages: 1, bytes: message.cost() });
        assert_eq!(other, SpoolDepth { rows: 1, messages: 0, bytes: event.cost() });
        let both = SpoolDepth { rows: 2, messages: 1, bytes: message.cost() + event.cost() };
        assert_eq!(one.plus(other), both);
        assert_eq!(both.minus(other), one);
        assert_eq!(one.minus(both), SpoolDepth::default());
    }
}
