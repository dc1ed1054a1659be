//! The stage that makes messages durable and forwards their acknowledgements. One stream, one writer,
//! in order: a connection event is durable before any message that follows it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use time::OffsetDateTime;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::rows::DecodedMessage;
use super::batch::sizing::{self, BatchSize, BatchStep};
use super::database_status::{DatabaseStatus, StatusSource};
use super::error::{DbError, StoreError};
use super::event_store::EventStore;
use super::journal::JournalOutcome;
pub use super::retry_waits::RetryWaits;
use super::schema::MigrationError;
use super::{CommitOutcome, Store};
use crate::backoff::Backoff;
use crate::clock::WallClock;
use crate::event::plausibility::{self, is_plausible};
use crate::event::{Event, EventKind};
use crate::progress::{self, HAND_OVER};
use crate::stream::ack::Committed;
use crate::stream::connection_event::ConnectionEvent;
use crate::stream::message::{DecodedItem, Feedback};
use crate::telemetry::metrics::{ClassLabel, KindLabel, ReasonLabel};
use crate::telemetry::{Health, Metrics};

/// Holds the inputs and outputs of the stage.
#[derive(Debug)]
pub struct WriterParts<D = Store> {
    /// The database to write to.
    pub store: Arc<D>,
    /// How long the broker keeps the session of an absent client.
    pub session_expiry: Duration,
    /// Applies pending migrations if true.
    pub migrate: bool,
    /// Decoded messages and connection events, in order.
    pub decoded: Receiver<DecodedItem>,
    /// Back to the session. It must keep receiving whatever it does with `decoded`.
    pub feedback: Sender<Feedback>,
    /// `batch.max_events`, as it is at the moment.
    pub max_events: watch::Receiver<usize>,
    /// Waits after a failure.
    pub waits: RetryWaits,
    /// Availability of the database.
    pub condition: Arc<DatabaseStatus>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The health snapshot.
    pub health: Arc<Health>,
    /// The wall clock, for lag metrics.
    pub clock: WallClock,
    /// Jitters the waits.
    pub rng: StdRng,
    /// Ends everything at once: what is not committed is dropped, and delivered again later.
    pub abandon: CancellationToken,
}

/// Runs until `decoded` is closed and everything from it that matters is durable, or `abandon` is
/// cancelled. Fails only for a schema that this program cannot use.
pub async fn run<D: EventStore>(parts: WriterParts<D>) -> Result<(), MigrationError> {
    let abandon = parts.abandon.clone();
    let mut writer = BatchWriter::new(parts);
    // Biased: once abandoned, nothing more is written.
    tokio::select! {
        biased;
        () = abandon.cancelled() => Ok(()),
        result = writer.run() => result,
    }
}

/// Proves that a transaction was committed.
#[derive(Debug)]
pub struct CommitProof(());

/// Failures after which a shutdown no longer waits until the end of the connection is recorded.
const MAX_SHUTDOWN_RETRIES: u32 = 3;

/// Next action after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterFailure {
    TryAgain,
    GiveUp,
}

#[derive(Debug)]
struct BatchWriter<D> {
    parts: WriterParts<D>,
    /// Taken from the channel and not yet durable, in order. Invariant: at most `max_events` when
    /// something was last taken.
    queue: VecDeque<DecodedItem>,
    size: BatchSize,
    backoff: Backoff,
    /// Start of the period in which the database works. `None` during a failure.
    well_since: Option<Instant>,
    newest_event: Option<OffsetDateTime>,
    /// Failures since only best-effort items are left.
    shutdown_retries: u32,
}

impl<D: EventStore> BatchWriter<D> {
    fn new(parts: WriterParts<D>) -> Self {
        let size = BatchSize::new(*parts.max_events.borrow());
        Self {
            queue: VecDeque::new(),
            size,
            backoff: Backoff::new(parts.waits.retry),
            well_since: None,
            newest_event: None,
            shutdown_retries: 0,
            parts,
        }
    }

    async fn run(&mut self) -> Result<(), MigrationError> {
        self.prepare().await?;
        loop {
            progress::tick();
            self.size.set_max(self.max_events());
            let failed = match sizing::next(&self.queue, self.size.get()) {
                BatchStep::Wait => {
                    if !self.receive().await {
                        return Ok(());
                    }
                    continue;
                }
                BatchStep::Event => self.write_event().await,
                BatchStep::Messages(count) => self.write_batch(count).await,
            };
            match failed {
                Ok(()) => self.record_success(),
                Err(error) => {
                    let class = ClassLabel { class: error.class() };
                    self.parts.metrics.commit_failures.get_or_create(&class).inc();
                    if self.failed(&error).await == AfterFailure::GiveUp {
                        return Ok(());
                    }
                }
            }
            self.top_up();
        }
    }

