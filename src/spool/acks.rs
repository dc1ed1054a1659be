//! Routes the feedback of the store: committed rows of the spool may be deleted, and everything else
//! goes to the session.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cursors::SpoolCursors;
use crate::progress::{HAND_OVER, during, idle};
use crate::stream::message::Feedback;

/// Runs until the store has ended. Once `finished`, the session waits only for messages that bypassed
/// the disk. After those its channel is closed, so that it can disconnect.
pub(super) async fn run(
    mut store: mpsc::Receiver<Feedback>,
    session: mpsc::Sender<Feedback>,
    cursors: &SpoolCursors,
    finished: &CancellationToken,
) {
    let mut session = Some(session);
    loop {
        if finished.is_cancelled() && cursors.bypassed() == 0 {
            session = None;
        }
        let feedback = tokio::select! {
            biased;
            feedback = idle(store.recv()) => feedback,
            () = finished.cancelled(), if session.is_some() && cursors.bypassed() == 0 => continue,
        };
        let rest = match feedback {
            None => return,
            Some(Feedback::Committed(committed)) => {
                let (spooled, delivered) = committed.split();
                if let Some(id) = spooled {
                    cursors.done_through(id);
                }
                cursors.bypass_committed(delivered.len());
                (!delivered.is_empty()).then_some(Feedback::Committed(delivered))
            }
            Some(other) => Some(other),
        };
        if let (Some(feedback), Some(session)) = (rest, &session)
            && during(HAND_OVER, session.send(feedback)).await.is_err()
        {
            tracing::debug!("the session has ended; the broker will redeliver committed messages");
        }
    }
}
