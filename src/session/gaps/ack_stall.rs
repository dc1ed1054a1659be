//! Detects that no message could be acknowledged for so long that the broker's queue may have
//! overflowed.
//!
//! A broker delivers up to its window of un-acknowledged messages, then queues, then drops. It does
//! not report the size of the window, and some brokers change it. But while it delivers new
//! messages there is room, so the window counts as full since the last new message arrived. A
//! stream of few messages can therefore cause a false alarm, but an overflow is never missed. Pure:
//! time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Half of the narrowest window that a common broker has by default (Mosquitto and `VerneMQ` have 20,
/// EMQX 32, `HiveMQ` 50). Fewer un-acknowledged messages than this do not fill the window of a broker
/// that has already delivered twice as many.
const HALF_NARROWEST_WINDOW: usize = 10;

/// Measures how long the broker's window has been full without an acknowledgement.
#[derive(Debug, Clone)]
pub struct AckStallDetector {
    /// Longest stall without an alarm, `mqtt.queue_grace`.
    grace: Duration,
    /// Un-acknowledged deliveries of this connection.
    unacked: usize,
    /// Largest value that `unacked` ever had.
    most: usize,
    /// True while reading is paused and the broker may send an unknown number of messages.
    paused: bool,
    /// True from a pause to the next acknowledgement. A message that is read after a pause may have been
    /// sent before it, and proves no room since then.
    is_behind: bool,
    /// Since when the window may be full on this connection: neither a new message has arrived nor an
    /// acknowledgement has been sent.
    full_since: Option<Instant>,
    /// How long it was full on earlier connections, without a new message or acknowledgement since.
    earlier: Duration,
    /// Start of the stall, including earlier connections and the time between them.
    began: Option<Instant>,
}

