//! Applies the feedback of the downstream stages, with and without a connection.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::SessionContext;
use super::gaps::GapTracker;
use super::ledger::DeliveryLedger;
use crate::progress::idle;
use crate::stream::ack::Committed;
use crate::stream::message::Feedback;

/// Outcome of a wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WaitOutcome {
    /// The awaited future completed.
    Completed,
    /// The session shuts down.
    Shutdown,
}

/// Applies feedback while there is no connection. Commits that arrive then belong to a closed
/// connection, but they free room, and the downstream stages would block if nothing received them.
pub(super) struct FeedbackHandler<'a> {
    pub feedback: &'a mut mpsc::Receiver<Feedback>,
    pub ledger: &'a mut DeliveryLedger,
    pub gaps: &'a mut GapTracker,
    pub context: &'a SessionContext,
}

impl FeedbackHandler<'_> {
    /// Applies feedback until `enough` completes, `stop` is cancelled, or the downstream stages are
    /// gone.
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

/// Marks messages as durable in the ledger and the accounting, and updates the metric.
pub(super) fn apply_committed(
    context: &SessionContext,
    ledger: &mut DeliveryLedger,
    committed: Committed,
) {
    ledger.mark_durable(committed.deliveries());
    context.process().accounting.settle(committed);
    publish_unacked(context, ledger);
}

/// Updates the metric of un-acknowledged messages.
pub(super) fn publish_unacked(context: &SessionContext, ledger: &DeliveryLedger) {
    context.metrics.unacked.set(i64::try_from(ledger.unacked()).unwrap_or(i64::MAX));
}

/// Saves the gaps that are not durable yet, if they have changed. If the future is dropped, the next
/// call saves them again.
pub(super) async fn save_gaps(context: &SessionContext, gaps: &mut GapTracker) {
    if let Some(pending) = gaps.unsaved() {
        context.process().gap_state.keep(pending.clone()).await;
        gaps.saved(pending);
    }
}
