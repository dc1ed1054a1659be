//! Which deliveries of one connection may be acknowledged, and in which order.
//!
//! Commits may finish in any order; PUBACKs and PUBRECs leave in the order of receipt
//! (MQTT-4.6.0-2, MQTT-4.6.0-3). The
//! ledger knows no clock, no I/O and no rumqttc.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use crate::message::{AckToken, ConnectionId};

/// What the broker is answered once a delivery is durable. Either way it may then forget the
/// message; at QoS 2 it asks for one more word (PUBREL, PUBCOMP), which needs no memory here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To a QoS-1 delivery of this packet id.
    Puback(u16),
    /// To a QoS-2 delivery of this packet id. The bridge never asks for QoS 2, but an earlier
    /// client may have left such a subscription in the session.
    Pubrec(u16),
}

impl Answer {
    fn packet_id(self) -> u16 {
        match self {
            Self::Puback(packet_id) | Self::Pubrec(packet_id) => packet_id,
        }
    }
}

/// One delivery that was not acknowledged yet.
#[derive(Debug)]
struct Delivery {
    answer: Answer,
    received_at: Instant,
    committed: bool,
}

/// What became of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Not outstanding before; to be made durable.
    New(AckToken),
    /// The broker repeated what is still outstanding on this connection (live retry); the first
    /// copy is on its way.
    Repeated,
    /// Not entered: the ledger is sealed, the broker will deliver it again.
    Refused,
}

/// The outstanding QoS-1 and QoS-2 deliveries of one connection.
#[derive(Debug)]
pub struct Ledger {
    connection: ConnectionId,
    /// In order of receipt. Invariant: the front, if any, is not committed (it would have been
    /// released); at most 65,535 entries, since packet ids are distinct.
    outstanding: VecDeque<Delivery>,
    /// Sequence of the front of `outstanding`.
    first: u64,
    /// Invariant: holds exactly the packet ids of `outstanding`.
    packet_ids: HashSet<u16>,
    /// Once true, nothing more enters; what is outstanding may still be released.
    sealed: bool,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(connection: ConnectionId) -> Self {
        Self {
            connection,
            outstanding: VecDeque::new(),
            first: 0,
            packet_ids: HashSet::new(),
            sealed: false,
        }
    }

    /// Enters one delivery, by what will answer it.
    pub fn receive(&mut self, answer: Answer, now: Instant) -> Receipt {
        let packet_id = answer.packet_id();
        if self.packet_ids.contains(&packet_id) {
            return Receipt::Repeated;
        }
        if self.sealed {
            return Receipt::Refused;
        }
        self.packet_ids.insert(packet_id);
        self.outstanding.push_back(Delivery { answer, received_at: now, committed: false });
        let sequence = self.first + self.outstanding.len() as u64 - 1;
        Receipt::New(AckToken { connection: self.connection, sequence })
    }

    /// Lets nothing in any more. To be called when a delivery had to be dropped: nothing received
    /// after it may be acknowledged before it.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// Whether [`Self::seal`] was called.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Takes what became durable and appends to `released` the answers that may now be sent, in
    /// order of receipt. Tokens of other connections, and ones seen before, have no effect.
    pub fn commit(&mut self, tokens: &[AckToken], released: &mut VecDeque<Answer>) {
        for token in tokens.iter().filter(|token| token.connection == self.connection) {
            let Some(index) = token.sequence.checked_sub(self.first) else { continue };
            let delivery = usize::try_from(index).ok().and_then(|i| self.outstanding.get_mut(i));
            if let Some(delivery) = delivery {
                delivery.committed = true;
            }
        }
        while self.outstanding.front().is_some_and(|delivery| delivery.committed) {
            // Unwrap safety: the loop's condition saw a front.
            let delivery = self.outstanding.pop_front().expect("front exists");
            self.packet_ids.remove(&delivery.answer.packet_id());
            self.first += 1;
            released.push_back(delivery.answer);
        }
    }

    /// Received and not released.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// When the oldest outstanding delivery was received.
    pub fn oldest(&self) -> Option<Instant> {
        self.outstanding.front().map(|delivery| delivery.received_at)
    }

