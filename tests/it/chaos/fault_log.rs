//! What was done to whom, when.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::plan::{Step, Victim};

/// Entries around a moment that a failure shows.
const AROUND: Duration = Duration::from_secs(8);

/// What was delivered has been read by the bridge after so long, if it is ever to be.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// Entries that a failure shows which tells no moment.
const LAST: usize = 40;

/// A loss that was made possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provoked {
    /// What the row of `gap` must call it.
    pub cause: &'static str,
    /// Since when.
    pub from: OffsetDateTime,
    /// Until when.
    pub to: OffsetDateTime,
}

/// Written by all who make trouble; they take turns on one thread.
#[derive(Debug)]
pub struct FaultLog {
    started: Instant,
    record: RefCell<Record>,
}

#[derive(Debug, Default)]
struct Record {
    entries: Vec<(Instant, String)>,
    faults: BTreeMap<String, usize>,
    provoked: Vec<Provoked>,
    peak_memory: usize,
    /// When the broker last began to save.
    saved_at: Option<Instant>,
    forgotten: Vec<(Instant, Instant)>,
    /// When a bridge process ended.
    bridge_ends: Vec<Instant>,
    /// When something happened to the broker or to the link to it.
    breaks: Vec<Instant>,
}

impl FaultLog {
    /// Begins now.
    pub fn new() -> Self {
        Self { started: Instant::now(), record: RefCell::default() }
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Notes what happens now.
    pub fn note(&self, entry: impl Into<String>) {
        self.record.borrow_mut().entries.push((Instant::now(), entry.into()));
    }

    /// Notes what happens to a victim now.
    pub fn suffers(&self, victim: Victim, step: &Step) {
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

    /// Whether something delivered to the bridge may have been lost on its last few steps: the
    /// connection broke before it was read, or the bridge ended before it was stored.
    pub fn may_be_lost_on_delivery(&self, at: Instant) -> bool {
        let record = self.record.borrow();
        let broke = |end: &Instant| *end >= at && end.duration_since(at) < READ_WITHIN;
        record.bridge_ends.iter().any(|end| *end >= at) || record.breaks.iter().any(broke)
    }

    /// Notes a loss that was made possible, and counts it among the faults.
    pub fn provoked(&self, fault: &str, provoked: Provoked) {
        let mut record = self.record.borrow_mut();
        *record.faults.entry(fault.to_owned()).or_default() += 1;
        record.provoked.push(provoked);
    }

    /// Notes that a backlog was worked off.
    pub fn drained(&self) {
        self.note("the backlog is worked off");
        *self.record.borrow_mut().faults.entry("long backlog".to_owned()).or_default() += 1;
    }

    /// Losses made possible.
    pub fn all_provoked(&self, cause: &str) -> Vec<Provoked> {
        let record = self.record.borrow();
        record.provoked.iter().filter(|provoked| provoked.cause == cause).copied().collect()
    }

    /// Notes what a bridge process needed; `None` if it is gone.
    pub fn weighed(&self, bytes: Option<usize>) {
        let mut record = self.record.borrow_mut();
        record.peak_memory = record.peak_memory.max(bytes.unwrap_or(0));
    }

    /// The most that was weighed.
    pub fn peak_memory(&self) -> usize {
        self.record.borrow().peak_memory
    }

    /// The broker begins to save now.
    pub fn broker_saves(&self) {
        self.record.borrow_mut().saved_at = Some(Instant::now());
    }

    /// The broker was killed, and knows nothing later than its last save.
    pub fn broker_forgets(&self) {
        let mut record = self.record.borrow_mut();
        let since = record.saved_at.unwrap_or(self.started);
        record.forgotten.push((since, Instant::now()));
    }

    /// Whether the broker may have forgotten what it took over between two moments.
    pub fn may_be_forgotten(&self, from: Instant, to: Instant) -> bool {
        let record = self.record.borrow();
        record.forgotten.iter().any(|(since, until)| from <= *until && *since <= to)
    }

    /// How often what was done.
    pub fn faults(&self) -> String {
        let record = self.record.borrow();
        let faults: Vec<_> = record.faults.iter().map(|(name, n)| format!("{name} {n}")).collect();
        faults.join(", ")
    }

    /// What was done around these moments; the last things if there are none.
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

    /// Seconds since the beginning.
    pub fn at(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.started).as_secs_f64()
    }
}
