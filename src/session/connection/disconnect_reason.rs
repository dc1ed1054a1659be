//! Reasons for the end of a connection.

use rumqttc::ConnectionError;

use crate::session::intake_sender::PipelineClosed;
use crate::session::ledger::LedgerBound;

/// Reason for the end of a connection.
#[derive(Debug, thiserror::Error)]
pub enum DisconnectReason {
    /// Shutdown: every committed message is acknowledged and DISCONNECT was sent.
    #[error("stopped")]
    Stopped,
    /// The downstream stages are gone.
    #[error("the pipeline was rebuilt")]
    PipelineClosed,
    /// Messages were refused at this bound. Now there is room for their redelivery.
    #[error("reconnected to receive messages refused earlier")]
    Overloaded(LedgerBound),
    /// The broker reused the packet id of an un-acknowledged message.
    #[error("the broker reused the packet id {0} of an un-acknowledged message")]
    PacketIdReused(u16),
    /// A message was repeated after its acknowledgement. Only a new connection shows whether the
    /// broker still waits for one.
    #[error("reconnected because of a repeated message whose state is unclear")]
    UnclearRepeat,
    /// Another process holds the single-writer lock.
    #[error("another process took the session over")]
    StandBy,
    /// New client credentials are available.
    #[error("reconnected with renewed credentials")]
    Renewed,
    /// The network or the MQTT protocol failed.
    #[error("{0}")]
    Failed(Box<ConnectionError>),
    /// The broker refused every filter.
    #[error("{0}")]
    NotAuthorized(String),
    /// The broker did not answer in time, or its answer does not match the request.
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