    fn max_events(&self) -> usize {
        (*self.parts.max_events.borrow()).max(1)
    }

    /// Holds the stream until the schema is in place.
    async fn prepare(&mut self) -> Result<(), MigrationError> {
        loop {
            let error = match self.parts.store.prepare_schema(self.parts.migrate).await {
                Ok(()) => {
                    self.record_success();
                    return Ok(());
                }
                Err(MigrationError::Store(error)) => error,
                Err(behind @ MigrationError::Behind { .. }) => {
                    StoreError::Stop(DbError::stop(behind.to_string()))
                }
                Err(refused) => return Err(refused),
            };
            if self.failed(&error).await == AfterFailure::GiveUp {
                return Ok(());
            }
        }
    }

    /// Waits for something to write. False once the channel is closed and empty.
    async fn receive(&mut self) -> bool {
        let mut received = Vec::new();
        let max_events = self.max_events();
        let count = progress::idle(self.parts.decoded.recv_many(&mut received, max_events)).await;
        self.queue.extend(received);
        count > 0
    }

    /// Takes the items that arrived meanwhile. After a failure too: the outcome of other rows
    /// distinguishes a failing row from a failing database.
    fn top_up(&mut self) {
        while self.queue.len() < self.max_events() {
            match self.parts.decoded.try_recv() {
                Ok(decoded) => self.queue.push_back(decoded),
                Err(_) => break,
            }
        }
    }

    async fn write_batch(&mut self, count: usize) -> Result<(), StoreError> {
        let entries: Vec<DecodedMessage> =
            self.queue.drain(..count).filter_map(into_entry).collect();
        let started = Instant::now();
        match self.parts.store.commit(&entries).await {
            Ok(outcome) if outcome.messages() != entries.len() as u64 => {
                self.put_back(entries);
                Err(StoreError::Stop(DbError::stop(format!(
                    "a batch of {count} messages was committed as {}: this is a bug; nothing of it \
                     is acknowledged",
                    outcome.messages()
                ))))
            }
            Ok(outcome) => {
                self.size.grow();
                self.measure(&entries, &outcome, started.elapsed());
                tracing::debug!(messages = count, took = ?started.elapsed(), "committed a batch");
                let tokens: Vec<_> = entries.into_iter().filter_map(|(m, _)| m.ack).collect();
                if !tokens.is_empty() {
                    self.send_feedback(Feedback::Committed(Committed::new(
                        tokens,
                        &CommitProof(()),
                    )))
                    .await;
                }
                Ok(())
            }
            Err(error) => {
                if matches!(error, StoreError::Halve(_)) {
                    self.size.halve(count);
                }
                self.put_back(entries);
                Err(error)
            }
        }
    }

    fn put_back(&mut self, entries: Vec<DecodedMessage>) {
        for (message, result) in entries.into_iter().rev() {
            self.queue.push_front(DecodedItem::Message(message, result));
        }
    }

    async fn write_event(&mut self) -> Result<(), StoreError> {
        let Some(DecodedItem::Connection(news, _)) = self.queue.front() else { return Ok(()) };
        let standing = self.parts.health.read(|s| s.session.connection.clone());
        let expiry = self.parts.session_expiry;
        let JournalOutcome { stale_filters, gap } =
            self.parts.store.note(expiry, standing.as_ref(), news).await?;
        if let Some(cause) = gap {
            self.parts.metrics.gaps.count(cause);
            let cause = cause.as_str();
            tracing::warn!(cause, "messages may have been lost; see the view data_gap");
        }
        let Some(DecodedItem::Connection(news, token)) = self.queue.pop_front() else {
            return Ok(());
        };
        let durable = match token {
            Some(token) => Feedback::Committed(Committed::new(vec![token], &CommitProof(()))),
            None => Feedback::Persisted(news),
        };
        if !stale_filters.is_empty() {
            self.send_feedback(Feedback::Unsubscribe(stale_filters)).await;
        }
        self.send_feedback(durable).await;
        Ok(())
    }

    /// Sends feedback to the session. If the session is gone, the broker delivers again.
    async fn send_feedback(&self, feedback: Feedback) {
        let sent = self.parts.feedback.send(feedback);
        if progress::during(HAND_OVER, sent).await.is_err() {
            tracing::debug!("the session is gone; what was committed will be delivered again");
        }
    }

    fn record_success(&mut self) {
        self.well_since.get_or_insert_with(Instant::now);
        self.parts.condition.answered(StatusSource::Writer);
    }

