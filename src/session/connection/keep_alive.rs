//! PINGREQ and PINGRESP (MQTT 3.1.1, section 3.1.2.10). Knows no clock and no I/O.

use std::time::Duration;

use tokio::time::Instant;

/// Decides when to send PINGREQ, and when silence means that the connection is dead.
#[derive(Debug)]
pub(super) struct KeepAlive {
    period: Duration,
    next_ping: Instant,
    /// A PINGREQ was sent, reading has not paused since, and nothing has arrived.
    unanswered: bool,
}

/// Nothing arrived for a whole period after a PINGREQ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConnectionDead;

impl KeepAlive {
    /// Starts at CONNACK.
    pub fn new(period: Duration, now: Instant) -> Self {
        Self { period, next_ping: now + period, unanswered: false }
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
        if self.unanswered && reading {
            return Err(ConnectionDead);
        }
        self.unanswered = reading;
        self.next_ping = now + self.period;
        Ok(())
    }

    /// Notes a packet: whatever it is, the connection is alive.
    pub fn received(&mut self) {
        self.unanswered = false;
    }

    /// Notes that reading pauses or resumes: the broker gets a whole period again.
    pub fn reading_changed(&mut self) {
        self.unanswered = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    #[test]
    fn a_period_of_silence_after_pingreq_is_death() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(PERIOD, start);
        assert!(!keep_alive.is_due(start + PERIOD - Duration::from_millis(1)));
        assert!(keep_alive.is_due(start + PERIOD));
        assert_eq!(keep_alive.ping(start + PERIOD, true), Ok(()));
        assert_eq!(keep_alive.next_ping(), start + 2 * PERIOD);
        assert_eq!(keep_alive.ping(start + 2 * PERIOD, true), Err(ConnectionDead));
    }

    #[test]
    fn any_packet_proves_life() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(PERIOD, start);
        keep_alive.ping(start + PERIOD, true).unwrap();
        keep_alive.received();
        assert_eq!(keep_alive.ping(start + 2 * PERIOD, true), Ok(()));
    }

    #[test]
    fn silence_while_not_reading_proves_nothing() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(PERIOD, start);
        keep_alive.ping(start + PERIOD, false).unwrap();
        keep_alive.ping(start + 2 * PERIOD, false).unwrap();
        keep_alive.reading_changed();
        assert_eq!(keep_alive.ping(start + 3 * PERIOD, true), Ok(()));
        assert_eq!(keep_alive.ping(start + 4 * PERIOD, true), Err(ConnectionDead));
    }
}
