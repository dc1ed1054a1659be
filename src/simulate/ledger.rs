//! A ledger of published messages: those still to be sent, those that wait for their PUBACK, and
//! the events that are fully acknowledged. Pure.

use std::collections::VecDeque;
use std::fmt;

use super::source::SimulatedMessage;

/// The counters of a run. Their display is the last line of the command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishReport {
    /// Distinct events sent to the broker at least once.
    pub published: u64,
    /// Distinct events of which the broker acknowledged every message.
    pub acknowledged: u64,
    /// Messages acknowledged. Each format and each copy counts, a repetition after a lost
    /// connection does not.
    pub messages: u64,
}

impl fmt::Display for PublishReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, acknowledged, messages } = self;
        write!(f, "published={published} acknowledged={acknowledged} messages={messages}")
    }
}

/// The messages of a run that are not acknowledged yet, and its counters.
#[derive(Debug)]
pub struct PublishLedger {
    /// Messages of a lost connection, which are sent first on the next one.
    unsent: VecDeque<(u64, SimulatedMessage)>,
    /// Messages passed to the client that have no packet id yet, in order.
    queued: VecDeque<(u64, SimulatedMessage)>,
    /// Messages sent, by packet id.
    in_flight: Vec<Option<(u64, SimulatedMessage)>>,
    /// Number of messages in `queued` and `in_flight`.
    outstanding: usize,
    /// Number of unacknowledged messages of each event from `first_open` on.
    open: VecDeque<u8>,
    first_open: u64,
    next_sequence: u64,
    report: PublishReport,
}

impl PublishLedger {
    /// Creates a ledger. `window` is the maximum number of messages that wait for a PUBACK, and the
    /// largest packet id.
    pub fn new(window: u16) -> Self {
        Self {
            unsent: VecDeque::new(),
            queued: VecDeque::new(),
            in_flight: vec![None; usize::from(window) + 1],
            outstanding: 0,
            open: VecDeque::new(),
            first_open: 0,
            next_sequence: 0,
            report: PublishReport::default(),
        }
    }

    /// Returns the number of messages that wait for their PUBACK.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Returns the maximum number of messages that wait for their PUBACK.
    pub fn window(&self) -> usize {
        self.in_flight.len() - 1
    }

    /// Returns the number of messages that may be sent now.
    pub fn room(&self) -> usize {
        self.window() - self.outstanding
    }

    /// Returns the counters so far.
    pub fn report(&self) -> PublishReport {
        self.report
    }

    /// Returns true if messages of a lost connection wait to be sent again.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Takes a message of a lost connection that is to be sent again.
    pub fn resend(&mut self) -> Option<&SimulatedMessage> {
        let entry = self.unsent.pop_front()?;
        self.outstanding += 1;
        self.queued.push_back(entry);
        self.queued.back().map(|(_, message)| message)
    }

    /// Adds a message that is passed to the client for the first time.
    pub fn send(&mut self, message: SimulatedMessage) {
        if message.event >= self.first_open + self.open.len() as u64 {
            self.open.push_back(message.siblings);
            self.report.published += 1;
        }
        self.queued.push_back((self.next_sequence, message));
        self.next_sequence += 1;
        self.outstanding += 1;
    }

    /// Records that the client sent its oldest queued message under this packet id.
    pub fn sent(&mut self, packet_id: u16) {
        if let Some(slot) = self.in_flight.get_mut(usize::from(packet_id))
            && slot.is_none()
        {
            *slot = self.queued.pop_front();
        }
    }

    /// Records that the broker acknowledged this packet id.
    pub fn acknowledged(&mut self, packet_id: u16) {
        let slot = self.in_flight.get_mut(usize::from(packet_id));
        let Some((_, message)) = slot.and_then(Option::take) else { return };
        self.outstanding -= 1;
        self.report.messages += 1;
        self.settle(message.event);
    }

