//! Ends a durable session for good: everything that the broker holds for it is received and acknowledged,
//! then no filter is left, so that the broker puts nothing more into it. Knows no I/O.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{BrokerConnection, DisconnectReason};
use crate::session::transport::OutgoingPacket;

/// With nothing delivered and nothing un-acknowledged for so long, the broker's queue is empty.
const QUIET_PERIOD: Duration = Duration::from_secs(2);

/// Where new messages never pause, the filters go after this. The broker still delivers what it had
/// queued before.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Decides what the connection of a session that is to end does next.
#[derive(Debug)]
pub(super) struct SessionRetirement {
    /// True once nothing is left in the session.
    empty: watch::Sender<bool>,
    step: RetirementStep,
    began: Instant,
    quiet_since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetirementStep {
    /// The filters stand, and the queue empties.
    Draining,
    /// UNSUBSCRIBE is sent, since when.
    Unsubscribing(Instant),
    /// PINGREQ is sent, after everything received was acknowledged.
    Pinging,
    Done,
}

/// What the connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetirementAction {
    /// It goes on.
    Nothing,
    /// It sends UNSUBSCRIBE for every filter.
    Unsubscribe,
    /// It sends PINGREQ. The answer proves that the broker has seen every PUBACK before it; what
    /// these make it deliver comes before the answer.
    Ping,
    /// The broker takes too long to answer UNSUBSCRIBE.
    GiveUp,
}

impl SessionRetirement {
    /// Starts at CONNACK.
    pub fn new(empty: watch::Sender<bool>, now: Instant) -> Self {
        empty.send_replace(false);
        Self { empty, step: RetirementStep::Draining, began: now, quiet_since: now }
    }

    /// Notes a delivery.
    pub fn delivered(&mut self, now: Instant) {
        self.quiet_since = now;
        if matches!(self.step, RetirementStep::Pinging | RetirementStep::Done) {
            self.step = RetirementStep::Unsubscribing(now);
            self.empty.send_replace(false);
        }
    }

    /// Notes PINGRESP.
    pub fn ping_answered(&mut self) {
        if self.step == RetirementStep::Pinging {
            self.step = RetirementStep::Done;
            self.empty.send_replace(true);
            tracing::info!("the session is empty and holds no subscription");
        }
    }

    /// Returns what is to be done, with so many deliveries un-acknowledged and filters whose UNSUBACK is
    /// still to come. `unsuback_timeout` bounds the wait for those.
    pub fn poll(
        &mut self,
        now: Instant,
        unacked: usize,
        filters: usize,
        unsuback_timeout: Duration,
    ) -> RetirementAction {
        if unacked > 0 {
            self.quiet_since = now;
        }
        let quiet = now - self.quiet_since >= QUIET_PERIOD;
        match self.step {
            RetirementStep::Draining if quiet || now - self.began >= DRAIN_LIMIT => {
                self.step = RetirementStep::Unsubscribing(now);
                RetirementAction::Unsubscribe
            }
            RetirementStep::Unsubscribing(since)
                if filters > 0 && now - since > unsuback_timeout =>
            {
                RetirementAction::GiveUp
            }
            RetirementStep::Unsubscribing(_) if filters == 0 && quiet => {
                self.step = RetirementStep::Pinging;
                RetirementAction::Ping
            }
            _ => RetirementAction::Nothing,
        }
    }
}

impl BrokerConnection<'_> {
    /// Goes on with the end of the session, if it is to end.
    pub(super) fn continue_retirement(&mut self, now: Instant) -> Result<(), DisconnectReason> {
        let (unacked, filters) = (self.unacked(), self.unsubscribing.len());
        let unsuback_timeout = self.state.context.mqtt.connect_timeout;
        let Some(retirement) = &mut self.retirement else { return Ok(()) };
        match retirement.poll(now, unacked, filters, unsuback_timeout) {
            RetirementAction::Nothing => {}
            RetirementAction::Unsubscribe => {
                tracing::info!("the broker's queue is drained; unsubscribing from every filter");
                self.send_unsubscribe(self.state.context.filters.clone());
            }
            RetirementAction::Ping => self.outgoing.push(OutgoingPacket::PingReq),
            RetirementAction::GiveUp => {
                return Err(DisconnectReason::Protocol(
                    "the broker did not answer UNSUBSCRIBE in time".into(),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSUBACK_TIMEOUT: Duration = Duration::from_secs(30);

    fn start() -> (SessionRetirement, watch::Receiver<bool>, Instant) {
        let now = Instant::now();
        let empty = watch::Sender::new(true);
        let seen = empty.subscribe();
        (SessionRetirement::new(empty, now), seen, now)
    }

    #[test]
    fn filters_stand_until_the_queue_is_empty() {
        let (mut retirement, empty, start) = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retirement.poll(at(1), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Nothing);
        retirement.delivered(at(1));
        assert_eq!(retirement.poll(at(2), 1, 0, UNSUBACK_TIMEOUT), RetirementAction::Nothing);
        assert_eq!(
            retirement.poll(at(3), 0, 0, UNSUBACK_TIMEOUT),
            RetirementAction::Nothing,
            "acknowledged just now"
        );
        assert_eq!(retirement.poll(at(4), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Unsubscribe);
        assert_eq!(retirement.poll(at(5), 0, 2, UNSUBACK_TIMEOUT), RetirementAction::Nothing);
        assert_eq!(retirement.poll(at(6), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Ping);
        assert!(!*empty.borrow());
        retirement.ping_answered();
        assert!(*empty.borrow());
    }

    #[test]
    fn a_stream_without_pause_loses_its_filters_too() {
        let (mut retirement, _, start) = start();
        retirement.delivered(start + DRAIN_LIMIT);
        assert_eq!(
            retirement.poll(start + DRAIN_LIMIT, 1, 0, UNSUBACK_TIMEOUT),
            RetirementAction::Unsubscribe
        );
    }

    #[test]
    fn a_delivery_before_the_answer_is_waited_for() {
        let (mut retirement, empty, start) = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retirement.poll(at(2), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Unsubscribe);
        assert_eq!(retirement.poll(at(2), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Ping);
        retirement.delivered(at(3));
        retirement.ping_answered();
        assert!(!*empty.borrow());
        assert_eq!(retirement.poll(at(4), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Nothing);
        assert_eq!(retirement.poll(at(5), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Ping);
        retirement.ping_answered();
        retirement.delivered(at(6));
        assert!(!*empty.borrow(), "also after it");
    }

    #[test]
    fn an_unsubscribe_without_an_answer_is_given_up() {
        let (mut retirement, _, start) = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retirement.poll(at(2), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Unsubscribe);
        assert_eq!(retirement.poll(at(32), 0, 1, UNSUBACK_TIMEOUT), RetirementAction::Nothing);
        assert_eq!(retirement.poll(at(33), 0, 1, UNSUBACK_TIMEOUT), RetirementAction::GiveUp);
    }
}
