//! Makes the items of the session durable in groups, and acknowledges each group after its fsync. A
//! group holds the items that arrived during the fsync of the group before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cursors::SpoolCursors;
use super::error::SpoolError;
use super::last_seen::{ConnectionMarker, ended_without_notice};
use super::problem;
use super::row::{SpoolRow, time as at};
use super::storage::{LastSeenChange, SpoolChanges, SpoolDepth, StorageFile};
use crate::clock::WallClock;
use crate::progress::{DISK, HAND_OVER, during, idle, tick};
use crate::stream::ack::{AckToken, Committed};
use crate::stream::message::{Feedback, StreamItem};
use crate::telemetry::{Health, Metrics};

/// Most rows of one transaction: far more than the window of a broker, and few enough that a crash
/// causes few redeliveries.
const GROUP: usize = 1000;

/// Approximate payload bytes of one transaction. A larger message is written alone.
const GROUP_BYTES: usize = 16 * 1024 * 1024;

/// Interval at which the metrics are refreshed.
const TICK: Duration = Duration::from_secs(1);

/// Wait between two attempts to write to a failing disk.
const RETRY: Duration = Duration::from_secs(1);

/// The part of the stage that writes.
#[derive(Debug)]
pub(super) struct SpoolWriter {
    client_id: String,
    intake: mpsc::Receiver<StreamItem>,
    /// `None` once every item is durable.
    outputs: Option<WriterOutputs>,
    max_size: u64,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    clock: WallClock,
    /// Received items that are not durable yet, in order. Invariant: an item leaves only when it is on
    /// disk or, while the disk is unusable, with the next stage.
    pending: VecDeque<StreamItem>,
    /// The intake is closed.
    closed: bool,
    depth: SpoolDepth,
    next_id: u64,
    /// Rows up to this one are deleted.
    deleted: u64,
    marker: ConnectionMarker,
    /// The end of the connection that an earlier process left open was reported.
    predecessor_reported: bool,
}

/// Outputs of the writer.
#[derive(Debug)]
pub(super) struct WriterOutputs {
    /// Items that bypass the disk.
    pub decode: mpsc::Sender<StreamItem>,
    /// Durable deliveries and events.
    pub session: mpsc::Sender<Feedback>,
}

/// Proof that rows were synced to disk.
#[derive(Debug)]
pub struct SyncProof(());

/// Reason why [`SpoolWriter::run`] returned without an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WriterEnd {
    /// The intake is closed and all its items are durable.
    Finished,
    /// The interrupt was cancelled.
    Interrupted,
}

impl SpoolWriter {
    pub fn new(
        client_id: String,
        intake: mpsc::Receiver<StreamItem>,
        outputs: WriterOutputs,
        max_size: u64,
        (health, metrics): (Arc<Health>, Arc<Metrics>),
        clock: WallClock,
    ) -> Self {
        Self {
            client_id,
            intake,
            outputs: Some(outputs),
            max_size,
            health,
            metrics,
            clock,
            pending: VecDeque::new(),
            closed: false,
            depth: SpoolDepth::default(),
            next_id: 1,
            deleted: 0,
            marker: ConnectionMarker::default(),
            predecessor_reported: false,
        }
    }

    /// Closes the outputs, so that the later stages drain and end.
    pub fn close_outputs(&mut self) {
        self.outputs = None;
    }

    /// Adopts a file that was just opened, and returns its last id. A connection that an earlier process
    /// left open is reported as ended at the time when that process was last known to run.
    pub async fn adopt(&mut self, file: &mut impl StorageFile) -> Result<u64, SpoolError> {
        let (depth, last) = file.depth().await?;
        self.depth = depth;
        self.next_id = self.next_id.max(last + 1);
        if !self.predecessor_reported {
            let now = self.clock.now_utc();
            if let Some(closed) = ended_without_notice(file, &self.client_id, now).await? {
                self.pending.push_front(StreamItem::Connection(closed, None));
            }
            self.predecessor_reported = true;
        }
        self.publish(file).await?;
        Ok(last)
    }

