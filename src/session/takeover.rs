//! Recognises two clients with one client id, who throw each other out for ever: no single
//! failure shows it, only their pattern.

use std::time::Duration;

use super::failure::FailureKind;
use crate::backoff::STABLE_AFTER;

/// So many losses alike are no accident any more. With the default backoff they take about ten
/// seconds.
const TAKEOVER_LOSSES: usize = 5;

/// Counts connections that the broker accepted and soon closed, in a row.
#[derive(Debug, Default)]
pub struct TakeoverDetector {
    in_a_row: usize,
}

impl TakeoverDetector {
    /// To be told how each attempt ended, and after how long a connection. `Some` with the number
    /// of losses where they look like a takeover.
    pub fn lost(&mut self, kind: FailureKind, uptime: Option<Duration>) -> Option<usize> {
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

    fn losses(pattern: &mut TakeoverDetector, count: usize) -> Option<usize> {
        (0..count).filter_map(|_| pattern.lost(FailureKind::ClosedByBroker, SHORT)).last()
    }

    #[test]
    fn only_a_row_of_short_connections_closed_by_the_broker_is_a_takeover() {
        let mut pattern = TakeoverDetector::default();
        assert_eq!(losses(&mut pattern, TAKEOVER_LOSSES - 1), None);
        assert_eq!(losses(&mut pattern, 2), Some(TAKEOVER_LOSSES + 1));
    }

    #[test]
    fn anything_else_between_them_breaks_the_row() {
        let breaks = [
            (FailureKind::ClosedByBroker, Some(STABLE_AFTER)),
            (FailureKind::ClosedByBroker, None),
            (FailureKind::TcpRefused, None),
            (FailureKind::KeepAliveLost, SHORT),
            (FailureKind::IdleTimeout, SHORT),
        ];
        for (kind, uptime) in breaks {
            let mut pattern = TakeoverDetector::default();
            losses(&mut pattern, TAKEOVER_LOSSES);
            assert_eq!(pattern.lost(kind, uptime), None);
            assert_eq!(
                losses(&mut pattern, TAKEOVER_LOSSES - 1),
                None,
                "{kind:?} after {uptime:?}"
            );
        }
    }
}
