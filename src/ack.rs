//! The right to acknowledge: a token travels with each message, and only a stage that has made the
//! message durable can turn it into [`Committed`].

use serde::{Deserialize, Serialize};

use crate::accounting::InPipeline;
use crate::{spool, store};

/// Numbers the connections of this process, so that a late acknowledgement names the one it belongs
/// to. A token of a dead connection is not answered: the broker redelivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// Marks the rows of the spool. Connections to the broker are numbered from 1.
    pub const SPOOL: Self = Self(0);
}

/// Identifies one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    /// The connection that delivered it.
    pub connection: ConnectionId,
    /// Its place in the order of receipt on that connection, or the row of the spool.
    pub sequence: u64,
}

impl DeliveryId {
    /// Returns true for a row of the spool, which is on disk already and only to be deleted there.
    pub fn is_spooled(self) -> bool {
        self.connection == ConnectionId::SPOOL
    }
}

/// Accompanies one message through the pipeline. Invariant: there is one token a delivery, so a token
/// that is dropped anywhere but in the session shows in [`crate::accounting::MessageAccounting`].
#[derive(Debug)]
pub struct AckToken {
    id: DeliveryId,
    _counted: Option<InPipeline>,
}

impl AckToken {
    /// Makes a token that nothing counts: of a row of the spool, or of a test.
    pub fn new(connection: ConnectionId, sequence: u64) -> Self {
        Self { id: DeliveryId { connection, sequence }, _counted: None }
    }

    /// Makes the token of a message that was just received.
    pub fn counted(id: DeliveryId, counted: InPipeline) -> Self {
        Self { id, _counted: Some(counted) }
    }

    /// Returns the delivery it belongs to.
    pub fn id(&self) -> DeliveryId {
        self.id
    }
}

/// Proves that something was made durable. Sealed: only a commit of the store and a sync of the
/// spool are proofs, and only those two can make one.
pub trait DurabilityProof: sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for store::CommitProof {}
impl DurabilityProof for store::CommitProof {}
impl sealed::Sealed for spool::SyncProof {}
impl DurabilityProof for spool::SyncProof {}

/// Tokens of messages that are durable.
#[derive(Debug)]
pub struct Committed(Vec<AckToken>);

impl Committed {
    /// Turns tokens into the right to acknowledge.
    pub fn new(tokens: Vec<AckToken>, _proof: &impl DurabilityProof) -> Self {
        Self(tokens)
    }

    /// Returns the deliveries, in no particular order.
    pub fn deliveries(&self) -> impl Iterator<Item = DeliveryId> + '_ {
        self.0.iter().map(AckToken::id)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Separates the last of the spool's rows, if there are any, from the broker's deliveries.
    pub fn split(self) -> (Option<u64>, Self) {
        let (spooled, delivered): (Vec<_>, Vec<_>) =
            self.0.into_iter().partition(|token| token.id.is_spooled());
        (spooled.iter().map(|token| token.id.sequence).max(), Self(delivered))
    }
}
