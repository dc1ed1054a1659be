//! Control inputs of the session, in addition to the message stream: shutdown, the single-writer lock,
//! new credentials and new reconnect limits.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::credentials::CredentialState;
use crate::config::BackoffBounds;
use crate::service::leadership::Leadership;

/// Control inputs of the session.
#[derive(Debug)]
pub struct SessionControl {
    /// Cancelled to make the session accept no more messages, drain and end.
    pub stop: CancellationToken,
    /// State of the single-writer lock.
    pub leadership: watch::Receiver<Leadership>,
    /// Client credentials, with each renewal.
    pub credentials: watch::Receiver<CredentialState>,
    /// Limits of the wait between two connections.
    pub reconnect: watch::Receiver<BackoffBounds>,
    /// Set if the session is to be retired: it subscribes to nothing and unsubscribes from every
    /// filter. Becomes true once that is done and the broker's queue is empty.
    pub retire: Option<watch::Sender<bool>>,
}

/// A command to an open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCommand {
    /// Accepts no more messages, drains and disconnects.
    Stop,
    /// Disconnects because another process holds the single-writer lock, or it cannot be acquired.
    StandBy,
    /// Reconnects with new credentials.
    Renew,
}

impl SessionControl {
    /// Waits for the next command. `Stop` is returned on every call while `stop` is true. Each other
    /// change is returned once. Dropping the future loses no command.
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

/// Waits until another process holds the single-writer lock, or it is refused.
async fn taken(leadership: &mut watch::Receiver<Leadership>) {
    loop {
        changed(leadership).await;
        if leadership.borrow().must_leave() {
            return;
        }
    }
}

/// Waits for a change. Never returns once the sender is gone.
pub async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