    async fn failed(&mut self, error: &StoreError) -> AfterFailure {
        if let Some(since) = self.well_since.take() {
            self.backoff.was_up(since.elapsed());
        }
        self.parts.condition.failed(StatusSource::Writer, error);
        let wait = match error {
            StoreError::Stop(_) => self.parts.waits.stop,
            // The smaller batch is the answer. Waiting longer each time would only hold it back.
            StoreError::Halve(_) if self.size.get() > 1 => self.parts.waits.retry.min,
            StoreError::Retry(_) | StoreError::Halve(_) => {
                self.backoff.next(self.parts.rng.random())
            }
        };
        let drained = self.only_best_effort_left();
        if progress::idle(tokio::time::timeout(wait, drained)).await.is_err() {
            return AfterFailure::TryAgain;
        }
        // The first failure may be that of a connection which the server closed long ago.
        if self.shutdown_retries < MAX_SHUTDOWN_RETRIES && !matches!(error, StoreError::Stop(_)) {
            self.shutdown_retries += 1;
            tokio::time::sleep(self.parts.waits.retry.min).await;
            return AfterFailure::TryAgain;
        }
        tracing::warn!("shutting down without recording the disconnect in the database");
        AfterFailure::GiveUp
    }

    /// Returns once the channel is closed and only best-effort items are left: a shutdown need not wait
    /// for an unreachable database when nothing would be lost.
    async fn only_best_effort_left(&mut self) {
        while self.queue.iter().all(is_best_effort) && self.queue.len() < self.max_events() {
            match self.parts.decoded.recv().await {
                Some(decoded) => self.queue.push_back(decoded),
                None => return,
            }
        }
        std::future::pending::<()>().await;
    }

    fn measure(&mut self, entries: &[DecodedMessage], outcome: &CommitOutcome, took: Duration) {
        let now = self.parts.clock.now_utc();
        let metrics = &self.parts.metrics;
        Metrics::observe(&metrics.commit_seconds, took);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics.batch_events.observe(entries.len() as f64);
        for kind in EventKind::ALL {
            let count = outcome.of(kind);
            let kind = kind.as_str();
            metrics.committed.get_or_create(&KindLabel { kind }).inc_by(count.inserted);
            metrics.duplicates.get_or_create(&KindLabel { kind }).inc_by(count.duplicates);
        }
        for (reason, count) in &outcome.dead_letters {
            metrics.dead_letters.get_or_create(&ReasonLabel { reason }).inc_by(*count);
        }
        metrics.default_partition_rows.inc_by(outcome.default_partition_rows);
        let clock = self.parts.health.read(|s| s.database.clock);
        let later = clock.map_or(now, |clock| clock.later_clock(now, std::time::Instant::now()));
        let latest = plausibility::latest(later);
        let plausible = |momentum: &OffsetDateTime| is_plausible(*momentum, latest);
        for momentum in news(entries).filter(plausible) {
            let lag = Duration::try_from(now - momentum).unwrap_or_default();
            Metrics::observe(&metrics.event_to_commit_seconds, lag);
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds, exact until the year 2255")]
        let committed_at = (now.unix_timestamp_nanos() / 1000) as f64 / 1e6;
        metrics.last_commit_timestamp_seconds.set(committed_at);
        // One from a time when the clock was ahead must not hide later ones.
        self.newest_event = self.newest_event.filter(plausible);
        self.newest_event = self.newest_event.max(news(entries).filter(plausible).max());
        if let Some(newest) = self.newest_event {
            #[expect(clippy::cast_precision_loss, reason = "seconds, exact for 200 million years")]
            metrics.last_event_timestamp_seconds.set(newest.unix_timestamp() as f64);
        }
        self.parts.health.update(|snapshot| {
            snapshot.database.last_commit_at = Some(now);
            snapshot.database.last_event_at = self.newest_event;
        });
    }
}

/// Returns the momenta of live events: retained messages are from the past.
fn news(entries: &[DecodedMessage]) -> impl Iterator<Item = OffsetDateTime> {
    entries
        .iter()
        .filter(|(message, _)| !message.retain)
        .filter_map(|(_, result)| result.as_ref().ok().map(Event::momentum))
}

/// Returns true if the next process does not need the item: it has it in the spool, or finds the
/// session and the earlier connection as they are. A lost session would not be detected again.
fn is_best_effort(decoded: &DecodedItem) -> bool {
    if decoded.token().is_some_and(|token| token.id().is_spooled()) {
        return true;
    }
    match decoded {
        DecodedItem::Message(..) | DecodedItem::Connection(ConnectionEvent::Gap(_), _) => false,
        DecodedItem::Connection(ConnectionEvent::Opened { session_present, .. }, _) => {
            *session_present
        }
        DecodedItem::Connection(
            ConnectionEvent::Closed { .. } | ConnectionEvent::Unsubscribed { .. },
            _,
        ) => true,
    }
}

fn into_entry(decoded: DecodedItem) -> Option<DecodedMessage> {
    match decoded {
        DecodedItem::Message(message, result) => Some((message, result)),
        DecodedItem::Connection(..) => None,
    }
}
