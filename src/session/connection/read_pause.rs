//! Pauses in reading, by which TCP flow control holds the broker back. Decides when a pause ends,
//! and how. Pure: time is an argument.
//!
//! A pause lasts until half of the ledger is free, which saves system calls. It is bounded, because
//! a dead connection looks like a live one while nothing is read. A successful write of PINGREQ or
//! PUBACK proves little: the kernel accepts data for a dead peer too, for up to 15 minutes. Some
//! brokers also close a connection on which they cannot send. So after half of the keep-alive, any
//! room ends the pause. If no room was freed for a whole keep-alive, further messages are read and
//! refused.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::ledger::{DeliveryLedger, LedgerBound};

/// A pause in reading from the broker.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadPause {
    since: Instant,
    /// Bound that was reached when it began.
    bound: LedgerBound,
}

/// Decision about a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PauseDecision {
    /// Continue the pause in reading.
    Wait,
    /// Resume reading, because there is room.
    Resume,
    /// Resume reading and refuse messages: there is no room, and the keep-alive has passed.
    Refuse(LedgerBound),
}

impl ReadPause {
    /// Returns a pause if the ledger has no room.
    pub fn begin(ledger: &DeliveryLedger, now: Instant) -> Option<Self> {
        ledger.reached().map(|bound| Self { since: now, bound })
    }

    /// Returns the bound that was reached when it began.
    pub fn bound(self) -> LedgerBound {
        self.bound
    }

    /// Decides whether the pause continues or ends.
    pub fn decide(
        self,
        ledger: &DeliveryLedger,
        keep_alive: Duration,
        now: Instant,
    ) -> PauseDecision {
        let lasted = now.saturating_duration_since(self.since);
        let any_room = ledger.reached().is_none();
        if ledger.has_recovered() || (any_room && lasted >= keep_alive / 2) {
            PauseDecision::Resume
        } else if lasted >= keep_alive {
            PauseDecision::Refuse(self.bound)
        } else {
            PauseDecision::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::ledger::{AckPacket, DeliveryInfo};
    use crate::stream::ack::{ConnectionId, DeliveryId};

    const KEEP_ALIVE: Duration = Duration::from_secs(8);
    const CONNECTION: ConnectionId = ConnectionId(1);

    /// Returns a full ledger of eight messages.
    fn full(now: Instant) -> DeliveryLedger {
        let mut ledger = DeliveryLedger::new(8);
        ledger.begin(CONNECTION);
        for packet_id in 1..=8 {
            let ack = AckPacket::Puback(packet_id);
            ledger.receive(DeliveryInfo { ack, dup: false, digest: 0, size: 1 }, now);
        }
        ledger
    }

    fn release(ledger: &mut DeliveryLedger, messages: std::ops::Range<u64>) {
        ledger
            .mark_durable(messages.map(|sequence| DeliveryId { connection: CONNECTION, sequence }));
        assert!(ledger.release().count() > 0);
    }

    #[test]
    fn ledger_with_room_begins_no_pause() {
        let now = Instant::now();
        assert!(ReadPause::begin(&DeliveryLedger::new(8), now).is_none());
        assert_eq!(ReadPause::begin(&full(now), now).unwrap().bound(), LedgerBound::Bytes);
    }

    #[test]
    fn half_of_the_room_ends_a_pause() {
        let now = Instant::now();
        let mut ledger = full(now);
        let pause = ReadPause::begin(&ledger, now).unwrap();
        release(&mut ledger, 0..3);
        assert_eq!(pause.decide(&ledger, KEEP_ALIVE, now), PauseDecision::Wait);
        release(&mut ledger, 3..4);
        assert_eq!(pause.decide(&ledger, KEEP_ALIVE, now), PauseDecision::Resume);
    }

    #[test]
    fn any_room_ends_a_long_pause() {
        let now = Instant::now();
        let mut ledger = full(now);
        let pause = ReadPause::begin(&ledger, now).unwrap();
        release(&mut ledger, 0..1);
        let half = now + KEEP_ALIVE / 2;
        let before = half - Duration::from_millis(1);
        assert_eq!(pause.decide(&ledger, KEEP_ALIVE, before), PauseDecision::Wait);
        assert_eq!(pause.decide(&ledger, KEEP_ALIVE, half), PauseDecision::Resume);
        // Late, as on a machine that was suspended.
        assert_eq!(pause.decide(&ledger, KEEP_ALIVE, now + 3 * KEEP_ALIVE), PauseDecision::Resume);
    }

    #[test]
    fn keep_alive_without_any_room_begins_refusing() {
        let now = Instant::now();
        let ledger = full(now);
        let pause = ReadPause::begin(&ledger, now).unwrap();
        let before = now + KEEP_ALIVE - Duration::from_millis(1);
        assert_eq!(pause.decide(&ledger, KEEP_ALIVE, before), PauseDecision::Wait);
        let refused = PauseDecision::Refuse(LedgerBound::Bytes);
        assert_eq!(pause.decide(&ledger, KEEP_ALIVE, now + KEEP_ALIVE), refused);
    }
}