    /// Writes until the intake is closed or `interrupt` is cancelled. Must not be dropped before, except
    /// when the pipeline ends: the acknowledgements of durable items would be lost.
    pub async fn run(
        &mut self,
        file: &mut impl StorageFile,
        cursors: &SpoolCursors,
        interrupt: &CancellationToken,
    ) -> Result<WriterEnd, SpoolError> {
        let mut done = cursors.done.subscribe();
        let mut published = Instant::now();
        loop {
            tick();
            if interrupt.is_cancelled() {
                return Ok(WriterEnd::Interrupted);
            }
            if self.pending.is_empty() {
                if self.closed {
                    self.publish(file).await?;
                    return Ok(WriterEnd::Finished);
                }
                self.receive(interrupt).await;
            }
            self.top_up();
            let written = match self.write_some(file, cursors).await {
                // Without items to write, only a touch can show that the disk works again.
                Ok(false) if self.pending.is_empty() && problem::is_reported(&self.health) => {
                    file.touch().await.map(|()| true)
                }
                written => written,
            };
            match written {
                Ok(true) => problem::clear(&self.health),
                Ok(false) if self.pending.is_empty() => {}
                Ok(false) => {
                    problem::report(&self.health, self.full());
                    wait_for_commit(RETRY, &mut done).await;
                }
                Err(error @ (SpoolError::NoSpace | SpoolError::Unavailable(_))) => {
                    problem::report(&self.health, error.to_string());
                    let passed = self.bypass(cursors).await;
                    if !passed && error != SpoolError::NoSpace {
                        return Err(error);
                    }
                    if !passed {
                        wait_for_commit(RETRY, &mut done).await;
                    }
                }
                Err(damaged) => return Err(damaged),
            }
            file.limit_log().await?;
            if published.elapsed() >= TICK {
                published = Instant::now();
                self.publish(file).await?;
            }
        }
    }

    /// Deletes the committed rows at the end, and returns the content that is left.
    pub async fn finish(
        &mut self,
        file: &mut impl StorageFile,
        cursors: &SpoolCursors,
    ) -> Result<SpoolDepth, SpoolError> {
        self.write_some(file, cursors).await?;
        self.publish(file).await?;
        Ok(self.depth)
    }

    /// Waits for items to write. Committed rows are deleted in the same transaction, or after a tick in
    /// one of their own: a transaction for each commit of the database would double the fsyncs.
    async fn receive(&mut self, interrupt: &CancellationToken) {
        let mut received = Vec::new();
        tokio::select! {
            biased;
            count = self.intake.recv_many(&mut received, GROUP) => self.closed = count == 0,
            () = tokio::time::sleep(TICK) => {}
            () = interrupt.cancelled() => {}
        }
        self.pending.extend(received);
    }

