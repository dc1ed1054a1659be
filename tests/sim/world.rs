//! The state that all parts of one schedule share: the seed's choices, the trace, the time of day,
//! and the first broken rule.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use centiloc_bridge::clock::WallClock;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use time::OffsetDateTime;
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z, the start of every schedule.
const EPOCH: i64 = 1_767_225_600;

/// State shared by all parts of one schedule.
#[derive(Debug)]
pub struct SimulatedWorld(Mutex<WorldState>);

#[derive(Debug)]
struct WorldState {
    rng: StdRng,
    started: Instant,
    /// Offset of the clock after jumps.
    clock_offset: time::Duration,
    trace: ScheduleTrace,
    faults: BTreeMap<&'static str, u64>,
    violation: Option<String>,
    /// True if a CONNACK has reported a new session that is neither stored nor on disk.
    news_in_memory: bool,
    /// True while faults may be drawn. False once the schedule is to come to rest.
    stormy: bool,
}

/// The events of a schedule, in order.
#[derive(Debug, Default, Clone)]
pub struct ScheduleTrace {
    hasher: DefaultHasher,
    pub text: Vec<String>,
}

impl ScheduleTrace {
    /// Returns a digest of all lines.
    pub fn digest(&self) -> u64 {
        self.hasher.finish()
    }
}

/// The result of a schedule.
#[derive(Debug, Clone)]
pub struct ScheduleResult {
    pub trace: ScheduleTrace,
    pub faults: BTreeMap<&'static str, u64>,
    /// The first rule that was broken.
    pub violation: Option<String>,
}

impl SimulatedWorld {
    /// Creates the world of a seed. Must be called on the paused runtime.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(WorldState {
            rng: StdRng::seed_from_u64(seed),
            started: Instant::now(),
            clock_offset: time::Duration::ZERO,
            trace: ScheduleTrace::default(),
            faults: BTreeMap::new(),
            violation: None,
            news_in_memory: false,
            stormy: true,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, WorldState> {
        self.0.lock().unwrap()
    }

    /// Draws a number.
    pub fn draw(&self, range: RangeInclusive<u64>) -> u64 {
        self.lock().rng.random_range(range)
    }

    /// Draws an index below `len`.
    pub fn index(&self, len: usize) -> usize {
        self.lock().rng.random_range(0..len)
    }

    /// Returns true with this probability, per mille.
    pub fn chance(&self, per_mille: u64) -> bool {
        self.draw(1..=1000) <= per_mille
    }

    /// Does the same as [`Self::chance`], but always returns false once the storm is over.
    pub fn fault_chance(&self, per_mille: u64) -> bool {
        self.is_stormy() && self.chance(per_mille)
    }

    /// Draws one of several.
    pub fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// Creates a random generator for a part of the bridge.
    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.draw(0..=u64::MAX))
    }

    /// Waits for that many milliseconds of paused time.
    pub async fn sleep(&self, millis: RangeInclusive<u64>) {
        tokio::time::sleep(Duration::from_millis(self.draw(millis))).await;
    }

    /// Lets the other tasks take that many steps.
    pub async fn step_aside(&self, times: RangeInclusive<u64>) {
        for _ in 0..self.draw(times) {
            tokio::task::yield_now().await;
        }
    }

    /// Writes a line into the trace.
    pub fn note(&self, line: impl Display) {
        let mut state = self.lock();
        let at = state.started.elapsed().as_micros();
        let line = format!("{at:>11} {line}");
        line.hash(&mut state.trace.hasher);
        state.trace.text.push(line);
    }

    /// Counts a fault and writes it into the trace.
    pub fn fault(&self, kind: &'static str) {
        *self.lock().faults.entry(kind).or_default() += 1;
        self.note(format_args!("FAULT {kind}"));
    }

    /// Records that a rule was broken. Only the first counts.
    pub fn violated(&self, rule: impl Display) {
        let rule = rule.to_string();
        self.note(format_args!("BROKEN {rule}"));
        self.lock().violation.get_or_insert(rule);
    }

    /// Returns true once a rule was broken.
    pub fn is_broken(&self) -> bool {
        self.lock().violation.is_some()
    }

    /// Records if the event of a new session is in the memory of a process alone.
    pub fn news_in_memory(&self, alone: bool) {
        self.lock().news_in_memory = alone;
    }

    /// Returns true if the death of the process loses the event of a new session.
    pub fn takes_news_with_it(&self) -> bool {
        std::mem::take(&mut self.lock().news_in_memory)
    }

    /// Returns the time of day on the bridge's host.
    pub fn now_utc(&self) -> OffsetDateTime {
        let state = self.lock();
        // Unwrap safety: a constant of the present century.
        OffsetDateTime::from_unix_timestamp(EPOCH).unwrap()
            + state.started.elapsed()
            + state.clock_offset
    }

    /// Sets the clock of the bridge's host forward or back.
    pub fn jump_clock(&self) {
        let seconds = self.draw(0..=200_000).cast_signed() - 100_000;
        self.lock().clock_offset += time::Duration::seconds(seconds);
        self.note(format_args!("clock jumps by {seconds} s"));
    }

    /// Returns the clock for the bridge.
    pub fn clock(self: &Arc<Self>) -> WallClock {
        let world = Arc::clone(self);
        WallClock::simulated(move || world.now_utc())
    }

    /// Returns true while faults may be drawn.
    pub fn is_stormy(&self) -> bool {
        self.lock().stormy
    }

    /// Ends all faults.
    pub fn calm(&self) {
        self.lock().stormy = false;
        self.note("calm");
    }

    /// Returns the result of the schedule.
    pub fn ended(&self) -> ScheduleResult {
        let state = self.lock();
        ScheduleResult {
            trace: state.trace.clone(),
            faults: state.faults.clone(),
            violation: state.violation.clone(),
        }
    }
}
