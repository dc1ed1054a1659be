//! A model of the spool's file. Every transaction is on disk whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use centiloc_bridge::spool::SpoolError;
use centiloc_bridge::spool::storage::{
    LastSeen, LastSeenChange, OpenSpool, SpoolChanges, SpoolDepth, SpoolRow, SpoolStorage,
    StorageFile,
};
use centiloc_bridge::stream::connection_event::ConnectionEvent;
use centiloc_bridge::stream::gap::{Gap, GapCause};

use crate::message::identify;
use crate::world::SimulatedWorld;

/// The current behaviour of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskMood {
    /// Writes normally.
    Well,
    /// Has no space left.
    Full,
    /// Fails to write.
    Failing,
    /// Takes long to sync.
    Slow,
}

/// The file, which outlives every process.
#[derive(Debug)]
pub struct ModelSpool {
    world: Arc<SimulatedWorld>,
    state: Mutex<SpoolState>,
}

#[derive(Debug)]
struct SpoolState {
    mood: DiskMood,
    locked: bool,
    rows: BTreeMap<u64, SpoolRow<'static>>,
    life: Option<LastSeen>,
    /// A row that does not match its checksum.
    damaged: Option<u64>,
    /// Events that were lost with such rows.
    lost: BTreeSet<u64>,
    /// True if connection events were lost with such rows.
    lost_news: bool,
}

