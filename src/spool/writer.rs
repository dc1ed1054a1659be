//! Takes what the session passes on, makes it durable in groups, and passes on the right to
//! acknowledge it. The group is what has come while the fsync before it ran.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cursors::SpoolCursors;
use super::error::SpoolError;
use super::last_seen::{ConnectionMarker, ended_without_notice};
use super::row::{SpoolRow, time as at};
use super::storage::{LastSeenChange, SpoolChanges, SpoolDepth, StorageFile};
use crate::ack::{AckToken, Committed};
use crate::clock::WallClock;
use crate::message::{Feedback, StreamItem};
use crate::progress::{DISK, HAND_OVER, during, idle, tick};
use crate::telemetry::{Health, Metrics};

/// Most rows of one transaction: far more than a broker's window, few enough that a crash repeats
/// little.
const GROUP: usize = 1000;

/// Payload bytes of one transaction, about; a larger message goes alone.
const GROUP_BYTES: usize = 16 * 1024 * 1024;

/// How often figures are refreshed.
const TICK: Duration = Duration::from_secs(1);

/// Between two tries to write to a disk in trouble.
const RETRY: Duration = Duration::from_secs(1);

/// The appending part.
#[derive(Debug)]
pub(super) struct SpoolWriter {
    client_id: String,
    intake: mpsc::Receiver<StreamItem>,
    /// `None` once everything is done.
    outlets: Option<WriterOutputs>,
    max_size: u64,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    clock: WallClock,
    /// Taken in and not durable yet, in order. Invariant: nothing leaves it before it is on disk
    /// or, where the disk is of no use, with the next stage.
    pending: VecDeque<StreamItem>,
    /// Nothing more comes.
    closed: bool,
    depth: SpoolDepth,
    next_id: u64,
    /// Rows up to this one are deleted.
    deleted: u64,
    marker: ConnectionMarker,
    /// Whether the end of an earlier process' connection was told.
    predecessor_reported: bool,
}

/// Where things go.
#[derive(Debug)]
pub(super) struct WriterOutputs {
    /// What passes the disk by.
    pub decode: mpsc::Sender<StreamItem>,
    /// What may be acknowledged.
    pub session: mpsc::Sender<Feedback>,
}

/// Proves that rows were synced to disk.
#[derive(Debug)]
pub struct SyncProof(());

/// Why [`SpoolWriter::run`] returned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WriterEnd {
    /// Everything that came is durable, and nothing more comes.
    Finished,
    /// Asked to.
    Interrupted,
}