    #[cfg(test)]
    fn self_check(&self) {
        assert!(self.outstanding.front().is_none_or(|delivery| !delivery.committed));
        assert_eq!(self.outstanding.len(), self.packet_ids.len());
        assert!(self.outstanding.iter().all(|d| self.packet_ids.contains(&d.answer.packet_id())));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const CONNECTION: ConnectionId = ConnectionId(7);

    #[derive(Debug, Clone)]
    enum Step {
        Receive(u16),
        /// Commits these of the tokens ever given (modulo their number), together.
        Commit(Vec<usize>),
        CommitForeign(usize),
        Seal,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1u16..12).prop_map(Step::Receive),
            6 => prop::collection::vec(0usize..64, 0..4).prop_map(Step::Commit),
            1 => (0usize..64).prop_map(Step::CommitForeign),
            1 => Just(Step::Seal),
        ]
    }

    /// Both kinds, told apart by the packet id, so that the model need not know them.
    fn answer(packet_id: u16) -> Answer {
        if packet_id.is_multiple_of(3) {
            Answer::Pubrec(packet_id)
        } else {
            Answer::Puback(packet_id)
        }
    }

    /// The ledger as a list of everything ever received, searched from the start each time.
    #[derive(Default)]
    struct Naive {
        received: Vec<(u16, bool, bool)>,
        sealed: bool,
    }

    impl Naive {
        fn receive(&mut self, packet_id: u16) -> Receipt {
            if self.outstanding().any(|index| self.received[index].0 == packet_id) {
                return Receipt::Repeated;
            }
            if self.sealed {
                return Receipt::Refused;
            }
            self.received.push((packet_id, false, false));
            let sequence = self.received.len() as u64 - 1;
            Receipt::New(AckToken { connection: CONNECTION, sequence })
        }

        /// The places of those not acknowledged.
        fn outstanding(&self) -> impl Iterator<Item = usize> {
            (0..self.received.len()).filter(|index| !self.received[*index].2)
        }

        fn commit(&mut self, tokens: &[AckToken]) -> Vec<u16> {
            for token in tokens {
                self.received[usize::try_from(token.sequence).unwrap()].1 = true;
            }
            let mut released = Vec::new();
            for entry in &mut self.received {
                if !entry.1 {
                    break;
                }
                if !entry.2 {
                    entry.2 = true;
                    released.push(entry.0);
                }
            }
            released
        }
    }

    proptest! {
        #[test]
        fn behaves_as_the_naive_model(steps in prop::collection::vec(step(), 0..200)) {
            let mut ledger = Ledger::new(CONNECTION);
            let mut naive = Naive::default();
            let (mut tokens, mut times) = (Vec::new(), Vec::new());
            let start = Instant::now();
            for (second, step) in (0..).zip(steps) {
                let mut released = VecDeque::new();
                let mut expected = Vec::new();
                match step {
                    Step::Receive(id) => {
                        let now = start + Duration::from_secs(second);
                        let receipt = ledger.receive(answer(id), now);
                        prop_assert_eq!(&receipt, &naive.receive(id));
                        if let Receipt::New(token) = receipt {
                            tokens.push(token);
                            times.push(now);
                        }
                    }
                    Step::Commit(places) if !tokens.is_empty() => {
                        let some: Vec<_> = places.iter().map(|n| tokens[n % tokens.len()]).collect();
                        ledger.commit(&some, &mut released);
                        expected = naive.commit(&some);
                    }
                    Step::CommitForeign(n) => {
                        let foreign = AckToken { connection: ConnectionId(6), sequence: n as u64 };
                        ledger.commit(&[foreign], &mut released);
                    }
                    Step::Commit(_) => {}
                    Step::Seal => { ledger.seal(); naive.sealed = true; }
                }
                let expected: Vec<_> = expected.into_iter().map(answer).collect();
                prop_assert_eq!(released.into_iter().collect::<Vec<_>>(), expected);
                prop_assert_eq!(ledger.outstanding(), naive.outstanding().count());
                prop_assert_eq!(ledger.oldest(), naive.outstanding().next().map(|index| times[index]));
                ledger.self_check();
            }
        }
    }

    #[test]
    fn a_repeated_delivery_is_recognised_even_when_sealed() {
        let mut ledger = Ledger::new(CONNECTION);
        ledger.receive(Answer::Puback(3), Instant::now());
        ledger.seal();
        assert_eq!(ledger.receive(Answer::Puback(3), Instant::now()), Receipt::Repeated);
        assert_eq!(ledger.receive(Answer::Puback(4), Instant::now()), Receipt::Refused);
    }
}