impl ModelSpool {
    /// Creates an empty file.
    pub fn new(world: &Arc<SimulatedWorld>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            state: Mutex::new(SpoolState {
                mood: DiskMood::Well,
                locked: false,
                rows: BTreeMap::new(),
                life: None,
                damaged: None,
                lost: BTreeSet::new(),
                lost_news: false,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap()
    }

    /// Changes the behaviour of the disk.
    pub fn set_mood(&self, mood: DiskMood) {
        self.world.note(format_args!("the spool's disk is {mood:?}"));
        self.lock().mood = mood;
    }

    /// Draws a behaviour.
    pub fn change_mood(&self) {
        let moods = [DiskMood::Well, DiskMood::Full, DiskMood::Failing, DiskMood::Slow];
        let mood = self.world.pick(&moods);
        self.world.fault(match mood {
            DiskMood::Well => "spool disk recovers",
            DiskMood::Full => "spool disk full",
            DiskMood::Failing => "spool disk fails",
            DiskMood::Slow => "spool disk slow",
        });
        self.set_mood(mood);
    }

    /// Changes the bytes of a row without the bridge's knowledge.
    pub fn damage(&self) {
        let mut state = self.lock();
        if state.rows.is_empty() {
            return;
        }
        let place = self.world.index(state.rows.len());
        state.damaged = state.rows.keys().nth(place).copied();
        self.world.note(format_args!("row {:?} of the spool is damaged", state.damaged));
        drop(state);
        self.world.fault("spool row damaged");
    }

    /// Returns true if an event is in the file.
    pub fn has(&self, event: u64) -> bool {
        self.lock().rows.values().any(|row| event_in(row) == Some(event))
    }

    /// Returns true if an event was lost with a damaged row.
    pub fn lost(&self, event: u64) -> bool {
        self.lock().lost.contains(&event)
    }

    /// Returns true if a connection event was lost with a damaged row.
    pub fn lost_news(&self) -> bool {
        self.lock().lost_news
    }

    /// Returns true if the event of a gap or of a new session is in the file.
    pub fn has_gap(&self, causes: &[GapCause]) -> bool {
        self.lock().rows.values().any(|row| match news_in(row) {
            Some(ConnectionEvent::Gap(gap)) => causes.contains(&gap.cause),
            Some(ConnectionEvent::Opened { session_present, .. }) => {
                !session_present && causes.contains(&GapCause::SessionLost)
            }
            _ => false,
        })
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.lock().rows.len()
    }

    fn trouble(&self) -> Option<SpoolError> {
        match self.lock().mood {
            DiskMood::Well | DiskMood::Slow => None,
            DiskMood::Full => Some(SpoolError::NoSpace),
            DiskMood::Failing => Some(SpoolError::Unavailable("the model's disk fails".into())),
        }
    }

    async fn take_time(&self) {
        if self.lock().mood == DiskMood::Slow {
            self.world.sleep(50..=3_000).await;
        } else {
            self.world.sleep(0..=3).await;
        }
    }

    fn apply(&self, changes: &SpoolChanges<'_>) {
        let mut state = self.lock();
        if let Some(id) = changes.delete_through {
            state.rows = state.rows.split_off(&(id + 1));
        }
        for (id, row) in changes.append {
            let text = news_in(row).map_or_else(
                || format!("event {:?}", event_in(row)),
                |news| format!("news {}", crate::database::describe(&news)),
            );
            self.world.note(format_args!("spool row {id}: {text}"));
            if news_in(row).is_some_and(|n| matches!(n, ConnectionEvent::Opened { .. })) {
                self.world.news_in_memory(false);
            }
            if state.rows.insert(*id, owned(row)).is_some() {
                self.world.violated(format_args!("row {id} of the spool is written twice"));
            }
        }
        match &changes.last_seen {
            LastSeenChange::None => {}
            LastSeenChange::Cleared => state.life = None,
            LastSeenChange::Set(life) => state.life = Some(life.clone()),
        }
    }
}

fn owned(row: &SpoolRow<'_>) -> SpoolRow<'static> {
    SpoolRow {
        received_at: row.received_at,
        topic: row.topic.as_ref().map(|topic| topic.to_string().into()),
        payload: row.payload.to_vec().into(),
        qos: row.qos,
        retain: row.retain,
    }
}

fn event_in(row: &SpoolRow<'_>) -> Option<u64> {
    row.topic.as_ref().map(|_| identify(&row.payload).0)
}

fn news_in(row: &SpoolRow<'_>) -> Option<ConnectionEvent> {
    row.topic.is_none().then(|| serde_json::from_slice(&row.payload).unwrap())
}

/// An opener of the model's file.
#[derive(Debug)]
pub struct ModelStorage(pub Arc<ModelSpool>);

impl ModelStorage {
    fn lock(&self) -> Result<ModelLock, SpoolError> {
        if std::mem::replace(&mut self.0.lock().locked, true) {
            return Err(SpoolError::Unavailable("another process has the spool".into()));
        }
        Ok(ModelLock(Arc::clone(&self.0)))
    }
}

/// A lock that frees the file when dropped.
#[derive(Debug)]
pub struct ModelLock(Arc<ModelSpool>);

impl Drop for ModelLock {
    fn drop(&mut self) {
        self.0.lock().locked = false;
    }
}

/// A connection to the model's file.
#[derive(Debug)]
pub struct ModelFile(Arc<ModelSpool>);

impl SpoolStorage for ModelStorage {
    type File = ModelFile;
    type Lock = ModelLock;

    async fn open(&self) -> Result<OpenSpool<Self>, SpoolError> {
        let lock = self.lock()?;
        self.0.take_time().await;
        if let Some(trouble) = self.0.trouble().filter(|trouble| *trouble != SpoolError::NoSpace) {
            return Err(trouble);
        }
        let file = || ModelFile(Arc::clone(&self.0));
        Ok(OpenSpool { writer: file(), reader: file(), lock })
    }

    async fn salvage(&self, problem: &str, last_known: u64) -> Result<(), SpoolError> {
        let _lock = self.lock()?;
        self.0.take_time().await;
        if let Some(trouble) = self.0.trouble() {
            return Err(trouble);
        }
        let now = self.0.world.now_utc();
        let gap = ConnectionEvent::Gap(Gap {
            client_id: "acme-bridge".into(),
            started_at: now,
            ended_at: Some(now),
            cause: GapCause::SpoolDamaged,
            detail: problem.into(),
        });
        let mut state = self.0.lock();
        let Some(id) = state.damaged.take() else { return Ok(()) };
        let row = state.rows.remove(&id);
        let event = row.as_ref().and_then(event_in);
        state.lost_news |= row.is_some() && event.is_none();
        state.lost.extend(event);
        let last = state.rows.keys().next_back().copied().unwrap_or(0).max(id).max(last_known);
        state.rows.insert(last + 1, SpoolRow::from_event(&gap, now));
        self.0.world.note(format_args!("spool is salvaged without row {id}, event {event:?}"));
        Ok(())
    }
}

impl StorageFile for ModelFile {
    async fn depth(&mut self) -> Result<(SpoolDepth, u64), SpoolError> {
        let state = self.0.lock();
        let depth =
            state.rows.values().map(SpoolDepth::of).fold(SpoolDepth::default(), SpoolDepth::plus);
        Ok((depth, state.rows.keys().next_back().copied().unwrap_or(0)))
    }

    async fn oldest(&mut self) -> Result<Option<i64>, SpoolError> {
        Ok(self.0.lock().rows.values().next().map(|row| row.received_at))
    }

    async fn newest(&mut self) -> Result<Option<i64>, SpoolError> {
        Ok(self.0.lock().rows.values().next_back().map(|row| row.received_at))
    }

    async fn last_seen(&mut self) -> Result<Option<LastSeen>, SpoolError> {
        Ok(self.0.lock().life.clone())
    }

    async fn write(&mut self, changes: &SpoolChanges<'_>) -> Result<(), SpoolError> {
        self.0.take_time().await;
        if let Some(trouble) = self.0.trouble() {
            return Err(trouble);
        }
        self.0.apply(changes);
        self.0.take_time().await;
        Ok(())
    }

    async fn read(
        &mut self,
        after: u64,
        rows: i64,
        bytes: usize,
    ) -> Result<Vec<(u64, SpoolRow<'static>)>, SpoolError> {
        self.0.world.step_aside(0..=3).await;
        let state = self.0.lock();
        let mut read = Vec::new();
        let mut total = 0;
        for (id, row) in state.rows.range(after + 1..) {
            if read.len() >= usize::try_from(rows).unwrap() || total >= bytes {
                break;
            }
            if state.damaged == Some(*id) {
                return Err(SpoolError::Damaged(format!("row {id} does not match its checksum")));
            }
            total += row.size();
            read.push((*id, owned(row)));
        }
        Ok(read)
    }

    async fn limit_log(&mut self) -> Result<(), SpoolError> {
        Ok(())
    }

    async fn touch(&mut self) -> Result<(), SpoolError> {
        self.write(&SpoolChanges::default()).await
    }

    async fn shrink(&mut self) -> Result<(), SpoolError> {
        Ok(())
    }

    async fn close(self) -> Result<(), SpoolError> {
        Ok(())
    }

    async fn close_in_order(self, _: SpoolDepth) -> Result<(), SpoolError> {
        Ok(())
    }
}
