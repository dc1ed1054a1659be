//! The stream of messages of one run: a world, told in the chosen formats, up to a count.

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

/// Second copies wait behind at most this many others, as redeliveries do.
const ECHOES_HELD: usize = 32;

/// What a run tells.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Tenant in topics and item events.
    pub tenant: String,
    /// Boards, items, seed.
    pub world: WorldSettings,
    /// Formats of each event.
    pub format: FormatChoice,
    /// Distinct events; `None` is no end.
    pub count: Option<u64>,
    /// Probability that a message is sent a second time, `0.0..=1.0`.
    pub duplicates: f64,
    /// Where momenta come from.
    pub clock: MomentumClock,
}

/// Where momenta come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MomentumClock {
    /// The time of publication.
    Wall,
    /// An invented time, so that a seed gives the same bytes again.
    Invented {
        /// Of the first event, nanoseconds since the Unix epoch.
        start_ns: i64,
        /// From one event to the next, nanoseconds.
        step_ns: i64,
    },
    /// Spread over a stretch of the past.
    EventHistory(Arc<EventHistory>),
}

/// Without a rate, invented time runs as if this many events happened a second: about what a
/// broker takes, so that a long run does not wander into the future.
const INVENTED_RATE: u64 = 50_000;

impl MomentumClock {
    /// Invented time beginning at `start`, at `rate` events a second (0 is as fast as it goes).
    pub fn invented(start: OffsetDateTime, rate: u64) -> Self {
        let rate = if rate == 0 { INVENTED_RATE } else { rate };
        let step = Duration::from_secs(1).as_nanos() / u128::from(rate);
        Self::Invented {
            start_ns: unix_ns(start),
            step_ns: i64::try_from(step).unwrap_or(i64::MAX).max(1),
        }
    }

    fn at(&self, event: u64) -> i64 {
        match self {
            Self::Wall => unix_ns(OffsetDateTime::now_utc()),
            Self::Invented { start_ns, step_ns } => {
                let event = i64::try_from(event).unwrap_or(i64::MAX);
                start_ns.saturating_add(step_ns.saturating_mul(event))
            }
            Self::EventHistory(history) => history.at(event),
        }
    }
}

/// Nanoseconds since the Unix epoch, clamped to what 64 bits hold (1677 to 2262).
pub(super) fn unix_ns(time: OffsetDateTime) -> i64 {
    let ns = time.unix_timestamp_nanos();
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedMessage {
    /// Number of the event it tells, from 0.
    pub event: u64,
    /// Messages that tell this event, copies included.
    pub siblings: u8,
    /// Topic name.
    pub topic: Arc<str>,
    /// Application message.
    pub payload: Bytes,
}

/// Yields the messages of a run.
#[derive(Debug)]
pub struct MessageSource {
    settings: SourceSettings,
    catalog: SiteCatalog,
    world: SimulatedWorld,
    encoder: EventEncoder,
    topics: TenantTopics,
    /// Decides about copies only: the events of a seed are the same with and without them.
    rng: SeededRng,
    events: u64,
    ready: VecDeque<SimulatedMessage>,
    echoes: VecDeque<SimulatedMessage>,
}

impl MessageSource {
    /// Nothing is told yet.
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
            echoes: VecDeque::new(),
            settings,
        }
    }

    /// Distinct events told so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Begins nothing new: what has happened and what is to be copied is still told.
    pub fn finish(&mut self) {
        let end = self.events + self.world.pending() as u64;
        self.settings.count = Some(self.settings.count.map_or(end, |count| count.min(end)));
    }

    /// Whether the next message tells a new event.
    pub fn at_event_start(&self) -> bool {
        self.ready.is_empty() && !self.echo_is_due()
    }

    fn echo_is_due(&self) -> bool {
        self.echoes.len() > ECHOES_HELD || (self.is_told() && !self.echoes.is_empty())
    }

    fn is_told(&self) -> bool {
        self.settings.count.is_some_and(|count| self.events >= count)
    }

    fn next_event(&mut self) -> Option<SimulatedEvent> {
        if self.is_told() {
            return None;
        }
        let left = self.settings.count.map_or(u64::MAX, |count| count - self.events);
        // What is held back belongs to the run: a leave left out would be a loss.
        let event =
            if left <= self.world.pending() as u64 { self.world.next_pending() } else { None };
        let now_ns = self.settings.clock.at(self.events);
        Some(event.unwrap_or_else(|| self.world.next(now_ns)))
    }

    fn tell(&mut self, event: &SimulatedEvent) {
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
                self.echoes.push_back(message.clone());
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
        if self.echo_is_due() {
            return self.echoes.pop_front();
        }
        let event = self.next_event()?;
        self.tell(&event);
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
            clock: MomentumClock::invented(datetime!(2026-03-01 10:00 UTC), 1_000),
        }
    }

    fn format() -> impl Strategy<Value = FormatChoice> {
        prop::sample::select(vec![FormatChoice::Protobuf, FormatChoice::Json, FormatChoice::Both])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_event_is_told_in_every_format_and_counted_once(
            seed: u64, count in 0u64..300, format in format(), duplicates in 0.0f64..=1.0
        ) {
            let mut source = MessageSource::new(settings(seed, count, format, duplicates));
            let messages: Vec<_> = source.by_ref().collect();
            prop_assert_eq!(source.events(), count);
            let distinct: HashSet<_> = messages.iter().map(|m| (&m.topic, &m.payload)).collect();
            prop_assert_eq!(distinct.len() as u64, count * format.formats().len() as u64);
            for event in 0..count {
                let told = messages.iter().filter(|m| m.event == event);
                prop_assert!(told.clone().all(|m| usize::from(m.siblings) == told.clone().count()));
            }
        }

        #[test]
        fn a_fixed_start_gives_the_same_bytes_again(seed: u64, format in format()) {
            let run = || MessageSource::new(settings(seed, 200, format, 0.3)).collect::<Vec<_>>();
            prop_assert_eq!(run(), run());
        }

        #[test]
        fn copies_do_not_change_what_is_told(seed: u64) {
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
    fn told_to_finish_it_owes_no_copy_and_no_late_event() {
        let mut settings = settings(3, 0, FormatChoice::Both, 0.5);
        settings.count = None;
        let mut source = MessageSource::new(settings);
        let mut messages: Vec<_> = source.by_ref().take(5_000).collect();
        source.finish();
        messages.extend(source.by_ref());
        assert_eq!(source.world.pending(), 0);
        let owed: u64 = messages
            .iter()
            .map(|m| (m.event, u64::from(m.siblings)))
            .collect::<std::collections::HashMap<_, _>>()
            .values()
            .sum();
        assert_eq!(owed, messages.len() as u64);
    }

    #[test]
    fn without_an_end_it_goes_on() {
        let mut settings = settings(1, 0, FormatChoice::Json, 0.0);
        settings.count = None;
        assert_eq!(MessageSource::new(settings).take(10_000).count(), 10_000);
    }

    #[test]
    fn a_second_run_by_the_wall_clock_repeats_nothing() {
        let mut settings = settings(1, 2_000, FormatChoice::Protobuf, 0.0);
        settings.clock = MomentumClock::Wall;
        let first: HashSet<_> = MessageSource::new(settings.clone()).map(|m| m.payload).collect();
        let second: HashSet<_> = MessageSource::new(settings).map(|m| m.payload).collect();
        assert_eq!(first.len() + second.len(), 4_000);
        assert!(first.is_disjoint(&second));
    }
}
