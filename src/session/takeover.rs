//! Detects two clients with the same client id, which keep disconnecting each other. No single failure
//! shows that, only a series of them.

use std::time::Duration;

use super::failure::FailureKind;
use crate::backoff::STABLE_AFTER;

/// Consecutive short connections that count as a takeover. With the default backoff they take about
/// ten seconds.
const TAKEOVER_LOSSES: usize = 5;

/// Counts consecutive connections that the broker accepted and soon closed.
#[derive(Debug, Default)]
pub struct TakeoverDetector {
    in_a_row: usize,
}

impl TakeoverDetector {
    /// Records how an attempt ended, with the uptime if a connection was made. Returns the number of
    /// consecutive short connections once they indicate a takeover.
    pub fn record(&mut self, kind: FailureKind, uptime: Option<Duration>) -> Option<usize> {
        match (kind, uptime) {
            (FailureKind::ClosedByBroker, Some(uptime)) if uptime < STABLE_AFTER => {
                self.in_a_row += 1;
            }
            _ => self.in_a_row = 0,
        }
        (self.in_a_row >= TAKEOVER_LOSSES).then_some(self.in_a_row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_secs(1));

    fn losses(detector: &mut TakeoverDetector, count: usize) -> Option<usize> {
        (0..count).filter_map(|_| detector.record(FailureKind::ClosedByBroker, SHORT)).last()
    }

    #[test]
    fn consecutive_short_connections_are_a_takeover() {
        let mut detector = TakeoverDetector::default();
        assert_eq!(losses(&mut detector, TAKEOVER_LOSSES - 1), None);
        assert_eq!(losses(&mut detector, 2), Some(TAKEOVER_LOSSES + 1));
    }

    #[test]
    fn any_other_end_restarts_the_count() {
        let breaks = [
            (FailureKind::ClosedByBroker, Some(STABLE_AFTER)),
            (FailureKind::ClosedByBroker, None),
            (FailureKind::TcpRefused, None),
            (FailureKind::KeepAliveLost, SHORT),
            (FailureKind::IdleTimeout, SHORT),
        ];
        for (kind, uptime) in breaks {
            let mut detector = TakeoverDetector::default();
            losses(&mut detector, TAKEOVER_LOSSES);
            assert_eq!(detector.record(kind, uptime), None);
            assert_eq!(
                losses(&mut detector, TAKEOVER_LOSSES - 1),
                None,
                "{kind:?} after {uptime:?}"
            );
        }
    }
}
