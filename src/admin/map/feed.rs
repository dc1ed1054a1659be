//! The task that reads the database for the map while somebody looks at it, and the frames that it
//! publishes to all viewers.
//!
//! A hundred viewers cost as many reads as one. A viewer has no queue: it holds the number of the last
//! frame that it sent, and takes the next ones from a history that all share. A viewer that is slower
//! than the history is long starts again with a snapshot.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::state::{MapAssembly, MapDelta, MapState, millis};
use crate::progress::{self, idle};
use crate::store::map_reads::ChangePosition;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// Shortest wait between two reads.
const PAUSE: Duration = Duration::from_millis(500);
/// Wait after a read as a multiple of its duration: at most a quarter of the time is spent reading.
const PAUSE_PER_READ: u32 = 3;
/// Wait after a failed read.
const RETRY: Duration = Duration::from_secs(2);
/// Everything is read this often, for layouts that were imported meanwhile.
const WHOLE_EVERY: Duration = Duration::from_secs(30);
/// Reading goes on for this long after the last viewer left. Somebody may load the page again.
const LINGER: Duration = Duration::from_secs(30);
/// Most frames of the history: more than a minute.
const MOST_FRAMES: usize = 256;
/// Most bytes of the history.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// Inputs and outputs of the task.
#[derive(Debug)]
pub struct MapFeedParts {
    /// The database.
    pub store: Arc<Store>,
    /// Tenant whose boards and items are shown.
    pub tenant: String,
    /// Receives what is read.
    pub feed: Arc<MapFeed>,
    /// Counts the reads.
    pub metrics: Arc<Metrics>,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// The newest content of the map.
#[derive(Debug, Clone)]
pub struct MapView {
    /// Number of the newest frame that is in the state.
    pub number: u64,
    /// The content.
    pub state: Arc<MapState>,
    /// Time of the last read. `None` before the first one.
    pub read_at: Option<OffsetDateTime>,
    /// The same on the monotonic clock.
    read: Option<Instant>,
    /// Reason why the database cannot be read now.
    pub problem: Option<String>,
}

/// Frames after a number.
#[derive(Debug)]
pub enum NextFrames {
    /// The frames, in order.
    Frames {
        /// Encoded frames. Empty if there is no newer one.
        bytes: Vec<Bytes>,
        /// Number of the last one.
        number: u64,
    },
    /// Some of them are not kept any more.
    TooOld,
}

/// A numbered change, encoded as a server-sent event.
#[derive(Debug)]
struct MapFrame {
    number: u64,
    bytes: Bytes,
}

/// Content of the map and its newest changes, shared by the task and all viewers.
#[derive(Debug)]
pub struct MapFeed {
    /// Distinguishes the numbers of this process from those of an earlier one.
    pub epoch: String,
    view: watch::Sender<MapView>,
    history: Mutex<VecDeque<MapFrame>>,
    wanted: Mutex<Option<Instant>>,
    wake: Notify,
    /// Counts the viewers.
    pub metrics: Arc<Metrics>,
}

impl MapFeed {
    /// Returns an empty map. `epoch` differs for each process.
    pub fn new(epoch: String, metrics: Arc<Metrics>) -> Self {
        let view =
            MapView { number: 0, state: Arc::default(), read_at: None, read: None, problem: None };
        Self {
            epoch,
            view: watch::Sender::new(view),
            history: Mutex::default(),
            wanted: Mutex::default(),
            wake: Notify::new(),
            metrics,
        }
    }

    /// Returns the newest content without waiting.
    pub fn view(&self) -> MapView {
        self.view.borrow().clone()
    }

    /// Follows the content.
    pub fn subscribe(&self) -> watch::Receiver<MapView> {
        self.view.subscribe()
    }

    /// Has the database read from now on, for a while.
    pub fn want(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.wake.notify_one();
    }

    /// Has the database read, and waits at most `limit` until the content is not older than the last
    /// pause. Returns the newest content.
    pub async fn fresh_view(&self, limit: Duration) -> MapView {
        self.want();
        let oldest = Instant::now().checked_sub(4 * PAUSE);
        let mut view = self.subscribe();
        let is_fresh =
            |view: &MapView| view.problem.is_some() || view.read >= oldest && view.read.is_some();
        drop(tokio::time::timeout(limit, view.wait_for(is_fresh)).await);
        self.view()
    }

    /// Returns the frames after a number.
    pub fn after(&self, number: u64) -> NextFrames {
        // The view first: it is locked while a frame is added.
        let published = self.view.borrow().number;
        let history = self.history();
        let newest = history.back().map_or(published, |frame| frame.number);
        let oldest = history.front().map_or(newest + 1, |frame| frame.number);
        if number > newest || number + 1 < oldest {
            return NextFrames::TooOld;
        }
        let later = history.iter().filter(|frame| frame.number > number);
        NextFrames::Frames {
            bytes: later.map(|frame| frame.bytes.clone()).collect(),
            number: newest,
        }
    }

    /// Returns the name of a frame, for `Last-Event-ID` and `ETag`.
    pub fn name_of(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch)
    }

