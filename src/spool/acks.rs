//! What the store says: of rows of the spool, that they may be deleted; everything else is for the
//! session.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cursors::SpoolCursors;
use crate::message::Feedback;
use crate::progress::{HAND_OVER, during, idle};

/// Runs until the store is gone. Once `finished`, the session waits for nothing but what passed by
/// the disk; its channel is closed then, so that it can say goodbye.
pub(super) async fn run(
    mut store: mpsc::Receiver<Feedback>,
    session: mpsc::Sender<Feedback>,
    progress: &SpoolCursors,
    finished: &CancellationToken,
) {
    let mut session = Some(session);
    loop {
        if finished.is_cancelled() && progress.bypassed() == 0 {
            session = None;
        }
        let feedback = tokio::select! {
            biased;
            feedback = idle(store.recv()) => feedback,
            () = finished.cancelled(), if session.is_some() && progress.bypassed() == 0 => continue,
        };
        let rest = match feedback {
            None => return,
            Some(Feedback::Committed(committed)) => {
                let (spooled, delivered) = committed.split();
                if let Some(id) = spooled {
                    progress.done_through(id);
                }
                progress.bypass_committed(delivered.len());
                (!delivered.is_empty()).then_some(Feedback::Committed(delivered))
            }
            Some(other) => Some(other),
        };
        if let (Some(feedback), Some(session)) = (rest, &session)
            && during(HAND_OVER, session.send(feedback)).await.is_err()
        {
            tracing::debug!("the session is gone; what was committed will be delivered again");
        }
    }
}
