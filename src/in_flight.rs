//! Accounts for the memory of messages in flight between a source and the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the bytes of messages between the spool and the database.
#[derive(Debug, Default)]
pub struct InFlight {
    bytes: AtomicUsize,
    freed: Notify,
}

impl InFlight {
    /// Payload and topic bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Waits until another `size` bytes are within `most`, or nothing is held. For one waiter.
    pub async fn wait_for_room(&self, size: usize, most: usize) {
        loop {
            let held = self.bytes();
            if held == 0 || held.saturating_add(size) <= most {
                return;
            }
            self.freed.notified().await;
        }
    }

    /// Counts a message of `bytes` in; the hold counts it out when dropped.
    pub fn acquire(self: &Arc<Self>, bytes: usize) -> InFlightPermit {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        InFlightPermit { owner: Arc::clone(self), bytes }
    }
}

/// Keeps one message counted in [`InFlight`] for as long as it lives.
#[derive(Debug)]
pub struct InFlightPermit {
    owner: Arc<InFlight>,
    bytes: usize,
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.owner.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.owner.freed.notify_one();
    }
}
