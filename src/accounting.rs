//! Conservation: every message received is durable, a repeat, refused, dropped or still in the
//! pipeline. A difference is a message that this program has forgotten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what became of the messages received since the start of the process.
#[derive(Debug, Default)]
pub struct MessageAccounting {
    counts: Mutex<MessageCounts>,
    in_pipeline: Arc<AtomicU64>,
}

/// Messages by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// PUBLISH packets read.
    pub received: u64,
    /// Made durable: a row, a duplicate of one, a dead letter, or synced in the spool.
    pub durable: u64,
    /// Repeated by the broker while this program held or had just answered them.
    pub repeated: u64,
    /// Not taken in, so still with the broker, which delivers them again.
    pub refused: u64,
    /// QoS-0 messages that found no room. They are lost, and a row of `gap` says so.
    pub dropped: u64,
    /// In the pipeline and not durable yet.
    pub in_pipeline: u64,
}

impl MessageCounts {
    /// Returns how many messages nothing accounts for, negative if some are accounted for twice.
    pub fn unaccounted(&self) -> i64 {
        let known = self.durable + self.repeated + self.refused + self.dropped + self.in_pipeline;
        self.received.cast_signed().wrapping_sub(known.cast_signed())
    }

    /// Returns how many messages were received and are neither durable nor left to the broker. A
    /// pipeline that was abandoned leaves such messages, though none is in it any more.
    pub fn uncommitted(&self) -> u64 {
        let settled = self.durable + self.repeated + self.refused + self.dropped;
        self.received.saturating_sub(settled)
    }
}

/// What becomes of a message when it is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageDisposal {
    /// See [`MessageCounts::repeated`].
    Repeated,
    /// See [`MessageCounts::refused`].
    Refused,
    /// See [`MessageCounts::dropped`].
    Dropped,
}

/// Counts one message as being in the pipeline, for as long as it lives.
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

    /// Counts messages as durable, with what kept them counted as in the pipeline.
    pub fn settle(&self, durable: crate::ack::Committed) {
        let mut counts = self.lock();
        counts.durable += durable.len() as u64;
        // Within the lock, so that no reader sees a message in both places.
        drop(durable);
    }

    /// Counts what a pipeline took with it as refused. To be called when all of its stages have ended:
    /// it was not acknowledged, so the broker delivers it again.
    pub fn write_off(&self) {
        let mut counts = self.lock();
        counts.in_pipeline = self.in_pipeline.load(Ordering::Acquire);
        counts.refused += u64::try_from(counts.unaccounted()).unwrap_or(0);
    }

    /// Returns the counts of one moment.
    pub fn counts(&self) -> MessageCounts {
        let counts = self.lock();
        MessageCounts { in_pipeline: self.in_pipeline.load(Ordering::Acquire), ..*counts }
    }

    fn lock(&self) -> MutexGuard<'_, MessageCounts> {
        // Each change is whole, also after a panic of its caller.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
