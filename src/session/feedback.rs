//! Takes the feedback of the stages behind, with and without a connection.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::SessionContext;
use super::gaps::GapTracker;
use super::ledger::DeliveryLedger;
use crate::ack::Committed;
use crate::message::Feedback;
use crate::progress::idle;

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WaitOutcome {
    /// What was waited for has happened.
    Completed,
    /// The session is to end.
    Shutdown,
}

/// Takes the feedback while there is no connection. Acknowledgements that come meanwhile belong to a
/// dead connection, but they free room, and the stages behind would stand still if nobody took them.
pub(super) struct FeedbackHandler<'a> {
    pub feedback: &'a mut mpsc::Receiver<Feedback>,
    pub ledger: &'a mut DeliveryLedger,
    pub gaps: &'a mut GapTracker,
    pub context: &'a SessionContext,
}

impl FeedbackHandler<'_> {
    /// Waits until `enough`, until `stop`, or until the stages behind are gone.
    pub async fn until(
        self,
        enough: impl Future<Output = ()>,
        stop: &CancellationToken,
    ) -> WaitOutcome {
        tokio::pin!(enough);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return WaitOutcome::Shutdown,
                () = &mut enough => return WaitOutcome::Completed,
                feedback = idle(self.feedback.recv()) => match feedback {
                    None => return WaitOutcome::Shutdown,
                    Some(Feedback::Persisted(event)) => {
                        self.gaps.persisted(&event);
                        save_gaps(self.context, self.gaps).await;
                    }
                    Some(Feedback::Committed(committed)) => {
                        apply_committed(self.context, self.ledger, committed);
                    }
                    Some(Feedback::Unsubscribe(_)) => {}
                },
            }
        }
    }
}

/// Enters durable messages into the ledger and the account, and publishes how many are left.
pub(super) fn apply_committed(
    context: &SessionContext,
    ledger: &mut DeliveryLedger,
    committed: Committed,
) {
    ledger.mark_durable(committed.deliveries());
    context.process().accounting.settle(committed);
    publish_unacked(context, ledger);
}

/// Publishes how many messages are un-acknowledged.
pub(super) fn publish_unacked(context: &SessionContext, ledger: &DeliveryLedger) {
    context.metrics.unacked.set(i64::try_from(ledger.unacked()).unwrap_or(i64::MAX));
}

/// Hands possible losses that are not durable yet to their file, if they have changed. Where this is
/// dropped, the next call does it again.
pub(super) async fn save_gaps(context: &SessionContext, gaps: &mut GapTracker) {
    if let Some(pending) = gaps.unsaved() {
        context.process().gap_state.keep(pending.clone()).await;
        gaps.saved(pending);
    }
}
