//! Models of PostgreSQL, and of the host's disk, which survives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use centiloc_bridge::event::EventKind;
use centiloc_bridge::session::gaps::{GapState, PendingGaps};
use centiloc_bridge::store::error::{ErrorClass, classify};
use centiloc_bridge::store::event_store::EventStore;
use centiloc_bridge::store::journal::JournalOutcome;
use centiloc_bridge::store::schema::MigrationError;
use centiloc_bridge::store::{CommitOutcome, DbError, DecodedMessage, StoreError};
use centiloc_bridge::stream::connection_event::{ConnectionEvent, ConnectionName};
use centiloc_bridge::stream::gap::GapCause;
use std::future::Future;
use std::pin::Pin;

use crate::message::{MessageKind, OLD_FILTER, identify};
use crate::world::SimulatedWorld;

/// SQLSTATEs of every class that the writer distinguishes.
const CODES: [&str; 14] = [
    "08006", "40001", "53300", "57P01", "58030", "55P03", "25006", "57014", "42P01", "28P01",
    "3D000", "XX000", "0A000", "25P02",
];

/// The current behaviour of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMood {
    /// Answers normally.
    Well,
    /// Refuses connections.
    Away,
    /// Accepts a statement and does not answer.
    Silent,
    /// Answers everything with this SQLSTATE.
    Refuses(&'static str),
    /// Takes many times as long as usual.
    Slow,
}

/// A model database.
#[derive(Debug)]
pub struct ModelDatabase {
    world: Arc<SimulatedWorld>,
    state: Mutex<DatabaseState>,
}

#[derive(Debug)]
struct DatabaseState {
    mood: ServerMood,
    /// Share of commits that are applied but whose answer is lost, per mille.
    silent_commits: u64,
    rows: BTreeSet<u64>,
    dead_letters: BTreeSet<u64>,
    connections: Vec<ConnectionName>,
    /// Connections that were opened and not closed.
    open: Vec<ConnectionName>,
    gaps: BTreeMap<(CauseName, i128), GapRow>,
    /// Losses of the broker so far.
    losses: u64,
    stale_filter: bool,
}

/// The name of a [`GapCause`], which has an order.
type CauseName = &'static str;

#[derive(Debug)]
struct GapRow {
    open: bool,
    /// The losses that it covers, up to this number.
    covers: u64,
}