    fn settle(&mut self, event: u64) {
        let index = event.checked_sub(self.first_open).and_then(|i| usize::try_from(i).ok());
        if let Some(remaining) = index.and_then(|index| self.open.get_mut(index)) {
            *remaining -= 1;
            self.report.acknowledged += u64::from(*remaining == 0);
        }
        while self.open.front() == Some(&0) {
            self.open.pop_front();
            self.first_open += 1;
        }
    }

    /// Queues all messages that waited for a PUBACK to be sent again, in their original order.
    pub fn connection_lost(&mut self) {
        let mut lost: Vec<_> = self.in_flight.iter_mut().filter_map(Option::take).collect();
        lost.extend(self.queued.drain(..));
        lost.extend(self.unsent.drain(..));
        lost.sort_by_key(|(sequence, _)| *sequence);
        self.unsent = lost.into();
        self.outstanding = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const WINDOW: u16 = 8;

    /// A change of the ledger.
    #[derive(Debug, Clone)]
    enum LedgerStep {
        Send,
        Sent,
        Acknowledge(u16),
        Lose,
    }

    fn step() -> impl Strategy<Value = LedgerStep> {
        prop_oneof![
            4 => Just(LedgerStep::Send),
            4 => Just(LedgerStep::Sent),
            3 => (1..=WINDOW).prop_map(LedgerStep::Acknowledge),
            1 => Just(LedgerStep::Lose),
        ]
    }

    /// A minimal client and broker.
    struct LedgerPeer {
        ledger: PublishLedger,
        messages: u64,
        given: VecDeque<()>,
        ids: Vec<u16>,
    }

    impl LedgerPeer {
        fn send(&mut self, total: u64) {
            if self.ledger.room() == 0 {
                return;
            }
            if self.ledger.resend().is_none() {
                if self.messages == total {
                    return;
                }
                let message = SimulatedMessage {
                    event: self.messages / 2,
                    siblings: 2,
                    topic: Arc::from("t"),
                    payload: bytes::Bytes::new(),
                };
                self.messages += 1;
                self.ledger.send(message);
            }
            self.given.push_back(());
        }

        fn sent(&mut self) {
            let free = (1..=WINDOW).find(|id| !self.ids.contains(id));
            if let (Some(id), Some(())) = (free, self.given.pop_front()) {
                self.ids.push(id);
                self.ledger.sent(id);
            }
        }

        fn acknowledge(&mut self, id: u16) {
            self.ids.retain(|other| *other != id);
            self.ledger.acknowledged(id);
        }

        fn apply(&mut self, step: &LedgerStep, total: u64) {
            match step {
                LedgerStep::Send => self.send(total),
                LedgerStep::Sent => self.sent(),
                LedgerStep::Acknowledge(id) => self.acknowledge(*id),
                LedgerStep::Lose => {
                    self.ledger.connection_lost();
                    self.given.clear();
                    self.ids.clear();
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_message_is_acknowledged_once_despite_losses(
            steps in prop::collection::vec(step(), 0..400), events in 0u64..40
        ) {
            let ledger = PublishLedger::new(WINDOW);
            let mut peer = LedgerPeer { ledger, messages: 0, given: VecDeque::new(), ids: Vec::new() };
            for step in &steps {
                peer.apply(step, events * 2);
                prop_assert!(peer.ledger.outstanding() <= usize::from(WINDOW));
                let report = peer.ledger.report();
                prop_assert!(report.acknowledged <= report.published);
                prop_assert!(report.messages <= peer.messages);
            }
            for _ in 0..events * 4 + 16 {
                peer.send(events * 2);
                peer.sent();
                (1..=WINDOW).for_each(|id| peer.acknowledge(id));
            }
            let expected =
                PublishReport { published: events, acknowledged: events, messages: events * 2 };
            prop_assert_eq!(peer.ledger.report(), expected);
            prop_assert_eq!(peer.ledger.outstanding(), 0);
            prop_assert!(!peer.ledger.has_unsent());
        }
    }

    #[test]
    fn last_line_is_machine_readable() {
        let report = PublishReport { published: 3, acknowledged: 2, messages: 5 };
        assert_eq!(report.to_string(), "published=3 acknowledged=2 messages=5");
    }
}
