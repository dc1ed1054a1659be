//! Recognises that another client uses our client id, which no single event tells: the broker just
//! closes the connection, again and again, soon after each was up. Pure: knows no clock.

use std::time::Duration;

/// A connection closed sooner than this after CONNACK may have been taken over. Longer than the
/// first waits of any client's backoff, and shorter than what an unlucky but honest link stays up.
const SOON: Duration = Duration::from_secs(30);

/// So many in a row are a pattern. A broker that restarts closes once, then refuses.
const PATTERN: usize = 3;

/// How connections ended lately.
#[derive(Debug, Clone, Default)]
pub struct Pattern {
    /// Connections in a row that the broker closed soon after each was up.
    closed_soon: usize,
}

impl Pattern {
    /// The broker closed a connection that had been up for `uptime`. The number of closed ones in a
    /// row, once they are a pattern.
    pub fn closed_by_broker(&mut self, uptime: Duration) -> Option<usize> {
        self.closed_soon = if uptime < SOON { self.closed_soon.saturating_add(1) } else { 0 };
        (self.closed_soon >= PATTERN).then_some(self.closed_soon)
    }

    /// A connection ended, or was not made, for another reason.
    pub fn otherwise(&mut self) {
        self.closed_soon = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHORT: Duration = Duration::from_secs(2);

    #[test]
    fn the_third_connection_closed_soon_in_a_row_is_a_takeover_and_so_is_each_further_one() {
        let mut pattern = Pattern::default();
        assert_eq!(pattern.closed_by_broker(SHORT), None);
        assert_eq!(pattern.closed_by_broker(SHORT), None);
        assert_eq!(pattern.closed_by_broker(SHORT), Some(3));
        assert_eq!(pattern.closed_by_broker(SHORT), Some(4));
    }

    #[test]
    fn a_broker_that_restarts_now_and_then_is_none() {
        let mut pattern = Pattern::default();
        for _ in 0..10 {
            assert_eq!(pattern.closed_by_broker(SHORT), None);
            assert_eq!(pattern.closed_by_broker(SHORT), None);
            // While it is down it refuses the connection.
            pattern.otherwise();
        }
    }

    proptest! {
        #[test]
        fn it_is_told_exactly_while_the_last_three_were_closed_soon(
            ends in prop::collection::vec((0u64..60, any::<bool>()), 0..50)
        ) {
            let mut pattern = Pattern::default();
            let mut soon: Vec<bool> = Vec::new();
            for (seconds, by_broker) in ends {
                let uptime = Duration::from_secs(seconds);
                let told = if by_broker {
                    pattern.closed_by_broker(uptime).is_some()
                } else {
                    pattern.otherwise();
                    false
                };
                soon.push(by_broker && uptime < SOON);
                let last = soon.iter().rev().take(PATTERN).filter(|soon| **soon).count();
                prop_assert_eq!(told, last == PATTERN);
            }
        }
    }
}
