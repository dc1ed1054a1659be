//! A log of the faults of a run, with their times.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::plan::{FaultStep, Victim};

/// Entries around a moment in a failure message.
const AROUND: Duration = Duration::from_secs(8);

/// Time after which the bridge has read a delivered message, if it ever will.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// Last entries in a failure message that names no moment.
const LAST: usize = 40;

/// A period in which the test made a loss possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvokedLoss {
    /// The cause that the row of `gap` must have.
    pub cause: &'static str,
    pub from: OffsetDateTime,
    pub to: OffsetDateTime,
}

/// A log of faults. All faults write to it, in turn on one thread.
#[derive(Debug)]
pub struct FaultLog {
    started: Instant,
    record: RefCell<LogRecord>,
}

#[derive(Debug, Default)]
struct LogRecord {
    entries: Vec<(Instant, String)>,
    faults: BTreeMap<String, usize>,
    provoked: Vec<ProvokedLoss>,
    peak_memory: usize,
    /// Time at which the broker last began to save.
    saved_at: Option<Instant>,
    forgotten: Vec<(Instant, Instant)>,
    /// Times at which a bridge process ended.
    bridge_ends: Vec<Instant>,
    /// Times of faults of the broker or its link.
    breaks: Vec<Instant>,
}

impl FaultLog {
    /// Creates a log that starts now.
    pub fn new() -> Self {
        Self { started: Instant::now(), record: RefCell::default() }
    }

    /// Returns its start.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Records an entry now.
    pub fn note(&self, entry: impl Into<String>) {
        self.record.borrow_mut().entries.push((Instant::now(), entry.into()));
    }

    /// Records a fault of a victim now.
    pub fn suffers(&self, victim: Victim, step: &FaultStep) {
        let name = victim.suffers(step.fault);
        self.note(format!("{name} for {:?}: {:?}", step.lasts, step.fault));
        let mut record = self.record.borrow_mut();
        *record.faults.entry(name).or_default() += 1;
        match victim {
            Victim::Bridge => record.bridge_ends.push(Instant::now()),
            Victim::Broker | Victim::BrokerLink => record.breaks.push(Instant::now()),
            Victim::Postgres | Victim::DatabaseLink => {}
        }
    }

    /// True if a message delivered to the bridge may have been lost on its last steps: the
    /// connection broke before it was read, or the bridge ended before it was stored.
    pub fn may_be_lost_on_delivery(&self, at: Instant) -> bool {
        let record = self.record.borrow();
        let broke = |end: &Instant| *end >= at && end.duration_since(at) < READ_WITHIN;
        record.bridge_ends.iter().any(|end| *end >= at) || record.breaks.iter().any(broke)
    }

    /// Records a loss that was made possible, and counts it among the faults.
    pub fn provoked(&self, fault: &str, provoked: ProvokedLoss) {
        let mut record = self.record.borrow_mut();
        *record.faults.entry(fault.to_owned()).or_default() += 1;
        record.provoked.push(provoked);
    }

    /// Counts a drained backlog.
    pub fn drained(&self) {
        self.note("the backlog is worked off");
        *self.record.borrow_mut().faults.entry("long backlog".to_owned()).or_default() += 1;
    }

    /// Returns the losses that were made possible.
    pub fn all_provoked(&self, cause: &str) -> Vec<ProvokedLoss> {
        let record = self.record.borrow();
        record.provoked.iter().filter(|provoked| provoked.cause == cause).copied().collect()
    }

    /// Records the memory of a bridge process. `None` if it is gone.
    pub fn weighed(&self, bytes: Option<usize>) {
        let mut record = self.record.borrow_mut();
        record.peak_memory = record.peak_memory.max(bytes.unwrap_or(0));
    }

    /// Returns the largest recorded memory, bytes.
    pub fn peak_memory(&self) -> usize {
        self.record.borrow().peak_memory
    }

    /// Records that the broker begins to save now.
    pub fn broker_saves(&self) {
        self.record.borrow_mut().saved_at = Some(Instant::now());
    }

    /// Records that the broker was killed, and so has only its last saved state.
    pub fn broker_forgets(&self) {
        let mut record = self.record.borrow_mut();
        let since = record.saved_at.unwrap_or(self.started);
        record.forgotten.push((since, Instant::now()));
    }

    /// True if the broker may have forgotten a message that it accepted between two moments.
    pub fn may_be_forgotten(&self, from: Instant, to: Instant) -> bool {
        let record = self.record.borrow();
        record.forgotten.iter().any(|(since, until)| from <= *until && *since <= to)
    }

    /// Returns the number of faults of each kind.
    pub fn faults(&self) -> String {
        let record = self.record.borrow();
        let faults: Vec<_> = record.faults.iter().map(|(name, n)| format!("{name} {n}")).collect();
        faults.join(", ")
    }

    /// Returns the entries around these moments, or the last ones if there are none.
    pub fn around(&self, moments: &[Instant]) -> String {
        let record = self.record.borrow();
        let near =
            |at: &Instant| moments.iter().any(|m| at.max(m).duration_since(*at.min(m)) < AROUND);
        let mut entries: Vec<_> = record.entries.iter().collect();
        if moments.is_empty() {
            entries = entries.split_off(entries.len().saturating_sub(LAST));
        } else {
            entries.retain(|(at, _)| near(at));
        }
        let line = |(at, entry): &&(Instant, String)| format!("    {:>8.3} {entry}", self.at(*at));
        entries.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Returns the seconds since the start.
    pub fn at(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.started).as_secs_f64()
    }
}
