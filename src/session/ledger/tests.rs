use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MAX_BYTES: usize = 100;

#[derive(Debug, Clone)]
enum DeliveryStep {
    /// Receives a delivery of this packet id, DUP flag, digest and size.
    Receive(u16, bool, u64, usize),
    ReceiveQos0(usize),
    /// Marks these of all deliveries so far as durable together (indices modulo their number).
    MarkDurable(Vec<usize>),
    Release,
    Seal,
    Reconnect,
}

fn step() -> impl Strategy<Value = DeliveryStep> {
    prop_oneof![
        8 => (1u16..10, any::<bool>(), 1u64..4, 0usize..40)
            .prop_map(|(id, dup, digest, size)| DeliveryStep::Receive(id, dup, digest, size)),
        1 => (0usize..40).prop_map(DeliveryStep::ReceiveQos0),
        6 => prop::collection::vec(0usize..64, 0..4).prop_map(DeliveryStep::MarkDurable),
        4 => Just(DeliveryStep::Release),
        1 => Just(DeliveryStep::Seal),
        1 => Just(DeliveryStep::Reconnect),
    ]
}

/// Returns a PUBREC for every third packet id, so that both kinds occur.
fn acknowledgement(packet_id: u16) -> AckPacket {
    if packet_id.is_multiple_of(3) {
        AckPacket::Pubrec(packet_id)
    } else {
        AckPacket::Puback(packet_id)
    }
}

fn delivery(packet_id: u16, dup: bool, digest: u64, size: usize) -> DeliveryInfo {
    DeliveryInfo { ack: acknowledgement(packet_id), dup, digest, size }
}

#[derive(Debug, Clone)]
struct NaiveDelivery {
    id: DeliveryId,
    packet_id: Option<u16>,
    digest: u64,
    size: usize,
    received_at: Instant,
    durable: bool,
    released: bool,
}

/// Model of the ledger: a list of all deliveries ever received, searched from the start each time.
struct NaiveLedger {
    connection: ConnectionId,
    entries: Vec<NaiveDelivery>,
    sealed: bool,
}

impl NaiveLedger {
    fn current(&self) -> impl Iterator<Item = &NaiveDelivery> {
        self.entries.iter().filter(|entry| entry.id.connection == self.connection)
    }

    fn outstanding(&self) -> impl Iterator<Item = &NaiveDelivery> {
        self.current().filter(|entry| !entry.released)
    }

    /// Returns the deliveries that take room: un-acknowledged ones, and those of earlier
    /// connections that are not durable.
    fn held(&self) -> impl Iterator<Item = &NaiveDelivery> {
        self.entries.iter().filter(|entry| {
            let is_current = entry.id.connection == self.connection;
            if is_current { !entry.released } else { !entry.durable && !entry.released }
        })
    }

    fn receive(&mut self, delivery: DeliveryInfo, now: Instant) -> DeliveryOutcome {
        let packet_id = delivery.ack.packet_id();
        let last = self.current().filter(|entry| entry.packet_id == Some(packet_id)).last();
        if let Some(last) = last {
            if delivery.dup && last.digest == delivery.digest {
                return DeliveryOutcome::Repeated;
            }
            if !last.released {
                return DeliveryOutcome::IdReused;
            }
        }
        if self.sealed {
            return DeliveryOutcome::Refused;
        }
        DeliveryOutcome::New(self.enter(Some(packet_id), delivery.digest, delivery.size, now))
    }

    fn enter(
        &mut self,
        packet_id: Option<u16>,
        digest: u64,
        size: usize,
        received_at: Instant,
    ) -> DeliveryId {
        let sequence = self.current().count() as u64;
        let id = DeliveryId { connection: self.connection, sequence };
        let (durable, released) = (false, false);
        let entry = NaiveDelivery { id, packet_id, digest, size, received_at, durable, released };
        self.entries.push(entry);
        id
    }

    fn mark_durable(&mut self, durable: &[DeliveryId]) {
        for entry in &mut self.entries {
            entry.durable |= durable.contains(&entry.id);
        }
    }

