//! PINGREQ and PINGRESP (MQTT 3.1.1, section 3.1.2.10), and how long nothing was sent either way.
//! Knows no clock and no I/O.

use std::time::Duration;

use tokio::time::Instant;

/// Shorter silences say nothing about an idle timeout: no load balancer has such a short one, and
/// connections end for other reasons too.
const SHORTEST_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A silence only this much longer than one that did no harm does not explain a close.
const MARGIN: Duration = Duration::from_secs(1);

/// Decides when to send PINGREQ, and when silence means that the connection is dead.
#[derive(Debug)]
pub(super) struct KeepAlive {
    /// `mqtt.keep_alive`: how long PINGREQ may stay unanswered.
    period: Duration,
    /// Time between two PINGREQs.
    interval: Duration,
    next_ping: Instant,
    /// When a PINGREQ was sent, if reading has not paused since and nothing has arrived.
    unanswered: Option<Instant>,
    /// When the last packet was sent or received.
    last_packet: Instant,
    /// Longest silence before a packet that was sent, while nothing has arrived since.
    unproven: Duration,
    /// Longest silence that the connection has survived.
    survived: Duration,
}

/// Nothing arrived for a whole period after a PINGREQ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConnectionDead;

/// Returns how often PINGREQ is sent unless a connection has been closed for being idle: twice in a
/// keep-alive, so that with the default of 60 s no silence reaches the idle timeouts of 50 and 60 s
/// that are common in load balancers.
pub fn ping_interval(keep_alive: Duration) -> Duration {
    keep_alive / 2
}

impl KeepAlive {
    /// Starts at CONNACK.
    pub fn new(period: Duration, interval: Duration, now: Instant) -> Self {
        Self {
            period,
            interval,
            next_ping: now + interval,
            unanswered: None,
            last_packet: now,
            unproven: Duration::ZERO,
            survived: Duration::ZERO,
        }
    }

    /// Returns when the next PINGREQ is due.
    pub fn next_ping(&self) -> Instant {
        self.next_ping
    }

    /// Returns true if PINGREQ is to be sent now.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next_ping
    }

    /// Notes that a PINGREQ is sent. While reading is paused its answer cannot be seen, so it proves
    /// nothing.
    pub fn ping(&mut self, now: Instant, reading: bool) -> Result<(), ConnectionDead> {
        self.unanswered = match self.unanswered {
            Some(since) if reading && now - since >= self.period => return Err(ConnectionDead),
            Some(since) if reading => Some(since),
            _ => reading.then_some(now),
        };
        self.next_ping = now + self.interval;
        Ok(())
    }

    /// Notes that packets were sent.
    pub fn sent(&mut self, now: Instant) {
        self.unproven = self.silence(now);
        self.last_packet = now;
    }

    /// Notes a packet: whatever it is, the connection is alive.
    pub fn received(&mut self, now: Instant) {
        self.survived = self.survived.max(self.silence(now));
        self.unproven = Duration::ZERO;
        self.last_packet = now;
        self.unanswered = None;
    }

    /// Notes that reading pauses or resumes: the broker gets a whole period again. What came
    /// meanwhile was not seen, so the silence counts from now.
    pub fn reading_changed(&mut self, now: Instant) {
        self.unanswered = None;
        self.unproven = Duration::ZERO;
        self.last_packet = now;
    }

    /// Returns the silence before the end of the connection if an idle timeout on the way explains
    /// the end: nothing was sent either way for a while, and for longer than ever before.
    pub fn idle_before_end(&self, now: Instant) -> Option<Duration> {
        let silence = self.silence(now);
        let explains = silence >= SHORTEST_IDLE_TIMEOUT && silence > self.survived + MARGIN;
        explains.then_some(silence)
    }

    fn silence(&self, now: Instant) -> Duration {
        self.unproven.max(now.saturating_duration_since(self.last_packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);
    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn started() -> (Instant, KeepAlive) {
        let start = Instant::now();
        (start, KeepAlive::new(PERIOD, ping_interval(PERIOD), start))
    }

    /// Sends PINGREQ, which is answered at once.
    fn answered_ping(keep_alive: &mut KeepAlive, now: Instant) {
        keep_alive.ping(now, true).unwrap();
        keep_alive.sent(now);
        keep_alive.received(now);
    }

    #[test]
    fn a_period_of_silence_after_pingreq_is_death() {
        let (start, mut keep_alive) = started();
        assert!(!keep_alive.is_due(start + INTERVAL - Duration::from_millis(1)));
        assert!(keep_alive.is_due(start + INTERVAL));
        assert_eq!(keep_alive.ping(start + INTERVAL, true), Ok(()));
        assert_eq!(keep_alive.next_ping(), start + 2 * INTERVAL);
        assert_eq!(keep_alive.ping(start + 2 * INTERVAL, true), Ok(()));
        assert_eq!(keep_alive.ping(start + 3 * INTERVAL, true), Err(ConnectionDead));
    }

    #[test]
    fn any_packet_proves_life() {
        let (start, mut keep_alive) = started();
        keep_alive.ping(start + INTERVAL, true).unwrap();
        keep_alive.ping(start + 2 * INTERVAL, true).unwrap();
        keep_alive.received(start + 2 * INTERVAL);
        assert_eq!(keep_alive.ping(start + 3 * INTERVAL, true), Ok(()));
    }

    #[test]
    fn silence_while_not_reading_proves_nothing() {
        let (start, mut keep_alive) = started();
        keep_alive.ping(start + PERIOD, false).unwrap();
        keep_alive.ping(start + 2 * PERIOD, false).unwrap();
        keep_alive.reading_changed(start + 2 * PERIOD);
        assert_eq!(keep_alive.idle_before_end(at(start, 124)), None);
        assert_eq!(keep_alive.ping(start + 3 * PERIOD, true), Ok(()));
        assert_eq!(keep_alive.ping(start + 4 * PERIOD, true), Err(ConnectionDead));
    }

    #[test]
    fn longest_silence_so_far_explains_an_end() {
        let (start, mut keep_alive) = started();
        keep_alive.received(at(start, 1));
        assert_eq!(keep_alive.idle_before_end(at(start, 5)), None, "too short");
        assert_eq!(keep_alive.idle_before_end(at(start, 21)), Some(Duration::from_secs(20)));
        answered_ping(&mut keep_alive, at(start, 31));
        assert_eq!(keep_alive.idle_before_end(at(start, 61)), None, "30 s did no harm before");
        assert_eq!(keep_alive.idle_before_end(at(start, 71)), Some(Duration::from_secs(40)));
    }

    #[test]
    fn unanswered_ping_does_not_end_the_silence() {
        let (start, mut keep_alive) = started();
        keep_alive.ping(at(start, 30), true).unwrap();
        keep_alive.sent(at(start, 30));
        assert_eq!(keep_alive.idle_before_end(at(start, 30)), Some(INTERVAL));
    }

    #[test]
    fn busy_connection_is_never_idle() {
        let (start, mut keep_alive) = started();
        for second in 0..100 {
            keep_alive.received(at(start, second));
            keep_alive.sent(at(start, second));
            assert_eq!(keep_alive.idle_before_end(at(start, second + 2)), None);
        }
    }
}
