//! How far each part of the stage has come, for the others to see.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::storage::SpoolDepth;

/// Ids of rows, each no larger than the one before: `done <= forwarded <= appended`.
#[derive(Debug)]
pub(super) struct SpoolCursors {
    /// The last row that is on disk.
    pub appended: watch::Sender<u64>,
    forwarded: AtomicU64,
    /// The last row that the database has.
    pub done: watch::Sender<u64>,
    /// Rows that are forwarded and not deleted yet. Bounded by what the stages behind hold.
    forwarded_rows: Mutex<VecDeque<(u64, SpoolDepth)>>,
    /// Messages passed on without touching the disk, and not committed yet.
    bypassed: AtomicUsize,
}

impl SpoolCursors {
    /// With this row as the last on disk, and none forwarded.
    pub fn new(appended: u64) -> Self {
        Self {
            appended: watch::Sender::new(appended),
            forwarded: AtomicU64::new(0),
            done: watch::Sender::new(0),
            forwarded_rows: Mutex::default(),
            bypassed: AtomicUsize::new(0),
        }
    }

    /// A row was handed to the next stage.
    pub fn forward(&self, id: u64, depth: SpoolDepth) {
        self.forwarded.store(id, Ordering::Release);
        self.forwarded_rows().push_back((id, depth));
    }

    /// Nothing is left to forward up to this row.
    pub fn skip_to(&self, id: u64) {
        self.forwarded.fetch_max(id, Ordering::AcqRel);
    }

    /// The last row handed to the next stage.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::Acquire)
    }

    /// The database has everything up to this row.
    pub fn done_through(&self, id: u64) {
        self.done.send_if_modified(|done| {
            let further = id > *done;
            *done = id.max(*done);
            further
        });
    }

    /// Whether the next stage was handed everything there is.
    pub fn has_caught_up(&self) -> bool {
        self.forwarded() >= *self.appended.borrow()
    }

    /// Whether the database has everything there is.
    pub fn is_drained(&self) -> bool {
        *self.done.borrow() >= *self.appended.borrow()
    }

    /// Takes out the rows up to this one; returns what they amount to.
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

    /// Messages were passed on without touching the disk.
    pub fn bypass(&self, messages: usize) {
        self.bypassed.fetch_add(messages, Ordering::AcqRel);
    }

    /// Some of those are committed.
    pub fn bypass_committed(&self, messages: usize) {
        self.bypassed.fetch_sub(messages, Ordering::AcqRel);
    }

    /// Messages that only the database can make durable.
    pub fn bypassed(&self) -> usize {
        self.bypassed.load(Ordering::Acquire)
    }

    fn forwarded_rows(&self) -> MutexGuard<'_, VecDeque<(u64, SpoolDepth)>> {
        self.forwarded_rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
