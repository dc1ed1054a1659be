//! Why a connection ended.

use rumqttc::ConnectionError;

use crate::session::intake_sender::PipelineClosed;
use crate::session::ledger::LedgerBound;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum DisconnectReason {
    /// Asked to: everything committed is acknowledged and DISCONNECT was sent.
    #[error("stopped")]
    Stopped,
    /// The stages behind are gone.
    #[error("the pipeline was rebuilt")]
    PipelineClosed,
    /// Messages had to be refused for want of room. Now there is room for their redelivery.
    #[error("reconnected for messages that had found no room")]
    Overloaded(LedgerBound),
    /// The broker gave the packet id of an un-acknowledged message to another one.
    #[error("the broker reused the packet id {0} of an un-acknowledged message")]
    PacketIdReused(u16),
    /// A message came again after its answer; only a new connection shows whether the broker waits.
    #[error("reconnected because of a repeated message whose state is unclear")]
    UnclearRepeat,
    /// Another process holds the session now.
    #[error("another process took the session over")]
    StandBy,
    /// New credentials are to be used.
    #[error("reconnected with renewed credentials")]
    Renewed,
    /// The network or the protocol failed.
    #[error("{0}")]
    Failed(Box<ConnectionError>),
    /// Every filter was refused.
    #[error("{0}")]
    NotAuthorized(String),
    /// The broker did not answer in time, or with something else than was asked.
    #[error("{0}")]
    Protocol(String),
}

impl DisconnectReason {
    pub(super) fn failed(error: ConnectionError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<PipelineClosed> for DisconnectReason {
    fn from(PipelineClosed: PipelineClosed) -> Self {
        Self::PipelineClosed
    }
}