    /// Returns the number of a frame of this process.
    pub fn number_of(&self, name: &str) -> Option<u64> {
        name.strip_prefix(&self.epoch)?.strip_prefix('-')?.parse().ok()
    }

    /// Publishes what was read.
    pub(super) fn publish(&self, delta: &MapDelta) {
        self.view.send_modify(|view| {
            let was_lost = view.problem.take().is_some();
            (view.read, view.read_at) = (Some(Instant::now()), Some(OffsetDateTime::now_utc()));
            if was_lost || !delta.is_empty() {
                Arc::make_mut(&mut view.state).apply(delta);
                view.number += 1;
                self.add_frame(view, delta);
            }
        });
    }

    /// Publishes that the database cannot be read. The content stays.
    pub(super) fn publish_problem(&self, problem: &str) {
        self.view.send_if_modified(|view| {
            if view.problem.as_deref() == Some(problem) {
                return false;
            }
            view.problem = Some(problem.to_owned());
            view.number += 1;
            self.add_frame(view, &MapDelta::default());
            true
        });
    }

    fn add_frame(&self, view: &MapView, delta: &MapDelta) {
        let document = FrameDocument { status: MapStatus::of(view), delta };
        // Unwrap safety: structs of text and numbers with text keys.
        let json = serde_json::to_string(&document).expect("a frame is JSON");
        let text = format!("id: {}\nevent: delta\ndata: {json}\n\n", self.name_of(view.number));
        let mut history = self.history();
        history.push_back(MapFrame { number: view.number, bytes: text.into() });
        let mut bytes: usize = history.iter().map(|frame| frame.bytes.len()).sum();
        while history.len() > MOST_FRAMES || bytes > MOST_BYTES && history.len() > 1 {
            let Some(frame) = history.pop_front() else { break };
            bytes -= frame.bytes.len();
        }
    }

    /// Returns the time for which reading goes on. `None` if nobody looks at the map.
    fn watched_for(&self) -> Option<Duration> {
        if self.metrics.map_viewers.get() > 0 {
            return Some(LINGER);
        }
        let wanted = *self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        LINGER.checked_sub(wanted?.elapsed())
    }

    fn history(&self) -> MutexGuard<'_, VecDeque<MapFrame>> {
        // Frames are pushed and popped whole, so a panic leaves the list usable.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Age and trouble of the content.
#[derive(Debug, Serialize)]
pub struct MapStatus<'a> {
    /// Time of the last read, milliseconds since the Unix epoch.
    pub read_at: Option<i64>,
    /// Reason why the database cannot be read now.
    pub problem: Option<&'a str>,
}

impl<'a> MapStatus<'a> {
    /// Returns the status of a view.
    pub fn of(view: &'a MapView) -> Self {
        Self { read_at: view.read_at.map(millis), problem: view.problem.as_deref() }
    }
}

#[derive(Serialize)]
struct FrameDocument<'a> {
    #[serde(flatten)]
    status: MapStatus<'a>,
    #[serde(flatten)]
    delta: &'a MapDelta,
}

/// Runs until `stop`.
pub async fn run(parts: MapFeedParts) {
    let stop = parts.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = read_while_watched(&parts) => {}
    }
}

/// Position and age of the reads.
#[derive(Default)]
struct ReadCursor {
    assembly: MapAssembly,
    /// `None` if everything must be read.
    position: Option<ChangePosition>,
    whole_at: Option<Instant>,
}

async fn read_while_watched(parts: &MapFeedParts) {
    idle(parts.store.until_prepared()).await;
    let mut cursor = ReadCursor::default();
    loop {
        progress::tick();
        if parts.feed.watched_for().is_none() {
            parts.store.close_map_connection();
            idle(parts.feed.wake.notified()).await;
            continue;
        }
        let started = Instant::now();
        parts.metrics.map_reads.inc();
        let wait = match cursor.read(parts).await {
            Ok(delta) => {
                parts.feed.publish(&delta);
                (started.elapsed() * PAUSE_PER_READ).max(PAUSE)
            }
            Err(error) => {
                tracing::debug!(%error, "could not read the map");
                cursor.position = None;
                parts.feed.publish_problem(&error.to_string());
                (started.elapsed() * PAUSE_PER_READ).max(RETRY)
            }
        };
        idle(tokio::time::sleep(wait)).await;
    }
}

impl ReadCursor {
    /// Reads the changes, or everything where it must.
    async fn read(&mut self, parts: &MapFeedParts) -> Result<MapDelta, StoreError> {
        let state = parts.feed.view().state;
        let is_due = self.whole_at.is_none_or(|at| at.elapsed() >= WHOLE_EVERY);
        if let Some(position) = self.position.filter(|_| !is_due)
            && let Some(read) = parts.store.read_map_changes(&parts.tenant, position).await?
        {
            self.position = Some(read.position);
            return Ok(self.assembly.changed(&state, read.items, read.boards));
        }
        let read = parts.store.read_map(&parts.tenant).await?;
        (self.position, self.whole_at) = (Some(read.position), Some(Instant::now()));
        Ok(self.assembly.whole(&state, read))
    }
}
