//! The right to acknowledge: a token travels with each message, and only a stage that has made the
//! message durable can turn it into [`Committed`].

use serde::{Deserialize, Serialize};

use crate::stream::accounting::InPipeline;
use crate::{spool, store};

/// The number of a connection of this process, so that a late acknowledgement names the connection it
/// belongs to. A token of a dead connection is dropped, and the broker redelivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// Marks the rows of the spool. Connections to the broker are numbered from 1.
    pub const SPOOL: Self = Self(0);
}

/// Identifies one delivery of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    /// The connection that delivered it.
    pub connection: ConnectionId,
    /// Its place in the order of receipt on that connection, or its row of the spool.
    pub sequence: u64,
}

impl DeliveryId {
    /// Returns true for a row of the spool, which is durable already. Its acknowledgement deletes it.
    pub fn is_spooled(self) -> bool {
        self.connection == ConnectionId::SPOOL
    }
}

/// The right to acknowledge one message, once it is durable. Invariant: a delivery has one token, so a
/// token that is dropped outside the session shows in [`crate::stream::accounting::MessageAccounting`].
#[derive(Debug)]
pub struct AckToken {
    id: DeliveryId,
    _counted: Option<InPipeline>,
}

impl AckToken {
    /// Makes a token that is not counted: that of a row of the spool, or of a test.
    pub fn new(connection: ConnectionId, sequence: u64) -> Self {
        Self { id: DeliveryId { connection, sequence }, _counted: None }
    }

    /// Makes the token of a message that was just received.
    pub fn counted(id: DeliveryId, counted: InPipeline) -> Self {
        Self { id, _counted: Some(counted) }
    }

    /// Returns the delivery of this token.
    pub fn id(&self) -> DeliveryId {
        self.id
    }
}

/// Proof that messages were made durable. Sealed: only a commit of the store and a sync of the spool
/// are proofs, and only those two can make one.
pub trait DurabilityProof: sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for store::CommitProof {}
impl DurabilityProof for store::CommitProof {}
impl sealed::Sealed for spool::SyncProof {}
impl DurabilityProof for spool::SyncProof {}

/// Tokens of durable messages, which may be acknowledged.
#[derive(Debug)]
pub struct Committed(Vec<AckToken>);

impl Committed {
    /// Turns the tokens of durable messages into acknowledgements to send.
    pub fn new(tokens: Vec<AckToken>, _proof: &impl DurabilityProof) -> Self {
        Self(tokens)
    }

    /// Returns the deliveries, in no particular order.
    pub fn deliveries(&self) -> impl Iterator<Item = DeliveryId> + '_ {
        self.0.iter().map(AckToken::id)
    }

    /// Returns the number of deliveries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there is no delivery.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Separates the last row of the spool, if there is one, from the deliveries of the broker.
    pub fn split(self) -> (Option<u64>, Self) {
        let (spooled, delivered): (Vec<_>, Vec<_>) =
            self.0.into_iter().partition(|token| token.id.is_spooled());
        (spooled.iter().map(|token| token.id.sequence).max(), Self(delivered))
    }
}
