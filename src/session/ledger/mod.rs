//! The deliveries that are not acknowledged: which of them may be acknowledged, in which order, and
//! how much room they leave.
//!
//! Commits may finish in any order. PUBACKs and PUBRECs leave in the order of receipt (MQTT-4.6.0-2,
//! MQTT-4.6.0-3). The ledger alone decides whether there is room for more, so that no second count
//! can disagree with it. It knows no clock, no I/O and no rumqttc.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use crate::ack::{ConnectionId, DeliveryId};

/// Most deliveries that are un-acknowledged at once. Below the 65,535 packet ids of MQTT, because
/// Mosquitto 2.0 ignores its own window after a reconnect and gives ids out again in turn: with half
/// of them at most outstanding, an id comes back only after its first delivery was acknowledged.
pub const MAX_MESSAGES: usize = 32_768;

/// Packet ids are 1 to 65,535; place 0 is never used.
const PACKET_IDS: usize = 1 << 16;

/// Returns where reading pauses, in bytes: one packet below `mqtt.max_unacked`, since a packet is read
/// whole, but at half of it at least.
pub fn pause_at(max_unacked: usize, max_packet_size: usize) -> usize {
    max_unacked.saturating_sub(max_packet_size).max(max_unacked / 2)
}

/// Answers a delivery once it is durable. Either way the broker may then forget the message. At QoS 2
/// it sends PUBREL and expects PUBCOMP, which needs no memory here.
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

/// Describes one QoS-1 or QoS-2 delivery.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryInfo {
    /// Acknowledges it.
    pub answer: AckPacket,
    /// MQTT DUP flag.
    pub dup: bool,
    /// Digest of topic and payload, which tells two messages under one packet id apart.
    pub digest: u64,
    /// Bytes of topic and payload.
    pub size: usize,
}

/// The outcome of entering a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// New: to be made durable.
    New(DeliveryId),
    /// A copy of a delivery that is outstanding on this connection, or whose answer has just been
    /// written: nothing to do.
    Repeated,
    /// A different message under a packet id that is still outstanding. An answer to either would
    /// be taken for one to the other: the connection must end, so that both are delivered again.
    IdReused,
    /// Not entered because the ledger is sealed: the broker delivers it again.
    Refused,
}

/// A bound on what may be un-acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerBound {
    /// [`MAX_MESSAGES`].
    Messages,
    /// `mqtt.max_unacked`.
    Bytes,
}

#[derive(Debug)]
struct OutstandingDelivery {
    /// `None` at QoS 0.
    answer: Option<AckPacket>,
    size: usize,
    received_at: Instant,
    durable: bool,
}

/// The un-acknowledged deliveries of one connection, and those of earlier ones that are not durable
/// yet.
#[derive(Debug)]
pub struct DeliveryLedger {
    max_bytes: usize,
    connection: ConnectionId,
    /// In order of receipt. A durable front stays until [`Self::release`].
    outstanding: VecDeque<OutstandingDelivery>,
    /// Sequence of the front of `outstanding`.
    first: u64,
    /// By packet id: one more than the sequence of its last delivery on this connection, 0 if none.
    /// Invariant: a packet id is outstanding if and only if that sequence is at least `first`.
    sequences: Vec<u64>,
    /// By packet id: digest of its last delivery on this connection.
    digests: Vec<u64>,
    /// Packet ids of repeats that came after their answer: sent before the broker had the answer,
    /// or an equal message that still waits for one. The wire does not show which.
    unclear: BTreeSet<u16>,
    /// Sizes of deliveries of dead connections that are still in the pipeline.
    earlier: HashMap<DeliveryId, usize>,
    /// Invariant: the sum of all sizes in `outstanding` and `earlier`.
    bytes: usize,
    /// Once true, no delivery enters. The outstanding ones may still be released.
    sealed: bool,
}

impl DeliveryLedger {
    /// Makes an empty ledger with room for `max_bytes`.
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

    /// Begins with a new connection. The deliveries of the one before keep their room until they are
    /// durable, but are never answered.
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