impl SpoolWriter {
    pub fn new(
        client_id: String,
        intake: mpsc::Receiver<StreamItem>,
        outlets: WriterOutputs,
        max_size: u64,
        (health, metrics): (Arc<Health>, Arc<Metrics>),
        clock: WallClock,
    ) -> Self {
        Self {
            client_id,
            intake,
            outlets: Some(outlets),
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

    /// Lets the stages behind end.
    pub fn close_outputs(&mut self) {
        self.outlets = None;
    }

    /// Takes a file that was just opened; returns the last id in it. A connection that a process
    /// before left open ended when that was last known to live.
    pub async fn take_over(&mut self, file: &mut impl StorageFile) -> Result<u64, SpoolError> {
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

    /// Appends until nothing more comes, or it is interrupted. Not to be dropped half-way, but for
    /// the end of everything: what is durable is owed to the session.
    pub async fn run(
        &mut self,
        file: &mut impl StorageFile,
        progress: &SpoolCursors,
        interrupt: &CancellationToken,
    ) -> Result<WriterEnd, SpoolError> {
        let mut done = progress.done.subscribe();
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
            let written = match self.write_some(file, progress).await {
                // Nothing to write must not leave it in trouble that is over.
                Ok(false) if self.pending.is_empty() && self.is_in_trouble() => {
                    file.touch().await.map(|()| true)
                }
                written => written,
            };
            match written {
                Ok(true) => self.is_well(),
                Ok(false) if self.pending.is_empty() => {}
                Ok(false) => {
                    report_problem(&self.health, self.full());
                    wait_for_commit(RETRY, &mut done).await;
                }
                Err(error @ (SpoolError::NoSpace | SpoolError::Unavailable(_))) => {
                    report_problem(&self.health, error.to_string());
                    let passed = self.bypass(progress).await;
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

    /// Deletes what is committed, at the end; returns what is left.
    pub async fn finish(
        &mut self,
        file: &mut impl StorageFile,
        progress: &SpoolCursors,
    ) -> Result<SpoolDepth, SpoolError> {
        self.write_some(file, progress).await?;
        self.publish(file).await?;
        Ok(self.depth)
    }

    /// Waits for something to write. What is to be deleted goes with it, or a tick later alone: a
    /// transaction of its own for each commit of the database would double the fsyncs.
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
                Ok(intake) => self.pending.push_back(intake),
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    /// Writes what fits and deletes what is done, durably. False if nothing of what is pending went
    /// to disk.
    async fn write_some(
        &mut self,
        file: &mut impl StorageFile,
        progress: &SpoolCursors,
    ) -> Result<bool, SpoolError> {
        let done = *progress.done.borrow();
        let freed = progress.delete_through(done);
        self.depth = self.depth.minus(freed);
        let (rows, depth) = self.group();
        let now = Instant::now();
        let at = self.clock.now_utc();
        let database_records = self.depth.messages == 0 && self.health.read(|s| s.database.up);
        let last_seen =
            self.marker.change(self.pending.range(..rows.len()), database_records, (now, at));
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
            // Also where an earlier delete failed, and its rows were counted out already.
            self.depth = SpoolDepth::default();
        }
        self.depth = self.depth.plus(depth);
        self.marker.wrote(last_seen, now);
        self.acknowledge(count, progress).await;
        if self.depth == SpoolDepth::default() {
            during(DISK, file.shrink()).await?;
        }
        Ok(count > 0)
    }

    /// The longest run of what is pending that may be written together.
    fn group(&self) -> (Vec<(u64, SpoolRow<'_>)>, SpoolDepth) {
        let at = self.clock.now_utc();
        let mut rows = Vec::new();
        let mut depth = SpoolDepth::default();
        let mut size = 0;
        for (id, intake) in (self.next_id..).zip(self.pending.iter().take(GROUP)) {
            let row = SpoolRow::from_item(intake, at);
            let held = self.depth.bytes + depth.bytes;
            // One that is larger than the whole spool gets in alone, or it never would.
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

    /// The first `count` of what was pending are durable.
    async fn acknowledge(&mut self, count: usize, progress: &SpoolCursors) {
        if count == 0 {
            return;
        }
        self.next_id += count as u64;
        progress.appended.send_replace(self.next_id - 1);
        let mut tokens: Vec<AckToken> = Vec::with_capacity(count);
        let mut feedbacks = Vec::new();
        for intake in self.pending.drain(..count) {
            match intake {
                StreamItem::Message(message) => tokens.extend(message.ack),
                StreamItem::Connection(event, _) => feedbacks.push(Feedback::Persisted(event)),
            }
        }
        if !tokens.is_empty() {
            feedbacks.push(Feedback::Committed(Committed::new(tokens, &SyncProof(()))));
        }
        let Some(WriterOutputs { session, .. }) = &self.outlets else { return };
        for feedback in feedbacks {
            // A session that is gone needs no answer: the broker delivers again.
            let _ = during(HAND_OVER, session.send(feedback)).await;
        }
    }

    /// The disk is of no use: what came goes straight to the database, if that is well and has no
    /// earlier rows to be handed. It is acknowledged after its commit, as without a spool.
    async fn bypass(&mut self, progress: &SpoolCursors) -> bool {
        if !progress.has_caught_up() || !self.health.read(|s| s.database.up) {
            return false;
        }
        let Some(WriterOutputs { decode, .. }) = &self.outlets else { return false };
        while !self.pending.is_empty() {
            let reserved = idle(tokio::time::timeout(RETRY, decode.reserve())).await;
            let Ok(Ok(place)) = reserved else { return false };
            let Some(intake) = self.pending.pop_front() else { break };
            self.marker.bypassed(&intake, self.clock.now_utc());
            if let StreamItem::Message(message) = &intake
                && message.ack.is_some()
            {
                progress.bypass(1);
            }
            place.send(intake);
        }
        true
    }

    /// While there is no file: takes in what comes, and passes it by where that is possible.
    pub async fn run_without_disk(&mut self, progress: &SpoolCursors) {
        tick();
        if self.pending.is_empty() && !self.closed {
            self.receive(&CancellationToken::new()).await;
        }
        self.top_up();
        if self.pending.is_empty() || !self.bypass(progress).await {
            tokio::time::sleep(RETRY).await;
        }
    }

    fn full(&self) -> String {
        format!(
            "the spool has reached spool.max_size ({} bytes of {}): nothing more is taken or \
             acknowledged until the database takes what it holds",
            self.depth.bytes, self.max_size
        )
    }

    fn is_in_trouble(&self) -> bool {
        self.health.read(|s| s.spool.as_ref().is_some_and(|s| s.problem.is_some()))
    }

    fn is_well(&self) {
        if self.is_in_trouble() {
            tracing::info!("the spool takes messages again");
            self.health.update(|s| s.spool.get_or_insert_default().problem = None);
        }
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

/// Says once what is wrong with the spool.
pub(super) fn report_problem(health: &Health, problem: String) {
    // The figures in it grow; it is the same trouble.
    let begins = |text: &str| text.chars().take(32).collect::<String>();
    let known = health.read(|s| Some(begins(s.spool.as_ref()?.problem.as_deref()?)));
    if known != Some(begins(&problem)) {
        tracing::error!(problem, "the spool is in trouble; holding what cannot be written");
    }
    health.update(|snapshot| snapshot.spool.get_or_insert_default().problem = Some(problem));
}

/// Waits until the database has taken more, at most for so long.
async fn wait_for_commit(limit: Duration, done: &mut watch::Receiver<u64>) {
    let _ = tokio::time::timeout(limit, done.changed()).await;
}
