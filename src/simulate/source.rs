//! The messages of one run: the events of a simulated world in the chosen formats, up to a count.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::catalog::SiteCatalog;
use super::encode::{EventEncoder, FormatChoice, TenantTopics};
use super::event::SimulatedEvent;
use super::history::EventHistory;
use super::rng::SeededRng;
use super::world::{SimulatedWorld, WorldSettings};

/// Most copies that are held back. A copy is published some messages later, as a redelivery is.
const MAX_HELD_COPIES: usize = 32;

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Tenant in the topics and item events.
    pub tenant: String,
    /// Number of boards and items, and the seed.
    pub world: WorldSettings,
    /// Formats in which each event is published.
    pub format: FormatChoice,
    /// Number of distinct events. `None` is unlimited.
    pub count: Option<u64>,
    /// Probability that a message is published a second time, `0.0..=1.0`.
    pub duplicates: f64,
    /// Source of the momenta.
    pub clock: MomentumClock,
}

/// The clock that gives the momenta of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MomentumClock {
    /// The time of publication by the wall clock.
    Wall,
    /// A simulated time, so that a seed gives the same bytes again.
    Simulated {
        /// Time of the first event, nanoseconds since the Unix epoch.
        start_ns: i64,
        /// Time from one event to the next, nanoseconds.
        step_ns: i64,
    },
    /// Times distributed over a past period.
    EventHistory(Arc<EventHistory>),
}

/// Events per second of simulated time if there is no rate. A broker accepts about as many, so that
/// the time of a long run does not get ahead of the wall clock.
const DEFAULT_SIMULATED_RATE: u64 = 50_000;

impl MomentumClock {
    /// Returns a simulated time from `start` on, at `rate` events per second (0 is no rate).
    pub fn simulated(start: OffsetDateTime, rate: u64) -> Self {
        let rate = if rate == 0 { DEFAULT_SIMULATED_RATE } else { rate };
        let step = Duration::from_secs(1).as_nanos() / u128::from(rate);
        Self::Simulated {
            start_ns: unix_ns(start),
            step_ns: i64::try_from(step).unwrap_or(i64::MAX).max(1),
        }
    }

    fn at(&self, event: u64) -> i64 {
        match self {
            Self::Wall => unix_ns(OffsetDateTime::now_utc()),
            Self::Simulated { start_ns, step_ns } => {
                let event = i64::try_from(event).unwrap_or(i64::MAX);
                start_ns.saturating_add(step_ns.saturating_mul(event))
            }
            Self::EventHistory(history) => history.at(event),
        }
    }
}

