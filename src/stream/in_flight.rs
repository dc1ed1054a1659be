//! Bounds the memory of the messages in flight between a source and the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the bytes of the messages in flight.
#[derive(Debug, Default)]
pub struct InFlight {
    bytes: AtomicUsize,
    freed: Notify,
}

impl InFlight {
    /// Returns the payload and topic bytes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Waits until another `size` bytes are within `most`, or nothing is in flight. A message larger
    /// than `most` therefore passes alone. For one waiter.
    pub async fn wait_for_room(&self, size: usize, most: usize) {
        loop {
            let held = self.bytes();
            if held == 0 || held.saturating_add(size) <= most {
                return;
            }
            self.freed.notified().await;
        }
    }

    /// Adds a message of `bytes`. Dropping the permit subtracts it.
    pub fn acquire(self: &Arc<Self>, bytes: usize) -> InFlightPermit {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        InFlightPermit { owner: Arc::clone(self), bytes }
    }
}

/// A permit that keeps one message counted in [`InFlight`] until it is dropped.
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
