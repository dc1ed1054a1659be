//! Un-acknowledged deliveries: which of them may be acknowledged, in which order, and how much room
//! remains.
//!
//! Commits may finish in any order. PUBACKs and PUBRECs leave in the order of receipt (MQTT-4.6.0-2,
//! MQTT-4.6.0-3). The ledger alone decides whether there is room for more, so that no second count
//! can disagree with it. Pure: time is an argument, and there is no dependency on rumqttc.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use crate::stream::ack::{ConnectionId, DeliveryId};

/// Maximum number of un-acknowledged deliveries. Below the 65,535 packet ids of MQTT, because
/// Mosquitto 2.0 ignores its own window after a reconnect and reuses ids in turn. With at most half of
/// them outstanding, an id is reused only after its first delivery was acknowledged.
pub const MAX_MESSAGES: usize = 32_768;

/// Length of the tables by packet id. Packet ids are 1 to 65,535, and index 0 is never used.
const PACKET_IDS: usize = 1 << 16;

/// Returns the number of bytes at which reading pauses: one packet below `mqtt.max_unacked`, because a
/// packet is read whole, but at least half of it.
pub fn pause_at(max_unacked: usize, max_packet_size: usize) -> usize {
    max_unacked.saturating_sub(max_packet_size).max(max_unacked / 2)
}

/// Acknowledgement of a delivery that is durable, after which the broker may forget the message. At
/// QoS 2 the broker then sends PUBREL and expects PUBCOMP, which needs no state here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckPacket {
    /// Acknowledges a QoS-1 delivery of this packet id.
    Puback(u16),
    /// Acknowledges a QoS-2 delivery of this packet id. The bridge never asks for QoS 2, but an
    /// earlier client may have left such a subscription in the session.
    Pubrec(u16),
}

impl AckPacket {
    /// Returns the packet id.
    pub fn packet_id(self) -> u16 {
        match self {
            Self::Puback(packet_id) | Self::Pubrec(packet_id) => packet_id,
        }
    }
}

/// Properties of one QoS-1 or QoS-2 delivery.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryInfo {
    /// Packet that acknowledges the delivery.
    pub ack: AckPacket,
    /// DUP flag of the PUBLISH.
    pub dup: bool,
    /// Digest of topic and payload, which distinguishes two messages with the same packet id.
    pub digest: u64,
    /// Size of topic and payload, bytes.
    pub size: usize,
}

/// Outcome of recording a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// A new message, to be made durable.
    New(DeliveryId),
    /// A copy of a delivery that is outstanding on this connection, or whose acknowledgement has
    /// just been written. It is ignored.
    Repeated,
    /// A different message under a packet id that is still outstanding. The broker would take an
    /// acknowledgement of one for the other, so the connection must end and both are redelivered.
    IdReused,
    /// Refused because the ledger is sealed. The broker redelivers it.
    Refused,
}

/// Bound on un-acknowledged deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerBound {
    /// Number of messages, [`MAX_MESSAGES`].
    Messages,
    /// Number of bytes, `mqtt.max_unacked`.
    Bytes,
}

#[derive(Debug)]
struct OutstandingDelivery {
    /// Acknowledgement to send, `None` at QoS 0.
    ack: Option<AckPacket>,
    size: usize,
    received_at: Instant,
    durable: bool,
}

/// Un-acknowledged deliveries of the current connection, and deliveries of earlier connections that
/// are not durable yet.
#[derive(Debug)]
pub struct DeliveryLedger {
    max_bytes: usize,
    connection: ConnectionId,
    /// Deliveries in order of receipt. A durable one at the front stays until [`Self::release`].
    outstanding: VecDeque<OutstandingDelivery>,
    /// Sequence number of the front of `outstanding`.
    first: u64,
    /// By packet id: sequence number of its last delivery on this connection plus 1, or 0 if none.
    /// Invariant: a packet id is outstanding if and only if that sequence is at least `first`.
    sequences: Vec<u64>,
    /// By packet id: digest of its last delivery on this connection.
    digests: Vec<u64>,
    /// Packet ids of repeats that arrived after their acknowledgement. Either they were sent before
    /// the broker had it, or they are an equal message that still waits for one. The protocol does
    /// not show which.
    unclear: BTreeSet<u16>,
    /// Sizes of deliveries of earlier connections that are still in the pipeline.
    earlier: HashMap<DeliveryId, usize>,
    /// Invariant: the sum of all sizes in `outstanding` and `earlier`.
    bytes: usize,
    /// Once true, new deliveries are refused. Outstanding ones may still be released.
    sealed: bool,
}

