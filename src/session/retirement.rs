//! Ends a durable session for good: everything that the broker holds for it is received and acknowledged,
//! then no filter is left, so that the broker puts nothing more into it. Knows no I/O.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// With nothing delivered and nothing un-acknowledged for so long, the broker's queue is empty.
const QUIET: Duration = Duration::from_secs(2);

/// Where new messages never pause, the filters go after this. The broker still delivers what it had
/// queued before.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Decides what the connection of a session that is to end does next.
#[derive(Debug)]
pub(super) struct Retirement {
    /// True once nothing is left in the session.
    empty: watch::Sender<bool>,
    step: Step,
    began: Instant,
    quiet_since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The filters stand, and the queue empties.
    Draining,
    /// UNSUBSCRIBE is sent, since when.
    Unsubscribing(Instant),
    /// PINGREQ is sent, after everything received was acknowledged.
    Asking,
    Done,
}

/// What the connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It goes on.
    Nothing,
    /// It sends UNSUBSCRIBE for every filter.
    Unsubscribe,
    /// It sends PINGREQ. The answer proves that the broker has seen every PUBACK before it; what
    /// these make it deliver comes before the answer.
    Ask,
    /// The broker takes too long to answer UNSUBSCRIBE.
    GiveUp,
}

impl Retirement {
    /// Starts at CONNACK.
    pub fn new(empty: watch::Sender<bool>, now: Instant) -> Self {
        empty.send_replace(false);
        Self { empty, step: Step::Draining, began: now, quiet_since: now }
    }

    /// Notes a delivery.
    pub fn delivered(&mut self, now: Instant) {
        self.quiet_since = now;
        if matches!(self.step, Step::Asking | Step::Done) {
            self.step = Step::Unsubscribing(now);
            self.empty.send_replace(false);
        }
    }

    /// Notes PINGRESP.
    pub fn answered(&mut self) {
        if self.step == Step::Asking {
            self.step = Step::Done;
            self.empty.send_replace(true);
            tracing::info!("the session is empty and holds no subscription");
        }
    }

    /// Returns what is to be done, with so many deliveries un-acknowledged and filters whose UNSUBACK is
    /// still to come. `patience` bounds the wait for those.
    pub fn next(
        &mut self,
        now: Instant,
        unacked: usize,
        filters: usize,
        patience: Duration,
    ) -> Due {
        if unacked > 0 {
            self.quiet_since = now;
        }
        let quiet = now - self.quiet_since >= QUIET;
        match self.step {
            Step::Draining if quiet || now - self.began >= DRAIN_LIMIT => {
                self.step = Step::Unsubscribing(now);
                Due::Unsubscribe
            }
            Step::Unsubscribing(since) if filters > 0 && now - since > patience => Due::GiveUp,
            Step::Unsubscribing(_) if filters == 0 && quiet => {
                self.step = Step::Asking;
                Due::Ask
            }
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn start() -> (Retirement, watch::Receiver<bool>, Instant) {
        let now = Instant::now();
        let empty = watch::Sender::new(true);
        let seen = empty.subscribe();
        (Retirement::new(empty, now), seen, now)
    }

    #[test]
    fn filters_stand_until_the_queue_is_empty() {
        let (mut retirement, empty, start) = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retirement.next(at(1), 0, 0, PATIENCE), Due::Nothing);
        retirement.delivered(at(1));
        assert_eq!(retirement.next(at(2), 1, 0, PATIENCE), Due::Nothing);
        assert_eq!(retirement.next(at(3), 0, 0, PATIENCE), Due::Nothing, "acknowledged just now");
        assert_eq!(retirement.next(at(4), 0, 0, PATIENCE), Due::Unsubscribe);
        assert_eq!(retirement.next(at(5), 0, 2, PATIENCE), Due::Nothing);
        assert_eq!(retirement.next(at(6), 0, 0, PATIENCE), Due::Ask);
        assert!(!*empty.borrow());
        retirement.answered();
        assert!(*empty.borrow());
    }

    #[test]
    fn a_stream_without_pause_loses_its_filters_too() {
        let (mut retirement, _, start) = start();
        retirement.delivered(start + DRAIN_LIMIT);
        assert_eq!(retirement.next(start + DRAIN_LIMIT, 1, 0, PATIENCE), Due::Unsubscribe);
    }

    #[test]
    fn a_delivery_before_the_answer_is_waited_for() {
        let (mut retirement, empty, start) = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retirement.next(at(2), 0, 0, PATIENCE), Due::Unsubscribe);
        assert_eq!(retirement.next(at(2), 0, 0, PATIENCE), Due::Ask);
        retirement.delivered(at(3));
        retirement.answered();
        assert!(!*empty.borrow());
        assert_eq!(retirement.next(at(4), 0, 0, PATIENCE), Due::Nothing);
        assert_eq!(retirement.next(at(5), 0, 0, PATIENCE), Due::Ask);
        retirement.answered();
        retirement.delivered(at(6));
        assert!(!*empty.borrow(), "also after it");
    }

    #[test]
    fn an_unsubscribe_without_an_answer_is_given_up() {
        let (mut retirement, _, start) = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(retirement.next(at(2), 0, 0, PATIENCE), Due::Unsubscribe);
        assert_eq!(retirement.next(at(32), 0, 1, PATIENCE), Due::Nothing);
        assert_eq!(retirement.next(at(33), 0, 1, PATIENCE), Due::GiveUp);
    }
}
