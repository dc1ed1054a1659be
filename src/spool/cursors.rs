//! Positions of the parts of the stage in the file, shared between them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::storage::SpoolDepth;

/// Row ids that the parts have reached. Invariant: `done <= forwarded <= appended`.
#[derive(Debug)]
pub(super) struct SpoolCursors {
    /// The last row on disk.
    pub appended: watch::Sender<u64>,
    forwarded: AtomicU64,
    /// The last row that the database has.
    pub done: watch::Sender<u64>,
    /// Rows that are forwarded and not deleted yet. Bounded by the capacity of the later stages.
    forwarded_rows: Mutex<VecDeque<(u64, SpoolDepth)>>,
    /// Messages that bypassed the disk and are not committed yet.
    bypassed: AtomicUsize,
}

impl SpoolCursors {
    /// Makes cursors with this row as the last on disk, and none forwarded.
    pub fn new(appended: u64) -> Self {
        Self {
            appended: watch::Sender::new(appended),
            forwarded: AtomicU64::new(0),
            done: watch::Sender::new(0),
            forwarded_rows: Mutex::default(),
            bypassed: AtomicUsize::new(0),
        }
    }

    /// Records that a row was sent to the next stage.
    pub fn forward(&self, id: u64, depth: SpoolDepth) {
        self.forwarded.store(id, Ordering::Release);
        self.forwarded_rows().push_back((id, depth));
    }

    /// Records that no row up to this id is left to forward.
    pub fn skip_to(&self, id: u64) {
        self.forwarded.fetch_max(id, Ordering::AcqRel);
    }

    /// Returns the last row sent to the next stage.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::Acquire)
    }

    /// Records that the database has every row up to this id.
    pub fn done_through(&self, id: u64) {
        self.done.send_if_modified(|done| {
            let further = id > *done;
            *done = id.max(*done);
            further
        });
    }

    /// Returns true if every row on disk was sent to the next stage.
    pub fn has_caught_up(&self) -> bool {
        self.forwarded() >= *self.appended.borrow()
    }

    /// Returns true if the database has every row on disk.
    pub fn is_drained(&self) -> bool {
        *self.done.borrow() >= *self.appended.borrow()
    }

    /// Removes the forwarded rows up to this id, and returns their sum.
    pub fn delete_through(&self, id: u64) -> SpoolDepth {
        let mut forwarded_rows = self.forwarded_rows();
        let mut deleted = SpoolDepth::default();
        while let Some((row, depth)) = forwarded_rows.front()
            && *row <= id
        {
            deleted = deleted.plus(*depth);
            forwarded_rows.pop_front();
        }
        deleted
    }

    /// Records that messages bypassed the disk.
    pub fn bypass(&self, messages: usize) {
        self.bypassed.fetch_add(messages, Ordering::AcqRel);
    }

    /// Records that messages which bypassed the disk are committed.
    pub fn bypass_committed(&self, messages: usize) {
        self.bypassed.fetch_sub(messages, Ordering::AcqRel);
    }

    /// Returns the number of messages that only the database can make durable.
    pub fn bypassed(&self) -> usize {
        self.bypassed.load(Ordering::Acquire)
    }

    fn forwarded_rows(&self) -> MutexGuard<'_, VecDeque<(u64, SpoolDepth)>> {
        self.forwarded_rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(rows: u64) -> SpoolDepth {
        SpoolDepth { rows, ..SpoolDepth::default() }
    }

    #[test]
    fn cursors_only_move_forward() {
        let cursors = SpoolCursors::new(3);
        let mut done = cursors.done.subscribe();
        cursors.forward(2, depth(1));
        cursors.skip_to(1);
        assert_eq!(cursors.forwarded(), 2);
        assert!(!cursors.has_caught_up() && !cursors.is_drained());
        cursors.skip_to(3);
        cursors.done_through(3);
        assert!(cursors.has_caught_up() && cursors.is_drained());
        assert!(done.has_changed().unwrap());
        done.mark_unchanged();
        cursors.done_through(3);
        cursors.done_through(2);
        assert!(!done.has_changed().unwrap() && cursors.is_drained());
    }

    #[test]
    fn deleted_rows_are_counted_once() {
        let cursors = SpoolCursors::new(3);
        for id in 1..=3 {
            cursors.forward(id, depth(10 * id));
        }
        assert_eq!(cursors.delete_through(2), depth(30));
        assert_eq!(cursors.delete_through(2), depth(0));
        assert_eq!(cursors.delete_through(3), depth(30));
    }

    #[test]
    fn bypassed_messages_count_until_their_commit() {
        let cursors = SpoolCursors::new(0);
        cursors.bypass(3);
        cursors.bypass_committed(1);
        assert_eq!(cursors.bypassed(), 2);
    }
}