    fn release(&mut self) -> Vec<AckPacket> {
        let mut released = Vec::new();
        let connection = self.connection;
        for entry in self.entries.iter_mut().filter(|entry| entry.id.connection == connection) {
            if !entry.durable {
                break;
            }
            if !std::mem::replace(&mut entry.released, true) {
                released.extend(entry.packet_id.map(acknowledgement));
            }
        }
        released
    }
}

proptest! {
    #[test]
    fn behaves_as_the_naive_model(steps in prop::collection::vec(step(), 0..200)) {
        let first = ConnectionId(1);
        let mut ledger = DeliveryLedger::new(MAX_BYTES);
        ledger.begin(first);
        let mut naive = NaiveLedger { connection: first, entries: Vec::new(), sealed: false };
        let mut ids = Vec::new();
        let start = Instant::now();
        for (second, step) in (0..).zip(steps) {
            let now = start + Duration::from_secs(second);
            match step {
                DeliveryStep::Receive(packet_id, dup, digest, size) => {
                    let delivery = delivery(packet_id, dup, digest, size);
                    let outcome = ledger.receive(delivery, now);
                    prop_assert_eq!(outcome, naive.receive(delivery, now));
                    if let DeliveryOutcome::New(id) = outcome { ids.push(id); }
                }
                DeliveryStep::ReceiveQos0(size) => {
                    let entered = ledger.receive_qos0(size, now);
                    prop_assert_eq!(entered.is_none(), naive.sealed);
                    if let Some(id) = entered {
                        prop_assert_eq!(id, naive.enter(None, 0, size, now));
                        ids.push(id);
                    }
                }
                DeliveryStep::MarkDurable(places) if !ids.is_empty() => {
                    let some: Vec<_> = places.iter().map(|n| ids[n % ids.len()]).collect();
                    ledger.mark_durable(some.iter().copied());
                    naive.mark_durable(&some);
                }
                DeliveryStep::MarkDurable(_) => {}
                DeliveryStep::Release => {
                    let released: Vec<_> = ledger.release().collect();
                    prop_assert_eq!(released, naive.release());
                    prop_assert!(!ledger.has_releasable());
                }
                DeliveryStep::Seal => { ledger.seal(); naive.sealed = true; }
                DeliveryStep::Reconnect => {
                    naive.connection = ConnectionId(naive.connection.0 + 1);
                    naive.sealed = false;
                    ledger.begin(naive.connection);
                }
            }
            ledger.self_check();
            prop_assert_eq!(ledger.outstanding(), naive.outstanding().count());
            prop_assert_eq!(ledger.unacked(), naive.held().count());
            let bytes = naive.held().map(|entry| entry.size).sum::<usize>();
            prop_assert_eq!(ledger.unacked_bytes(), bytes);
            prop_assert_eq!(ledger.oldest(), naive.outstanding().next().map(|e| e.received_at));
            prop_assert_eq!(ledger.reached().is_some(), bytes >= MAX_BYTES);
            prop_assert_eq!(ledger.has_recovered(), bytes <= MAX_BYTES / 2);
        }
    }
}

fn ledger() -> DeliveryLedger {
    let mut ledger = DeliveryLedger::new(MAX_BYTES);
    ledger.begin(ConnectionId(1));
    ledger
}

fn enter(ledger: &mut DeliveryLedger, packet_id: u16, dup: bool, digest: u64) -> DeliveryOutcome {
    ledger.receive(delivery(packet_id, dup, digest, 1), Instant::now())
}