impl ModelDatabase {
    /// Creates an empty database.
    pub fn new(world: &Arc<SimulatedWorld>, silent_commits: u64) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            state: Mutex::new(DatabaseState {
                mood: ServerMood::Well,
                silent_commits,
                rows: BTreeSet::new(),
                dead_letters: BTreeSet::new(),
                connections: Vec::new(),
                open: Vec::new(),
                gaps: BTreeMap::new(),
                losses: 0,
                stale_filter: world.chance(200),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, DatabaseState> {
        self.state.lock().unwrap()
    }

    /// Changes the behaviour of the server.
    pub fn set_mood(&self, mood: ServerMood) {
        self.world.note(format_args!("database is {mood:?}"));
        self.lock().mood = mood;
    }

    /// Draws a behaviour.
    pub fn change_mood(&self) {
        let mood = match self.world.draw(0..=5) {
            0 | 1 => ServerMood::Away,
            2 => ServerMood::Silent,
            3 => ServerMood::Refuses(self.world.pick(&CODES)),
            4 => ServerMood::Slow,
            _ => ServerMood::Well,
        };
        let kind = match mood {
            ServerMood::Well => "database recovers",
            ServerMood::Away => "database away",
            ServerMood::Silent => "database silent",
            ServerMood::Refuses(_) => "database refuses by SQLSTATE",
            ServerMood::Slow => "database slow",
        };
        self.world.fault(kind);
        self.set_mood(mood);
    }

    /// Returns true if the database answers.
    pub fn is_well(&self) -> bool {
        matches!(self.lock().mood, ServerMood::Well | ServerMood::Slow)
    }

    /// Returns true once an event is stored, as a row or a dead letter.
    pub fn has(&self, event: u64) -> bool {
        let state = self.lock();
        state.rows.contains(&event) || state.dead_letters.contains(&event)
    }

    /// Returns how often an event is stored.
    pub fn copies(&self, event: u64) -> usize {
        let state = self.lock();
        usize::from(state.rows.contains(&event)) + usize::from(state.dead_letters.contains(&event))
    }

    /// Returns true if a dead letter holds this event.
    pub fn is_dead_letter(&self, event: u64) -> bool {
        self.lock().dead_letters.contains(&event)
    }

    /// Records the number of losses of the broker. Open gaps cover them, and so do gaps written
    /// from now on.
    pub fn after_loss(&self, number: u64) {
        let mut state = self.lock();
        state.losses = number;
        state.gaps.values_mut().filter(|gap| gap.open).for_each(|gap| gap.covers = number);
    }

    /// Returns true if a gap of one of these causes covers this loss.
    pub fn has_gap_over(&self, loss: u64, causes: &[GapCause]) -> bool {
        let state = self.lock();
        state.gaps.iter().any(|((cause, _), gap)| {
            gap.covers >= loss && causes.iter().any(|c| c.as_str() == *cause)
        })
    }

    /// Returns the number of connections whose end is not recorded.
    pub fn open_connections(&self) -> usize {
        self.lock().open.len()
    }

    /// Returns the number of gaps of a cause.
    pub fn gaps(&self, cause: GapCause) -> usize {
        self.lock().gaps.keys().filter(|(name, _)| *name == cause.as_str()).count()
    }

    /// Waits for the server's response time, and returns its refusal if it has one.
    async fn answer(&self) -> Result<(), StoreError> {
        let mood = self.lock().mood;
        match mood {
            ServerMood::Well => self.world.sleep(0..=3).await,
            ServerMood::Slow => self.world.sleep(50..=2000).await,
            ServerMood::Away => {
                self.world.sleep(0..=10).await;
                return Err(fault(None).into());
            }
            ServerMood::Silent => {
                self.world.sleep(5_000..=30_000).await;
                return Err(fault(None).into());
            }
            ServerMood::Refuses(code) => {
                self.world.sleep(0..=10).await;
                return Err(fault(Some(code)).into());
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &[DecodedMessage]) -> CommitOutcome {
        let mut state = self.lock();
        let mut outcome = CommitOutcome::default();
        for (message, result) in batch {
            let (event, kind) = identify(&message.payload);
            if (result.is_ok()) != (kind != MessageKind::Garbage) {
                self.world.violated(format_args!("event {event} was decoded as {result:?}"));
            }
            if kind == MessageKind::Good {
                let new = state.rows.insert(event);
                let items = outcome.events.entry(EventKind::Item).or_default();
                items.inserted += u64::from(new);
                items.duplicates += u64::from(!new);
            } else {
                state.dead_letters.insert(event);
                *outcome.dead_letters.entry("model").or_default() += 1;
            }
            self.world.note(format_args!("database stores {event}"));
        }
        outcome
    }

    fn note_now(&self, news: &ConnectionEvent) -> JournalOutcome {
        let mut state = self.lock();
        let losses = state.losses;
        self.world.note(format_args!("database notes {}", describe(news)));
        match news {
            ConnectionEvent::Opened { connection, at, session_present, .. } => {
                self.world.news_in_memory(false);
                if state.connections.contains(connection) {
                    return JournalOutcome::default();
                }
                let gap = (!state.connections.is_empty() && !session_present)
                    .then_some(GapCause::SessionLost);
                let same_process =
                    state.connections.last().map(|c| c.instance) == Some(connection.instance);
                if !same_process {
                    state.gaps.values_mut().for_each(|gap| gap.open = false);
                }
                if let Some(cause) = gap {
                    let row = GapRow { open: false, covers: losses };
                    state.gaps.insert((cause.as_str(), at.unix_timestamp_nanos()), row);
                }
                state.connections.push(connection.clone());
                state.open.push(connection.clone());
                let holds_old = std::mem::take(&mut state.stale_filter) && *session_present;
                let stale_filters =
                    if holds_old { vec![OLD_FILTER.to_owned()] } else { Vec::new() };
                JournalOutcome { stale_filters, gap }
            }
            ConnectionEvent::Gap(gap) => {
                // The CONNACK at its end identifies the loss of a session.
                let at = gap.ended_at.filter(|_| gap.cause == GapCause::SessionLost);
                let at = at.unwrap_or(gap.started_at).unix_timestamp_nanos();
                let key = (gap.cause.as_str(), at);
                let row = GapRow { open: gap.ended_at.is_none(), covers: losses };
                let new = state.gaps.insert(key, row).is_none();
                JournalOutcome { gap: new.then_some(gap.cause), ..JournalOutcome::default() }
            }
            ConnectionEvent::Closed { connection, .. } => {
                state.open.retain(|open| open != connection);
                JournalOutcome::default()
            }
            ConnectionEvent::Unsubscribed { .. } => JournalOutcome::default(),
        }
    }

    fn loses_answer(&self) -> bool {
        let silent_commits = self.lock().silent_commits;
        let lost = self.world.fault_chance(silent_commits);
        if lost {
            self.world.fault("commit without an answer");
        }
        lost
    }
}

/// Describes a connection event in a line of the trace.
pub fn describe(news: &ConnectionEvent) -> String {
    match news {
        ConnectionEvent::Opened { connection, session_present, .. } => {
            format!("connection {} opened, session present {session_present}", connection.id.0)
        }
        ConnectionEvent::Unsubscribed { .. } => "unsubscribed".into(),
        ConnectionEvent::Closed { connection, reason, .. } => {
            format!("connection {} closed: {reason}", connection.id.0)
        }
        ConnectionEvent::Gap(gap) => {
            format!("gap {} until {:?}: {}", gap.cause.as_str(), gap.ended_at, gap.detail)
        }
    }
}

fn fault(code: Option<&str>) -> DbError {
    DbError {
        class: code.map_or(ErrorClass::Retry, |code| classify(code, None)),
        sqlstate: code.map(str::to_owned),
        text: format!("the model answers {code:?}"),
    }
}

impl EventStore for ModelDatabase {
    async fn prepare_schema(&self, _migrate: bool) -> Result<(), MigrationError> {
        self.answer().await.map_err(MigrationError::Store)
    }

    async fn commit(&self, batch: &[DecodedMessage]) -> Result<CommitOutcome, StoreError> {
        self.answer().await?;
        let outcome = self.apply(batch);
        if self.loses_answer() {
            self.world.sleep(0..=5_000).await;
            return Err(fault(Some("08006")).into());
        }
        self.world.sleep(0..=2).await;
        Ok(outcome)
    }

    async fn note(
        &self,
        _session_expiry: Duration,
        _standing: Option<&ConnectionName>,
        news: &ConnectionEvent,
    ) -> Result<JournalOutcome, StoreError> {
        self.answer().await?;
        let noted = self.note_now(news);
        if self.loses_answer() {
            return Err(fault(Some("08006")).into());
        }
        self.world.sleep(0..=2).await;
        Ok(noted)
    }
}

/// The disk that holds the record of possible losses.
#[derive(Debug)]
pub struct ModelDisk {
    world: Arc<SimulatedWorld>,
    pending: Mutex<PendingGaps>,
}

impl ModelDisk {
    /// Creates an empty disk.
    pub fn new(world: &Arc<SimulatedWorld>) -> Arc<Self> {
        Arc::new(Self { world: Arc::clone(world), pending: Mutex::default() })
    }
}

impl ModelDisk {
    /// Returns true if no possible loss waits for the database.
    pub fn is_clean(&self) -> bool {
        *self.pending.lock().unwrap() == PendingGaps::default()
    }
}

impl GapState for ModelDisk {
    fn read(&self) -> Pin<Box<dyn Future<Output = PendingGaps> + Send + '_>> {
        Box::pin(async {
            self.world.sleep(0..=2).await;
            self.pending.lock().unwrap().clone()
        })
    }

    fn keep(&self, pending: PendingGaps) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            self.world.sleep(0..=2).await;
            self.world.note(format_args!("disk keeps {pending:?}"));
            self.world.news_in_memory(false);
            *self.pending.lock().unwrap() = pending;
            self.world.sleep(0..=2).await;
        })
    }
}
