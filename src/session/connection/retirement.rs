//! Retires a durable session: drains the broker's queue, then unsubscribes from every filter, so
//! that the broker queues no more messages. The state machine is pure: time is an argument.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{BrokerConnection, DisconnectReason};
use crate::session::transport::OutgoingPacket;

/// Time without a delivery or an un-acknowledged message after which the broker's queue counts as
/// empty.
const QUIET_PERIOD: Duration = Duration::from_secs(2);

/// Time after which the filters are removed even if new messages never pause. The broker still
/// delivers the messages queued before.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// State machine of the retirement of a session.
#[derive(Debug)]
pub(super) struct SessionRetirement {
    /// Becomes true once the session is empty.
    empty: watch::Sender<bool>,
    step: RetirementStep,
    began: Instant,
    quiet_since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetirementStep {
    /// The filters are still subscribed, and the queue drains.
    Draining,
    /// UNSUBSCRIBE was sent, or a message arrived after it, at this time.
    Unsubscribing(Instant),
    /// PINGREQ was sent after every received message was acknowledged.
    Pinging,
    Done,
}

/// Next action of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetirementAction {
    /// Keep receiving messages.
    Nothing,
    /// Send UNSUBSCRIBE for every filter.
    Unsubscribe,
    /// Send PINGREQ. The answer proves that the broker has processed every PUBACK before it. Messages
    /// that those PUBACKs release arrive before the answer.
    Ping,
    /// Disconnect, because the broker takes too long to answer UNSUBSCRIBE.
    GiveUp,
}

impl SessionRetirement {
    /// Starts the retirement at CONNACK.
    pub fn new(empty: watch::Sender<bool>, now: Instant) -> Self {
        empty.send_replace(false);
        Self { empty, step: RetirementStep::Draining, began: now, quiet_since: now }
    }

    /// Records a delivery, after which the session is not empty.
    pub fn delivered(&mut self, now: Instant) {
        self.quiet_since = now;
        if matches!(self.step, RetirementStep::Pinging | RetirementStep::Done) {
            self.step = RetirementStep::Unsubscribing(now);
            self.empty.send_replace(false);
        }
    }

    /// Records PINGRESP, which completes the retirement if it was awaited.
    pub fn ping_answered(&mut self) {
        if self.step == RetirementStep::Pinging {
            self.step = RetirementStep::Done;
            self.empty.send_replace(true);
            tracing::info!("the session is empty and holds no subscription");
        }
    }

    /// Returns the next action. `unacked` is the number of un-acknowledged deliveries, `filters`
    /// that of filters without an UNSUBACK, and `unsuback_timeout` bounds the wait for those.
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
    /// Continues the retirement of the session, if it is to be retired.
    pub(super) fn continue_retirement(&mut self, now: Instant) -> Result<(), DisconnectReason> {
        let (unacked, filters) = (self.unacked(), self.unsubscribing.len());
        let unsuback_timeout = self.state.context.mqtt.connect_timeout;
        let Some(retirement) = &mut self.retirement else { return Ok(()) };
        match retirement.poll(now, unacked, filters, unsuback_timeout) {
            RetirementAction::Nothing => {}
            RetirementAction::Unsubscribe => {
                tracing::info!("drained the broker's queue; unsubscribing from every filter");
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
    fn filters_stay_until_the_queue_is_empty() {
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
    fn continuous_stream_is_unsubscribed_at_the_limit() {
        let (mut retirement, _, start) = start();
        retirement.delivered(start + DRAIN_LIMIT);
        assert_eq!(
            retirement.poll(start + DRAIN_LIMIT, 1, 0, UNSUBACK_TIMEOUT),
            RetirementAction::Unsubscribe
        );
    }

    #[test]
    fn delivery_before_pingresp_delays_the_end() {
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
    fn unanswered_unsubscribe_times_out() {
        let (mut retirement, _, start) = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retirement.poll(at(2), 0, 0, UNSUBACK_TIMEOUT), RetirementAction::Unsubscribe);
        assert_eq!(retirement.poll(at(32), 0, 1, UNSUBACK_TIMEOUT), RetirementAction::Nothing);
        assert_eq!(retirement.poll(at(33), 0, 1, UNSUBACK_TIMEOUT), RetirementAction::GiveUp);
    }
}
