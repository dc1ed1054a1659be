//! What reaches the session from beside the stream: to stop, to stand by, to renew, to wait
//! differently.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::credentials::CredentialState;
use crate::config::BackoffBounds;
use crate::service::leadership::Leadership;

/// The session's ears.
#[derive(Debug)]
pub struct SessionControl {
    /// Stop taking in, finish what is inside.
    pub stop: CancellationToken,
    /// Whether the session may be ours.
    pub leadership: watch::Receiver<Leadership>,
    /// What to prove ourselves with.
    pub credentials: watch::Receiver<CredentialState>,
    /// How to wait between connections.
    pub reconnect: watch::Receiver<BackoffBounds>,
    /// The session is to end for good: it is not subscribed to anything, but unsubscribed from
    /// everything. Tells whether that is done, and the session empty.
    pub retire: Option<watch::Sender<bool>>,
}

/// An order to a connection that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCommand {
    /// Stop taking in, finish what is inside.
    Stop,
    /// Another process holds the session now, or the lock on it cannot be had.
    StandBy,
    /// There are new credentials.
    Renew,
}

impl SessionControl {
    /// The next order. `stop` is repeated for as long as it is listened to; of the others each
    /// change is told once. Cancelling it loses none.
    pub async fn next(&mut self, stop: bool) -> SessionCommand {
        let Self { stop: token, leadership, credentials, .. } = self;
        tokio::select! {
            biased;
            () = token.cancelled(), if stop => SessionCommand::Stop,
            () = taken(leadership) => SessionCommand::StandBy,
            () = changed(credentials) => SessionCommand::Renew,
        }
    }
}

/// Waits until another process holds the session, or the lock on it is refused.
async fn taken(leadership: &mut watch::Receiver<Leadership>) {
    loop {
        changed(leadership).await;
        if leadership.borrow().must_leave() {
            return;
        }
    }
}

/// Waits for a change. A sender that is gone makes none.
pub async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