    fn top_up(&mut self) {
        while self.pending.len() < GROUP {
            match self.intake.try_recv() {
                Ok(item) => self.pending.push_back(item),
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    /// Writes the items that fit and deletes the committed rows, durably. Returns false if no pending
    /// item was written.
    async fn write_some(
        &mut self,
        file: &mut impl StorageFile,
        cursors: &SpoolCursors,
    ) -> Result<bool, SpoolError> {
        let done = *cursors.done.borrow();
        let freed = cursors.delete_through(done);
        self.depth = self.depth.minus(freed);
        let (rows, depth) = self.group();
        let now = Instant::now();
        let at = self.clock.now_utc();
        let database_records = self.depth.messages == 0 && self.health.read(|s| s.database.up);
        let last_seen =
            self.marker.next_change(self.pending.range(..rows.len()), database_records, (now, at));
        let changes = SpoolChanges {
            append: &rows,
            delete_through: (done > self.deleted).then_some(done),
            last_seen: last_seen.clone(),
        };
        if rows.is_empty() && changes.delete_through.is_none() && last_seen == LastSeenChange::None
        {
            return Ok(false);
        }
        during(DISK, file.write(&changes)).await?;
        let count = rows.len();
        drop(rows);
        self.deleted = done;
        if done + 1 >= self.next_id {
            // Corrects the depth after a failed delete, whose rows were subtracted already.
            self.depth = SpoolDepth::default();
        }
        self.depth = self.depth.plus(depth);
        self.marker.record_write(last_seen, now);
        self.acknowledge(count, cursors).await;
        if self.depth == SpoolDepth::default() {
            during(DISK, file.shrink()).await?;
        }
        Ok(count > 0)
    }

    /// Returns the longest run of pending items that may be written together, with its sum.
    fn group(&self) -> (Vec<(u64, SpoolRow<'_>)>, SpoolDepth) {
        let at = self.clock.now_utc();
        let mut rows = Vec::new();
        let mut depth = SpoolDepth::default();
        let mut size = 0;
        for (id, item) in (self.next_id..).zip(self.pending.iter().take(GROUP)) {
            let row = SpoolRow::from_item(item, at);
            let held = self.depth.bytes + depth.bytes;
            // An item that is larger than the whole spool is written alone, or it would never be.
            let fits = held == 0 || held + row.cost() <= self.max_size;
            size += row.size();
            if !fits || (size > GROUP_BYTES && !rows.is_empty()) {
                break;
            }
            depth = depth.plus(SpoolDepth::of(&row));
            rows.push((id, row));
        }
        (rows, depth)
    }

    /// Acknowledges the first `count` pending items, which are durable now.
    async fn acknowledge(&mut self, count: usize, cursors: &SpoolCursors) {
        if count == 0 {
            return;
        }
        tracing::debug!(rows = count, "synced rows to the spool");
        self.next_id += count as u64;
        cursors.appended.send_replace(self.next_id - 1);
        let mut tokens: Vec<AckToken> = Vec::with_capacity(count);
        let mut feedbacks = Vec::new();
        for item in self.pending.drain(..count) {
            match item {
                StreamItem::Message(message) => tokens.extend(message.ack),
                StreamItem::Connection(event, _) => feedbacks.push(Feedback::Persisted(event)),
            }
        }
        if !tokens.is_empty() {
            feedbacks.push(Feedback::Committed(Committed::new(tokens, &SyncProof(()))));
        }
        let Some(WriterOutputs { session, .. }) = &self.outputs else { return };
        for feedback in feedbacks {
            // If the session has ended, the broker redelivers.
            let _ = during(HAND_OVER, session.send(feedback)).await;
        }
    }

    /// Disk unavailable: bypasses the spool and sends pending items directly to decoding, if the database
    /// is up and the backlog is empty. They are acknowledged after their commit, as without a spool.
    /// Returns true if no item is pending any more.
    async fn bypass(&mut self, cursors: &SpoolCursors) -> bool {
        if !cursors.has_caught_up() || !self.health.read(|s| s.database.up) {
            return false;
        }
        let Some(WriterOutputs { decode, .. }) = &self.outputs else { return false };
        while !self.pending.is_empty() {
            let reserved = idle(tokio::time::timeout(RETRY, decode.reserve())).await;
            let Ok(Ok(place)) = reserved else { return false };
            let Some(item) = self.pending.pop_front() else { break };
            self.marker.record_bypass(&item, self.clock.now_utc());
            if let StreamItem::Message(message) = &item
                && message.ack.is_some()
            {
                cursors.bypass(1);
            }
            place.send(item);
        }
        true
    }

    /// Runs one round without a file: receives items, and bypasses the disk if that is possible.
    pub async fn run_without_disk(&mut self, cursors: &SpoolCursors) {
        tick();
        if self.pending.is_empty() && !self.closed {
            self.receive(&CancellationToken::new()).await;
        }
        self.top_up();
        if self.pending.is_empty() || !self.bypass(cursors).await {
            tokio::time::sleep(RETRY).await;
        }
    }

    fn full(&self) -> String {
        format!(
            "the spool has reached spool.max_size ({} bytes of {}): no message is accepted or \
             acknowledged until the database has stored part of the backlog",
            self.depth.bytes, self.max_size
        )
    }

    async fn publish(&self, file: &mut impl StorageFile) -> Result<(), SpoolError> {
        let oldest_at = file.oldest().await?.map(at);
        let SpoolDepth { messages, bytes, .. } = self.depth;
        self.metrics.spool_events.set(i64::try_from(messages).unwrap_or(i64::MAX));
        self.metrics.spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let age = oldest_at.map_or(0.0, |at| (self.clock.now_utc() - at).as_seconds_f64());
        self.metrics.spool_oldest_seconds.set(age.max(0.0));
        self.health.update(|snapshot| {
            let spool = snapshot.spool.get_or_insert_default();
            (spool.events, spool.bytes, spool.oldest_at) = (messages, bytes, oldest_at);
        });
        Ok(())
    }
}

/// Waits until the database has committed more rows, at most for `limit`.
async fn wait_for_commit(limit: Duration, done: &mut watch::Receiver<u64>) {
    let _ = tokio::time::timeout(limit, done.changed()).await;
}