impl AckStallDetector {
    /// Creates the detector of a session that has received no message yet.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            unacked: 0,
            most: 0,
            paused: false,
            is_behind: false,
            full_since: None,
            earlier: Duration::ZERO,
            began: None,
        }
    }

    /// Records a message, after which at least `unacked` deliveries of this connection are
    /// un-acknowledged. `again` marks a redelivery, which proves no room in the window.
    pub fn received(&mut self, unacked: usize, again: bool, now: Instant) {
        self.unacked = unacked;
        self.most = self.most.max(unacked);
        if !again && !self.is_behind {
            self.restart(None);
        }
        self.full_since.get_or_insert(now);
        self.began.get_or_insert(now);
    }

    /// Records that acknowledgements were sent, so that the broker's queue moves. The `unacked`
    /// deliveries that remain may still fill the window: Mosquitto can have sent many more than its
    /// window holds.
    pub fn acknowledged(&mut self, unacked: usize, now: Instant) {
        self.unacked = unacked;
        self.is_behind = self.paused;
        self.restart((unacked > 0 || self.paused).then_some(now));
    }

    /// Records that reading pauses, so that the window may fill unseen, or that it resumes.
    pub fn reading_changed(&mut self, paused: bool, now: Instant) {
        self.paused = paused;
        self.is_behind |= paused;
        if paused {
            self.full_since.get_or_insert(now);
            self.began.get_or_insert(now);
        }
    }

    fn restart(&mut self, full_since: Option<Instant>) {
        self.full_since = full_since;
        self.began = full_since;
        self.earlier = Duration::ZERO;
    }

    /// Records the end of the connection. The time without one is no stall, but a stall continues
    /// on the next connection.
    pub fn disconnected(&mut self, now: Instant) {
        (self.paused, self.is_behind) = (false, false);
        if let Some(since) = self.full_since.take() {
            self.earlier += now.saturating_duration_since(since);
        }
    }

    /// Returns how long ago the stall began, once it has lasted longer than the broker's queue may.
    pub fn overdue(&self, now: Instant) -> Option<Duration> {
        let held = self.earlier + now.saturating_duration_since(self.full_since?);
        let has_room = !self.paused
            && self.unacked < HALF_NARROWEST_WINDOW
            && self.most >= 2 * HALF_NARROWEST_WINDOW;
        let overdue = held > self.grace && !has_room;
        overdue.then(|| now.saturating_duration_since(self.began.unwrap_or(now)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn filled(start: Instant, window: usize) -> AckStallDetector {
        let mut stall = AckStallDetector::new(GRACE);
        (1..=window).for_each(|unacked| stall.received(unacked, false, start));
        stall
    }

    #[test]
    fn full_window_is_overdue_after_the_grace() {
        let start = Instant::now();
        let stall = filled(start, 20);
        assert_eq!(stall.overdue(at(start, 10)), None);
        assert_eq!(stall.overdue(at(start, 11)), Some(Duration::from_secs(11)));
    }

    #[test]
    fn window_is_not_full_while_the_broker_delivers() {
        let start = Instant::now();
        let mut stall = AckStallDetector::new(GRACE);
        for second in 0..100 {
            stall.received(usize::try_from(second).unwrap() + 1, false, at(start, second));
            assert_eq!(stall.overdue(at(start, second)), None);
        }
        assert!(stall.overdue(at(start, 110)).is_some());
    }

    #[test]
    fn few_messages_do_not_fill_a_wide_window() {
        let start = Instant::now();
        let mut stall = filled(start, 2 * HALF_NARROWEST_WINDOW);
        stall.acknowledged(0, start);
        (1..HALF_NARROWEST_WINDOW).for_each(|unacked| stall.received(unacked, false, start));
        assert_eq!(stall.overdue(at(start, 1000)), None);
        stall.received(HALF_NARROWEST_WINDOW, false, at(start, 1000));
        assert!(stall.overdue(at(start, 1011)).is_some());
    }

    #[test]
    fn partial_acknowledgement_does_not_hide_a_stall() {
        let start = Instant::now();
        let mut stall = filled(start, 1500);
        stall.acknowledged(700, at(start, 1));
        assert_eq!(stall.overdue(at(start, 11)), None);
        assert_eq!(stall.overdue(at(start, 12)), Some(Duration::from_secs(11)));
    }

    #[test]
    fn paused_reading_may_hide_a_full_window() {
        let start = Instant::now();
        let mut stall = filled(start, 2 * HALF_NARROWEST_WINDOW);
        stall.acknowledged(0, start);
        stall.disconnected(start);
        stall.reading_changed(true, at(start, 5));
        assert_eq!(stall.overdue(at(start, 15)), None);
        assert_eq!(stall.overdue(at(start, 16)), Some(Duration::from_secs(11)));
        stall.reading_changed(false, at(start, 16));
        stall.received(1, false, at(start, 16));
        assert_eq!(
            stall.overdue(at(start, 1000)),
            None,
            "the messages left do not fill the window"
        );
    }

    #[test]
    fn message_read_after_a_pause_shows_no_room() {
        let start = Instant::now();
        let mut stall = filled(start, 20);
        stall.reading_changed(true, start);
        stall.reading_changed(false, at(start, 8));
        stall.received(21, false, at(start, 8));
        assert_eq!(stall.overdue(at(start, 11)), Some(Duration::from_secs(11)));
        stall.acknowledged(20, at(start, 11));
        stall.received(21, false, at(start, 20));
        assert_eq!(stall.overdue(at(start, 30)), None);
    }

    #[test]
    fn few_messages_may_fill_an_unknown_window() {
        let start = Instant::now();
        assert!(filled(start, 1).overdue(at(start, 11)).is_some());
    }

    #[test]
    fn repeated_disconnects_do_not_hide_a_stall() {
        let start = Instant::now();
        let mut stall = filled(start, 20);
        for round in 0..3 {
            stall.disconnected(at(start, round * 100 + 5));
            assert_eq!(stall.overdue(at(start, round * 100 + 90)), None, "away");
            let back = at(start, (round + 1) * 100);
            (1..=20).for_each(|unacked| stall.received(unacked, true, back));
        }
        assert_eq!(stall.overdue(at(start, 301)), Some(Duration::from_secs(301)));
    }

    #[derive(Debug, Clone)]
    enum StallStep {
        Receive,
        Acknowledge(usize),
        Reconnect,
        /// The broker changes its window to this size, with its deliveries outstanding.
        Window(usize),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = StallStep> {
        prop_oneof![
            6 => Just(StallStep::Receive),
            2 => (1usize..8).prop_map(StallStep::Acknowledge),
            1 => Just(StallStep::Reconnect),
            1 => (1usize..40).prop_map(StallStep::Window),
            3 => (1u64..15).prop_map(StallStep::Pass),
        ]
    }

    proptest! {
        /// The model knows the broker's real window. Every time it was full for longer than the
        /// grace on one connection without an acknowledgement, the detector reports it. Fewer
        /// messages than half of the narrowest window never fill one that was twice as wide.
        #[test]
        fn an_overflow_is_never_missed(mut window in 1usize..40, steps in prop::collection::vec(step(), 0..400)) {
            let mut now = Instant::now();
            let mut stall = AckStallDetector::new(GRACE);
            let (mut unacked, mut delivered, mut full): (usize, usize, Option<Instant>) = (0, 0, None);
            let mut most = 0;
            for step in steps {
                match step {
                    StallStep::Receive if unacked < window => {
                        unacked += 1;
                        stall.received(unacked, unacked <= delivered, now);
                        if unacked == window { full = Some(now); }
                    }
                    StallStep::Acknowledge(count) if unacked > 0 => {
                        unacked -= count.min(unacked);
                        delivered = 0;
                        stall.acknowledged(unacked, now);
                        full = (unacked >= window).then_some(now);
                    }
                    StallStep::Reconnect => {
                        stall.disconnected(now);
                        (delivered, unacked, full) = (unacked, 0, None);
                    }
                    StallStep::Window(wide) => {
                        window = wide;
                        full = (unacked >= window).then(|| full.unwrap_or(now));
                    }
                    StallStep::Pass(seconds) => now += Duration::from_secs(seconds),
                    StallStep::Receive | StallStep::Acknowledge(_) => {}
                }
                most = most.max(unacked);
                let has_room = unacked < HALF_NARROWEST_WINDOW && most >= 2 * HALF_NARROWEST_WINDOW;
                if full.is_some_and(|since| now - since > GRACE) && !has_room {
                    prop_assert!(stall.overdue(now).is_some());
                }
            }
        }
    }
}