fn entered(ledger: &mut DeliveryLedger, packet_id: u16, digest: u64) -> DeliveryId {
    match enter(ledger, packet_id, false, digest) {
        DeliveryOutcome::New(id) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn live_retry_is_a_repeat_even_when_sealed() {
    let mut ledger = ledger();
    entered(&mut ledger, 7, 1);
    ledger.seal();
    assert_eq!(enter(&mut ledger, 7, true, 1), DeliveryOutcome::Repeated);
    assert_eq!(enter(&mut ledger, 8, false, 1), DeliveryOutcome::Refused);
}

#[test]
fn other_message_under_outstanding_id_is_detected() {
    let mut ledger = ledger();
    entered(&mut ledger, 7, 1);
    assert_eq!(enter(&mut ledger, 7, false, 1), DeliveryOutcome::IdReused, "DUP=0");
    assert_eq!(enter(&mut ledger, 7, true, 2), DeliveryOutcome::IdReused, "another digest");
}

#[test]
fn retry_that_crosses_its_puback_is_a_repeat() {
    let mut ledger = ledger();
    let id = entered(&mut ledger, 7, 1);
    ledger.mark_durable([id].into_iter());
    assert_eq!(ledger.release().collect::<Vec<_>>(), [AckPacket::Puback(7)]);
    assert_eq!(enter(&mut ledger, 7, true, 1), DeliveryOutcome::Repeated);
    entered(&mut ledger, 7, 2);
}

#[test]
fn id_stays_outstanding_until_its_ack_is_released() {
    let mut ledger = ledger();
    let id = entered(&mut ledger, 7, 1);
    ledger.mark_durable([id].into_iter());
    assert_eq!(enter(&mut ledger, 7, false, 2), DeliveryOutcome::IdReused);
}

#[test]
fn earlier_deliveries_take_room_without_acks() {
    let mut ledger = ledger();
    let id = entered(&mut ledger, 7, 1);
    ledger.begin(ConnectionId(2));
    assert_eq!((ledger.outstanding(), ledger.unacked()), (0, 1));
    ledger.mark_durable([id].into_iter());
    assert_eq!(ledger.release().count(), 0);
    assert_eq!((ledger.unacked(), ledger.unacked_bytes()), (0, 0));
}

#[test]
fn message_bound_is_below_the_packet_ids() {
    const { assert!(MAX_MESSAGES < 65_535) };
    let mut ledger = DeliveryLedger::new(usize::MAX);
    ledger.begin(ConnectionId(1));
    for packet_id in 1..=u16::try_from(MAX_MESSAGES).unwrap() {
        assert_eq!(ledger.reached(), None);
        entered(&mut ledger, packet_id, 1);
    }
    assert_eq!(ledger.reached(), Some(LedgerBound::Messages));
}

#[test]
fn reading_pauses_one_packet_below_the_bound() {
    const MIB: usize = 1024 * 1024;
    assert_eq!(pause_at(64 * MIB, 16 * MIB), 48 * MIB);
    assert_eq!(pause_at(64 * MIB, 60 * MIB), 32 * MIB);
    assert_eq!(pause_at(1024, 16 * MIB), 512);
}

#[test]
fn reading_resumes_at_half_of_the_messages() {
    let mut ledger = DeliveryLedger::new(usize::MAX);
    ledger.begin(ConnectionId(1));
    let half = u16::try_from(MAX_MESSAGES / 2).unwrap();
    for packet_id in 1..=half {
        entered(&mut ledger, packet_id, 1);
    }
    assert!(ledger.has_recovered());
    entered(&mut ledger, half + 1, 1);
    assert!(!ledger.has_recovered());
}

#[test]
fn repeat_after_its_ack_is_unclear() {
    let mut ledger = ledger();
    let id = entered(&mut ledger, 7, 1);
    assert_eq!(enter(&mut ledger, 7, true, 1), DeliveryOutcome::Repeated);
    assert!(!ledger.has_unclear_repeats(), "its answer is still to come");
    ledger.mark_durable([id].into_iter());
    assert_eq!(ledger.release().count(), 1);
    assert_eq!(enter(&mut ledger, 7, true, 1), DeliveryOutcome::Repeated);
    assert!(ledger.has_unclear_repeats());
    entered(&mut ledger, 7, 2);
    assert!(!ledger.has_unclear_repeats());
}

#[test]
fn new_connection_clears_unclear_repeats() {
    let mut ledger = ledger();
    let id = entered(&mut ledger, 7, 1);
    ledger.mark_durable([id].into_iter());
    assert_eq!(ledger.release().count(), 1);
    enter(&mut ledger, 7, true, 1);
    ledger.begin(ConnectionId(2));
    assert!(!ledger.has_unclear_repeats());
}