impl DeliveryLedger {
    /// Creates an empty ledger with room for `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            connection: ConnectionId(0),
            outstanding: VecDeque::new(),
            first: 0,
            sequences: Vec::new(),
            digests: Vec::new(),
            unclear: BTreeSet::new(),
            earlier: HashMap::new(),
            bytes: 0,
            sealed: false,
        }
    }

    /// Begins a new connection. Deliveries of the previous one take room until they are durable,
    /// but are never acknowledged.
    pub fn begin(&mut self, connection: ConnectionId) {
        for (sequence, delivery) in (self.first..).zip(self.outstanding.drain(..)) {
            if delivery.durable {
                self.bytes -= delivery.size;
            } else {
                let id = DeliveryId { connection: self.connection, sequence };
                self.earlier.insert(id, delivery.size);
            }
        }
        self.connection = connection;
        self.first = 0;
        self.sequences = vec![0; PACKET_IDS];
        self.digests = vec![0; PACKET_IDS];
        self.unclear.clear();
        self.sealed = false;
    }

    /// Records a QoS-1 or QoS-2 delivery.
    pub fn receive(&mut self, delivery: DeliveryInfo, now: Instant) -> DeliveryOutcome {
        let packet_id = delivery.ack.packet_id();
        let place = usize::from(packet_id);
        let same = delivery.dup && self.digests[place] == delivery.digest;
        match self.sequences[place].checked_sub(1) {
            Some(last) if same => {
                if last < self.first {
                    self.unclear.insert(packet_id);
                }
                return DeliveryOutcome::Repeated;
            }
            Some(last) if last >= self.first => return DeliveryOutcome::IdReused,
            _ if self.sealed => return DeliveryOutcome::Refused,
            _ => {}
        }
        let id = self.enter(Some(delivery.ack), delivery.size, now);
        self.sequences[place] = id.sequence + 1;
        self.digests[place] = delivery.digest;
        // The broker has the earlier acknowledgement, or it would not reuse the id.
        self.unclear.remove(&packet_id);
        DeliveryOutcome::New(id)
    }

    /// Records a QoS-0 delivery, which takes room but is never acknowledged. Returns `None` if the
    /// ledger is sealed, in which case the message is lost.
    pub fn receive_qos0(&mut self, size: usize, now: Instant) -> Option<DeliveryId> {
        (!self.sealed).then(|| self.enter(None, size, now))
    }

    fn enter(&mut self, ack: Option<AckPacket>, size: usize, now: Instant) -> DeliveryId {
        let sequence = self.first + self.outstanding.len() as u64;
        self.outstanding.push_back(OutstandingDelivery {
            ack,
            size,
            received_at: now,
            durable: false,
        });
        self.bytes += size;
        DeliveryId { connection: self.connection, sequence }
    }

    /// Refuses all further deliveries. Called when a delivery had to be refused, because no later
    /// one may be acknowledged before it.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// Records that deliveries are durable. Unknown and repeated ids have no effect.
    pub fn mark_durable(&mut self, durable: impl Iterator<Item = DeliveryId>) {
        for id in durable {
            if id.connection != self.connection {
                self.bytes -= self.earlier.remove(&id).unwrap_or(0);
                continue;
            }
            let index = id.sequence.checked_sub(self.first).and_then(|i| usize::try_from(i).ok());
            if let Some(delivery) = index.and_then(|index| self.outstanding.get_mut(index)) {
                delivery.durable = true;
            }
        }
    }

    /// Removes the durable deliveries at the front and returns their acknowledgements, in order of
    /// receipt. They must be written before the next packet is read, because their packet ids are
    /// free now.
    pub fn release(&mut self) -> impl Iterator<Item = AckPacket> + '_ {
        std::iter::from_fn(|| {
            if !self.has_releasable() {
                return None;
            }
            let delivery = self.outstanding.pop_front()?;
            self.first += 1;
            self.bytes -= delivery.size;
            Some(delivery.ack)
        })
        .flatten()
    }

    /// Returns true if [`Self::release`] would release something.
    pub fn has_releasable(&self) -> bool {
        self.outstanding.front().is_some_and(|delivery| delivery.durable)
    }

    /// Returns true if the broker may wait for an acknowledgement that cannot be sent on this
    /// connection.
    pub fn has_unclear_repeats(&self) -> bool {
        !self.unclear.is_empty()
    }

    /// Returns the number of un-acknowledged deliveries of this connection.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Returns the number of un-acknowledged deliveries, including those of earlier connections
    /// that are not durable yet.
    pub fn unacked(&self) -> usize {
        self.outstanding.len() + self.earlier.len()
    }

    /// Returns the bytes of all un-acknowledged deliveries.
    pub fn unacked_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the time of receipt of the oldest outstanding delivery.
    pub fn oldest(&self) -> Option<Instant> {
        self.outstanding.front().map(|delivery| delivery.received_at)
    }

    /// Returns the bound that is reached, if there is no room for another message. A single message
    /// larger than the whole ledger is admitted if the ledger is empty.
    pub fn reached(&self) -> Option<LedgerBound> {
        if self.unacked() >= MAX_MESSAGES {
            Some(LedgerBound::Messages)
        } else if self.bytes >= self.max_bytes {
            Some(LedgerBound::Bytes)
        } else {
            None
        }
    }

    /// Returns true if at least half of each bound is free, which is when reading resumes.
    pub fn has_recovered(&self) -> bool {
        self.unacked() <= MAX_MESSAGES / 2 && self.bytes <= self.max_bytes / 2
    }

    /// Asserts the invariants of the fields.
    #[cfg(test)]
    pub fn self_check(&self) {
        let sizes = self.outstanding.iter().map(|delivery| delivery.size);
        assert_eq!(self.bytes, sizes.chain(self.earlier.values().copied()).sum::<usize>());
        for (sequence, delivery) in (self.first..).zip(&self.outstanding) {
            if let Some(ack) = delivery.ack {
                assert_eq!(self.sequences[usize::from(ack.packet_id())], sequence + 1);
            }
        }
        assert!(self.earlier.keys().all(|id| id.connection != self.connection));
    }
}

#[cfg(test)]
mod tests;
