//! Takes the feedback of the stages behind, with and without a connection.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::gap_tracker::GapTracker;
use super::ledger::Ledger;
use super::shared::Shared;
use crate::ack::Committed;
use crate::message::Feedback;
use crate::progress::idle;

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// What was waited for has happened.
    Enough,
    /// The session is to end.
    ToEnd,
}

/// Takes the feedback while there is no connection. Acknowledgements that come meanwhile belong to a
/// dead connection, but they free room, and the stages behind would stand still if nobody took them.
pub(super) struct Settling<'a> {
    pub feedback: &'a mut mpsc::Receiver<Feedback>,
    pub ledger: &'a mut Ledger,
    pub gaps: &'a mut GapTracker,
    pub shared: &'a Shared,
}

impl Settling<'_> {
    /// Waits until `enough`, until `stop`, or until the stages behind are gone.
    pub async fn until(self, enough: impl Future<Output = ()>, stop: &CancellationToken) -> Waited {
        tokio::pin!(enough);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Waited::ToEnd,
                () = &mut enough => return Waited::Enough,
                feedback = idle(self.feedback.recv()) => match feedback {
                    None => return Waited::ToEnd,
                    Some(Feedback::Persisted(event)) => {
                        self.gaps.persisted(&event);
                        save_gaps(self.shared, self.gaps).await;
                    }
                    Some(Feedback::Committed(committed)) => {
                        settle(self.shared, self.ledger, committed);
                    }
                    Some(Feedback::Unsubscribe(_)) => {}
                },
            }
        }
    }
}

/// Enters durable messages into the ledger and the account, and publishes how many are left.
pub(super) fn settle(shared: &Shared, ledger: &mut Ledger, committed: Committed) {
    ledger.settle(committed.deliveries());
    shared.process().accounting.settle(committed);
    publish_unacked(shared, ledger);
}

/// Publishes how many messages are un-acknowledged.
pub(super) fn publish_unacked(shared: &Shared, ledger: &Ledger) {
    shared.metrics.unacked.set(i64::try_from(ledger.unacked()).unwrap_or(i64::MAX));
}

/// Hands possible losses that are not durable yet to their file, if they have changed. Where this is
/// dropped, the next call does it again.
pub(super) async fn save_gaps(shared: &Shared, gaps: &mut GapTracker) {
    if let Some(pending) = gaps.unsaved() {
        shared.process().gap_state.keep(pending.clone()).await;
        gaps.saved(pending);
    }
}
