//! PINGREQ and PINGRESP (MQTT 3.1.1, section 3.1.2.10), and the detection of idle timeouts. Pure:
//! time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest silence that may indicate an idle timeout. No load balancer has a shorter one, and
/// connections end for other reasons too.
const SHORTEST_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Margin by which a silence must exceed every harmless one to explain a close.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// Timer of PINGREQ that also decides when a silence means that the connection is dead.
#[derive(Debug)]
pub(super) struct KeepAlive {
    /// Longest wait for an answer to PINGREQ, `mqtt.keep_alive`.
    period: Duration,
    /// Time between two PINGREQs.
    interval: Duration,
    next_ping: Instant,
    /// Time of an unanswered PINGREQ, if reading has not paused since and no packet has arrived.
    unanswered: Option<Instant>,
    /// Time of the last packet sent or received.
    last_packet: Instant,
    /// Longest silence before a packet was sent, if no packet has arrived since.
    unproven: Duration,
    /// Longest silence that the connection has survived.
    survived: Duration,
}

/// Error: no packet arrived for a whole period after PINGREQ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConnectionDead;

/// Returns the initial PINGREQ interval, half of the keep-alive: with the default of 60 s no silence
/// reaches the idle timeouts of 50 and 60 s that are common in load balancers.
pub fn ping_interval(keep_alive: Duration) -> Duration {
    keep_alive / 2
}

impl KeepAlive {
    /// Starts the timer at CONNACK.
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

    /// Returns the time of the next PINGREQ.
    pub fn next_ping(&self) -> Instant {
        self.next_ping
    }

    /// Returns true if PINGREQ is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next_ping
    }

    /// Records that PINGREQ is sent. While reading is paused, its answer cannot be seen, so a
    /// missing one proves nothing.
    pub fn ping(&mut self, now: Instant, reading: bool) -> Result<(), ConnectionDead> {
        self.unanswered = match self.unanswered {
            Some(since) if reading && now - since >= self.period => return Err(ConnectionDead),
            Some(since) if reading => Some(since),
            _ => reading.then_some(now),
        };
        self.next_ping = now + self.interval;
        Ok(())
    }

    /// Records that packets were sent.
    pub fn sent(&mut self, now: Instant) {
        self.unproven = self.silence(now);
        self.last_packet = now;
    }

    /// Records a received packet, which proves that the connection is alive.
    pub fn received(&mut self, now: Instant) {
        self.survived = self.survived.max(self.silence(now));
        self.unproven = Duration::ZERO;
        self.last_packet = now;
        self.unanswered = None;
    }

    /// Records that reading pauses or resumes, which gives the broker a whole period again. Packets
    /// that arrived during a pause were not seen, so the silence counts from now.
    pub fn reading_changed(&mut self, now: Instant) {
        self.unanswered = None;
        self.unproven = Duration::ZERO;
        self.last_packet = now;
    }

    /// Returns the silence before the end of the connection if an idle timeout on the path explains
    /// the end: no packet was sent in either direction for longer than ever before.
    pub fn idle_before_end(&self, now: Instant) -> Option<Duration> {
        let silence = self.silence(now);
        let explains = silence >= SHORTEST_IDLE_TIMEOUT && silence > self.survived + IDLE_MARGIN;
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

    /// Sends a PINGREQ that is answered at once.
    fn answered_ping(keep_alive: &mut KeepAlive, now: Instant) {
        keep_alive.ping(now, true).unwrap();
        keep_alive.sent(now);
        keep_alive.received(now);
    }

    #[test]
    fn silent_period_after_pingreq_means_dead() {
        let (start, mut keep_alive) = started();
        assert!(!keep_alive.is_due(start + INTERVAL - Duration::from_millis(1)));
        assert!(keep_alive.is_due(start + INTERVAL));
        assert_eq!(keep_alive.ping(start + INTERVAL, true), Ok(()));
        assert_eq!(keep_alive.next_ping(), start + 2 * INTERVAL);
        assert_eq!(keep_alive.ping(start + 2 * INTERVAL, true), Ok(()));
        assert_eq!(keep_alive.ping(start + 3 * INTERVAL, true), Err(ConnectionDead));
    }

    #[test]
    fn any_packet_proves_a_live_connection() {
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
    fn pings_unseen_during_a_pause_are_forgotten() {
        let (start, mut keep_alive) = started();
        keep_alive.ping(start + INTERVAL, true).unwrap();
        keep_alive.ping(start + 2 * INTERVAL, false).unwrap();
        assert_eq!(keep_alive.ping(start + 3 * INTERVAL, true), Ok(()));
    }

    #[test]
    fn longest_silence_so_far_explains_an_end() {
        let (start, mut keep_alive) = started();
        keep_alive.received(at(start, 1));
        assert_eq!(keep_alive.idle_before_end(at(start, 5)), None, "too short");
        assert_eq!(keep_alive.idle_before_end(at(start, 21)), Some(Duration::from_secs(20)));
        answered_ping(&mut keep_alive, at(start, 31));
        assert_eq!(keep_alive.idle_before_end(at(start, 61)), None, "30 s did no harm before");
        assert_eq!(keep_alive.idle_before_end(at(start, 61) + IDLE_MARGIN), None);
        assert_eq!(keep_alive.idle_before_end(at(start, 71)), Some(Duration::from_secs(40)));
    }

    #[test]
    fn unanswered_ping_does_not_end_the_silence() {
        let (start, mut keep_alive) = started();
        keep_alive.ping(at(start, 30), true).unwrap();
        keep_alive.sent(at(start, 30));
        assert_eq!(keep_alive.idle_before_end(at(start, 30)), Some(INTERVAL));
        assert_eq!(keep_alive.idle_before_end(at(start, 40)), Some(INTERVAL));
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