    /// Enters a QoS-1 or QoS-2 delivery.
    pub fn receive(&mut self, delivery: DeliveryInfo, now: Instant) -> DeliveryOutcome {
        let packet_id = delivery.answer.packet_id();
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
        let id = self.enter(Some(delivery.answer), delivery.size, now);
        self.sequences[place] = id.sequence + 1;
        self.digests[place] = delivery.digest;
        // The broker has had the earlier answer, or it would not use the id again.
        self.unclear.remove(&packet_id);
        DeliveryOutcome::New(id)
    }

    /// Enters a QoS-0 delivery, which takes room but is never answered. `None` where the ledger is
    /// sealed: then the message is lost.
    pub fn receive_unanswered(&mut self, size: usize, now: Instant) -> Option<DeliveryId> {
        (!self.sealed).then(|| self.enter(None, size, now))
    }

    fn enter(&mut self, answer: Option<AckPacket>, size: usize, now: Instant) -> DeliveryId {
        let sequence = self.first + self.outstanding.len() as u64;
        self.outstanding.push_back(OutstandingDelivery {
            answer,
            size,
            received_at: now,
            durable: false,
        });
        self.bytes += size;
        DeliveryId { connection: self.connection, sequence }
    }

    /// Lets nothing in any more. To be called when a delivery had to be dropped: nothing received
    /// after it may be acknowledged before it.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// Notes that deliveries are durable. Unknown ones, and ones seen before, have no effect.
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

    /// Takes out the answers that may be sent, in order of receipt. They must be written before the
    /// next packet is read, because their packet ids are free from now on.
    pub fn release(&mut self) -> impl Iterator<Item = AckPacket> + '_ {
        std::iter::from_fn(|| {
            if !self.has_releasable() {
                return None;
            }
            let delivery = self.outstanding.pop_front()?;
            self.first += 1;
            self.bytes -= delivery.size;
            Some(delivery.answer)
        })
        .flatten()
    }

    /// Returns true if [`Self::release`] would release something.
    pub fn has_releasable(&self) -> bool {
        self.outstanding.front().is_some_and(|delivery| delivery.durable)
    }

    /// Returns true if a delivery may wait for an answer that cannot be given on this connection.
    pub fn has_unclear_repeats(&self) -> bool {
        !self.unclear.is_empty()
    }

    /// Returns how many deliveries of this connection are un-acknowledged.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Returns how many deliveries are un-acknowledged, with those of earlier connections that are
    /// not durable yet.
    pub fn unacked(&self) -> usize {
        self.outstanding.len() + self.earlier.len()
    }

    /// Returns the bytes of the same.
    pub fn unacked_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns when the oldest outstanding delivery was received.
    pub fn oldest(&self) -> Option<Instant> {
        self.outstanding.front().map(|delivery| delivery.received_at)
    }

    /// Returns the bound that leaves no room for another message. A single message larger than all
    /// of the room is taken in when nothing else is held.
    pub fn reached(&self) -> Option<LedgerBound> {
        if self.unacked() >= MAX_MESSAGES {
            Some(LedgerBound::Messages)
        } else if self.bytes >= self.max_bytes {
            Some(LedgerBound::Bytes)
        } else {
            None
        }
    }

    /// Returns true when so much was released that reading is worth resuming: half of each bound.
    pub fn has_recovered(&self) -> bool {
        self.unacked() <= MAX_MESSAGES / 2 && self.bytes <= self.max_bytes / 2
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub fn self_check(&self) {
        let sizes = self.outstanding.iter().map(|delivery| delivery.size);
        assert_eq!(self.bytes, sizes.chain(self.earlier.values().copied()).sum::<usize>());
        for (sequence, delivery) in (self.first..).zip(&self.outstanding) {
            if let Some(answer) = delivery.answer {
                assert_eq!(self.sequences[usize::from(answer.packet_id())], sequence + 1);
            }
        }
        assert!(self.earlier.keys().all(|id| id.connection != self.connection));
    }
}

#[cfg(test)]
mod tests;
