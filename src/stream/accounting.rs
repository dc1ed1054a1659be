//! Accounts for every message received: it is durable, a repeat, refused, dropped or still in the
//! pipeline. A difference is a message that this program has lost track of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the messages received since the start of the process, by outcome.
#[derive(Debug, Default)]
pub struct MessageAccounting {
    counts: Mutex<MessageCounts>,
    in_pipeline: Arc<AtomicU64>,
}

/// Numbers of messages by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// PUBLISH packets read from the broker.
    pub received: u64,
    /// Made durable: stored as a row, found stored already, set aside as a dead letter, or synced in
    /// the spool.
    pub durable: u64,
    /// Repeated by the broker while this program held them or had just acknowledged them.
    pub repeated: u64,
    /// Not accepted, so still with the broker, which redelivers them.
    pub refused: u64,
    /// QoS-0 messages that found no room. They are lost, and a row of `gap` records the loss.
    pub dropped: u64,
    /// Messages in the pipeline that are not durable yet.
    pub in_pipeline: u64,
}

impl MessageCounts {
    /// Returns the number of messages without an outcome, negative if some have two.
    pub fn unaccounted(&self) -> i64 {
        let known = self.durable + self.repeated + self.refused + self.dropped + self.in_pipeline;
        self.received.cast_signed().wrapping_sub(known.cast_signed())
    }

    /// Returns the number of messages received that are neither durable nor left to the broker. An
    /// abandoned pipeline leaves such messages, although it no longer holds them.
    pub fn uncommitted(&self) -> u64 {
        let settled = self.durable + self.repeated + self.refused + self.dropped;
        self.received.saturating_sub(settled)
    }
}

/// The outcome of a message that does not enter the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageDisposal {
    /// Counts in [`MessageCounts::repeated`].
    Repeated,
    /// Counts in [`MessageCounts::refused`].
    Refused,
    /// Counts in [`MessageCounts::dropped`].
    Dropped,
}

/// Keeps one message counted as in the pipeline until it is dropped.
#[derive(Debug)]
pub struct InPipeline(Arc<AtomicU64>);

impl Drop for InPipeline {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl MessageAccounting {
    /// Counts a message that enters the pipeline.
    pub fn admit(&self) -> InPipeline {
        let mut counts = self.lock();
        counts.received += 1;
        self.in_pipeline.fetch_add(1, Ordering::AcqRel);
        drop(counts);
        InPipeline(Arc::clone(&self.in_pipeline))
    }

    /// Counts a message that does not enter the pipeline.
    pub fn dispose(&self, disposal: MessageDisposal) {
        let mut counts = self.lock();
        counts.received += 1;
        match disposal {
            MessageDisposal::Repeated => counts.repeated += 1,
            MessageDisposal::Refused => counts.refused += 1,
            MessageDisposal::Dropped => counts.dropped += 1,
        }
    }

    /// Moves messages from those in the pipeline to those durable.
    pub fn settle(&self, durable: crate::stream::ack::Committed) {
        let mut counts = self.lock();
        counts.durable += durable.len() as u64;
        // Within the lock, so that no reader sees a message in both places.
        drop(durable);
    }

    /// Counts the messages lost with a failed pipeline as refused: they were not acknowledged, so the
    /// broker redelivers them. To be called when all of its stages have ended.
    pub fn write_off(&self) {
        let mut counts = self.lock();
        counts.in_pipeline = self.in_pipeline.load(Ordering::Acquire);
        counts.refused += u64::try_from(counts.unaccounted()).unwrap_or(0);
    }

    /// Returns a consistent snapshot of the counts.
    pub fn counts(&self) -> MessageCounts {
        let counts = self.lock();
        MessageCounts { in_pipeline: self.in_pipeline.load(Ordering::Acquire), ..*counts }
    }

    fn lock(&self) -> MutexGuard<'_, MessageCounts> {
        // Each change is complete, even if its caller panicked.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