/// Returns nanoseconds since the Unix epoch, clamped to the range of 64 bits (1677 to 2262).
pub(super) fn unix_ns(time: OffsetDateTime) -> i64 {
    let ns = time.unix_timestamp_nanos();
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedMessage {
    /// Number of its event, from 0.
    pub event: u64,
    /// Number of messages of this event, copies included.
    pub siblings: u8,
    /// Topic of the message.
    pub topic: Arc<str>,
    /// Payload of the message.
    pub payload: Bytes,
}

/// An iterator over the messages of a run.
#[derive(Debug)]
pub struct MessageSource {
    settings: SourceSettings,
    catalog: SiteCatalog,
    world: SimulatedWorld,
    encoder: EventEncoder,
    topics: TenantTopics,
    /// Generator for copies only, so that the events of a seed are the same with and without
    /// copies.
    rng: SeededRng,
    events: u64,
    ready: VecDeque<SimulatedMessage>,
    copies: VecDeque<SimulatedMessage>,
}

impl MessageSource {
    /// Creates the source of a run at its first event.
    pub fn new(settings: SourceSettings) -> Self {
        let WorldSettings { boards, items, seed, .. } = settings.world;
        Self {
            catalog: SiteCatalog::new(&settings.tenant, boards, items, seed),
            world: SimulatedWorld::new(settings.world),
            encoder: EventEncoder::default(),
            topics: TenantTopics::new(&settings.tenant),
            rng: SeededRng::new(!seed),
            events: 0,
            ready: VecDeque::new(),
            copies: VecDeque::new(),
            settings,
        }
    }

    /// Returns the number of distinct events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Ends the run after the events that have already happened and the copies that are held back.
    pub fn finish(&mut self) {
        let end = self.events + self.world.pending() as u64;
        self.settings.count = Some(self.settings.count.map_or(end, |count| count.min(end)));
    }

    /// Returns true if the next message is the first of a new event.
    pub fn at_event_start(&self) -> bool {
        self.ready.is_empty() && !self.copy_is_due()
    }

    fn copy_is_due(&self) -> bool {
        self.copies.len() > MAX_HELD_COPIES || (self.is_complete() && !self.copies.is_empty())
    }

    fn is_complete(&self) -> bool {
        self.settings.count.is_some_and(|count| self.events >= count)
    }

    fn next_event(&mut self) -> Option<SimulatedEvent> {
        if self.is_complete() {
            return None;
        }
        let remaining = self.settings.count.map_or(u64::MAX, |count| count - self.events);
        // Events that are held back belong to the run: without its leave, an item would be lost.
        let event =
            if remaining <= self.world.pending() as u64 { self.world.next_pending() } else { None };
        let now_ns = self.settings.clock.at(self.events);
        Some(event.unwrap_or_else(|| self.world.next(now_ns)))
    }

    fn encode(&mut self, event: &SimulatedEvent) {
        let formats = self.settings.format.formats();
        let mut copies = [1u8; 2];
        for copy in copies.iter_mut().take(formats.len()) {
            *copy += u8::from(self.rng.chance(self.settings.duplicates));
        }
        let siblings = copies.iter().take(formats.len()).sum();
        for (format, copies) in formats.iter().zip(copies) {
            let message = SimulatedMessage {
                event: self.events,
                siblings,
                topic: Arc::clone(self.topics.of(event, *format)),
                payload: self.encoder.encode(&self.catalog, event, *format),
            };
            if copies > 1 {
                self.copies.push_back(message.clone());
            }
            self.ready.push_back(message);
        }
        self.events += 1;
    }
}

impl Iterator for MessageSource {
    type Item = SimulatedMessage;

    fn next(&mut self) -> Option<SimulatedMessage> {
        if let Some(message) = self.ready.pop_front() {
            return Some(message);
        }
        if self.copy_is_due() {
            return self.copies.pop_front();
        }
        let event = self.next_event()?;
        self.encode(&event);
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn settings(seed: u64, count: u64, format: FormatChoice, duplicates: f64) -> SourceSettings {
        SourceSettings {
            tenant: "acme".into(),
            world: WorldSettings { boards: 10, items: 50, seed, board_events: true },
            format,
            count: Some(count),
            duplicates,
            clock: MomentumClock::simulated(datetime!(2026-03-01 10:00 UTC), 1_000),
        }
    }

    fn format() -> impl Strategy<Value = FormatChoice> {
        prop::sample::select(vec![FormatChoice::Protobuf, FormatChoice::Json, FormatChoice::Both])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_event_has_every_format_once(
            seed: u64, count in 0u64..300, format in format(), duplicates in 0.0f64..=1.0
        ) {
            let mut source = MessageSource::new(settings(seed, count, format, duplicates));
            let messages: Vec<_> = source.by_ref().collect();
            prop_assert_eq!(source.events(), count);
            let distinct: HashSet<_> = messages.iter().map(|m| (&m.topic, &m.payload)).collect();
            prop_assert_eq!(distinct.len() as u64, count * format.formats().len() as u64);
            for event in 0..count {
                let ours = messages.iter().filter(|m| m.event == event);
                prop_assert!(ours.clone().all(|m| usize::from(m.siblings) == ours.clone().count()));
            }
        }

        #[test]
        fn fixed_start_repeats_the_same_bytes(seed: u64, format in format()) {
            let run = || MessageSource::new(settings(seed, 200, format, 0.3)).collect::<Vec<_>>();
            prop_assert_eq!(run(), run());
        }

        #[test]
        fn copies_do_not_change_the_events(seed: u64) {
            let run = |duplicates| {
                let source = MessageSource::new(settings(seed, 200, FormatChoice::Both, duplicates));
                source.map(|m| (m.event, m.payload)).collect::<HashSet<_>>()
            };
            prop_assert_eq!(run(0.0), run(0.5));
        }
    }

    #[test]
    fn no_copies_means_one_message_an_event() {
        let source = MessageSource::new(settings(1, 500, FormatChoice::Protobuf, 0.0));
        assert_eq!(source.count(), 500);
    }

    #[test]
    fn finish_completes_copies_and_late_events() {
        let mut settings = settings(3, 0, FormatChoice::Both, 0.5);
        settings.count = None;
        let mut source = MessageSource::new(settings);
        let mut messages: Vec<_> = source.by_ref().take(5_000).collect();
        source.finish();
        messages.extend(source.by_ref());
        assert_eq!(source.world.pending(), 0);
        let expected: u64 = messages
            .iter()
            .map(|m| (m.event, u64::from(m.siblings)))
            .collect::<std::collections::HashMap<_, _>>()
            .values()
            .sum();
        assert_eq!(expected, messages.len() as u64);
    }

    #[test]
    fn source_without_count_is_unlimited() {
        let mut settings = settings(1, 0, FormatChoice::Json, 0.0);
        settings.count = None;
        assert_eq!(MessageSource::new(settings).take(10_000).count(), 10_000);
    }

    #[test]
    fn second_run_by_wall_clock_repeats_nothing() {
        let mut settings = settings(1, 2_000, FormatChoice::Protobuf, 0.0);
        settings.clock = MomentumClock::Wall;
        let first: HashSet<_> = MessageSource::new(settings.clone()).map(|m| m.payload).collect();
        let second: HashSet<_> = MessageSource::new(settings).map(|m| m.payload).collect();
        assert_eq!(first.len() + second.len(), 4_000);
        assert!(first.is_disjoint(&second));
    }
}
