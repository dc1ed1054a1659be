//! The size of one transaction. Greedy: all messages that arrived during the last commit, up to
//! a bound in number and in bytes, in order. No timer: a batch that waits to fill would wait indefinitely
//! when the broker's window is smaller than the batch.

use crate::event::Event;
use crate::stream::message::DecodedItem;

/// Most bytes (topics, payloads and decoded events) in one batch. Far below PostgreSQL's limit of 1 GiB a message,
/// and short enough that one statement stays well within its time limit. A larger message goes
/// alone.
pub const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// The next action on the front of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStep {
    /// The queue is empty.
    Wait,
    /// Write this many messages together. At least one.
    Messages(usize),
    /// Record the connection event at the front.
    Event,
}

/// An entry of the queue, as the policy needs it.
pub trait BatchItem {
    /// Returns the bytes of a message and its event, both of which are sent. `None` for a connection
    /// event, which keeps its place between batches.
    fn message_bytes(&self) -> Option<usize>;
}

impl BatchItem for DecodedItem {
    fn message_bytes(&self) -> Option<usize> {
        match self {
            Self::Message(message, outcome) => {
                let event = outcome.as_ref().map_or(0, Event::heap_bytes);
                Some(message.topic.len() + message.payload.len() + event)
            }
            Self::Connection(..) => None,
        }
    }
}

/// The next step, given what is queued. `max_events` is at least 1.
pub fn next<'a, E: BatchItem + 'a>(
    queue: impl IntoIterator<Item = &'a E>,
    max_events: usize,
) -> BatchStep {
    let mut count = 0;
    let mut bytes = 0;
    for entry in queue {
        match entry.message_bytes() {
            None if count == 0 => return BatchStep::Event,
            None => break,
            Some(size) => {
                if count > 0 && (count >= max_events || bytes + size > MAX_BATCH_BYTES) {
                    break;
                }
                count += 1;
                bytes += size;
            }
        }
    }
    if count == 0 { BatchStep::Wait } else { BatchStep::Messages(count) }
}

/// The most events of a batch: the configured number, halved after each statement that took too
/// long, and grown back by an eighth with each commit. If it doubled instead, every other batch would
/// time out on a database that is slow for long.
#[derive(Debug, Clone, Copy)]
pub struct BatchSize {
    /// Invariant: `1 <= now <= max`.
    now: usize,
    max: usize,
}

impl BatchSize {
    /// Starts at `max`, which is taken as at least 1.
    pub fn new(max: usize) -> Self {
        Self { now: max.max(1), max: max.max(1) }
    }

    /// A new bound. It is tried at once, as at the start.
    pub fn set_max(&mut self, max: usize) {
        if self.max != max.max(1) {
            *self = Self::new(max);
        }
    }

    /// Events in the next batch at most.
    pub fn get(self) -> usize {
        self.now
    }

    /// `tried` events took too long.
    pub fn halve(&mut self, tried: usize) {
        self.now = (tried / 2).clamp(1, self.max);
    }

    /// A batch was committed.
    pub fn grow(&mut self) {
        self.now = self.now.saturating_add((self.now / 8).max(1)).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    struct Fake(Option<usize>);

    impl BatchItem for Fake {
        fn message_bytes(&self) -> Option<usize> {
            self.0
        }
    }

    fn queue() -> impl Strategy<Value = Vec<Fake>> {
        let entry = prop_oneof![
            1 => Just(Fake(None)),
            8 => (0usize..MAX_BATCH_BYTES / 3).prop_map(|n| Fake(Some(n))),
            1 => (MAX_BATCH_BYTES..2 * MAX_BATCH_BYTES).prop_map(|n| Fake(Some(n))),
        ];
        prop::collection::vec(entry, 0..50)
    }

    #[derive(Debug, Clone)]
    enum SimOutcome {
        TookTooLong,
        Committed,
        Bound(usize),
    }

    fn outcome() -> impl Strategy<Value = SimOutcome> {
        prop_oneof![
            3 => Just(SimOutcome::TookTooLong),
            3 => Just(SimOutcome::Committed),
            1 => (0usize..5000).prop_map(SimOutcome::Bound),
        ]
    }

    #[test]
    fn a_batch_counts_topic_payload_and_event() {
        let (message, event) = testing::entry(Event::Board(testing::board("B1", 1, "CONNECTED")));
        let event = event.unwrap();
        let expected = message.topic.len() + message.payload.len() + event.heap_bytes();
        assert!(event.heap_bytes() > 1);
        assert_eq!(DecodedItem::Message(message, Ok(event)).message_bytes(), Some(expected));
    }

    #[test]
    fn a_batch_may_reach_its_bound_exactly() {
        let queue = [Fake(Some(MAX_BATCH_BYTES - 1)), Fake(Some(1)), Fake(Some(1))];
        assert_eq!(next(&queue, 10), BatchStep::Messages(2));
    }

    proptest! {
        #[test]
        fn batch_is_longest_run_without_connection_events(
            queue in queue(), max in 1usize..20
        ) {
            let fits = |n: usize| {
                let run = &queue[..n];
                let bytes: usize = run.iter().filter_map(|e| e.0).sum();
                run.iter().all(|e| e.0.is_some())
                    && (n == 1 || (n <= max && bytes <= MAX_BATCH_BYTES))
            };
            match next(&queue, max) {
                BatchStep::Wait => prop_assert!(queue.is_empty()),
                BatchStep::Event => prop_assert!(queue[0].0.is_none()),
                BatchStep::Messages(n) => {
                    prop_assert!(n >= 1 && fits(n));
                    prop_assert!(n == queue.len() || !fits(n + 1));
                }
            }
        }

        #[test]
        fn repeated_steps_take_everything_once_and_in_order(queue in queue(), max in 1usize..20) {
            let mut taken = 0;
            loop {
                match next(&queue[taken..], max) {
                    BatchStep::Wait => break,
                    BatchStep::Event => taken += 1,
                    BatchStep::Messages(n) => taken += n,
                }
            }
            prop_assert_eq!(taken, queue.len());
        }

        #[test]
        fn batch_size_stays_bounded_and_recovers(max in 0usize..5000, halvings in 0usize..20) {
            let mut size = BatchSize::new(max);
            for _ in 0..halvings {
                let before = size.get();
                size.halve(before);
                prop_assert!(size.get() >= 1 && (size.get() < before || before == 1));
            }
            for _ in 0..70 { size.grow(); }
            prop_assert_eq!(size.get(), max.max(1));
        }

        #[test]
        fn batch_size_follows_the_simple_rule(
            first in 0usize..5000,
            outcomes in prop::collection::vec((outcome(), any::<prop::sample::Index>()), 0..64),
        ) {
            let (mut size, mut max) = (BatchSize::new(first), first.max(1));
            for (outcome, queued) in outcomes {
                let before = size.get();
                let expected = match outcome {
                    SimOutcome::TookTooLong => {
                        // Less may have been queued than a batch holds.
                        let tried = 1 + queued.index(before);
                        size.halve(tried);
                        (tried / 2).max(1)
                    }
                    SimOutcome::Committed => { size.grow(); (before + (before / 8).max(1)).min(max) }
                    SimOutcome::Bound(new) if new.max(1) == max => { size.set_max(new); before }
                    SimOutcome::Bound(new) => { size.set_max(new); max = new.max(1); max }
                };
                prop_assert_eq!(size.get(), expected);
                prop_assert!((1..=max).contains(&expected));
            }
        }
    }
}
