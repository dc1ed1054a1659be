//! Tests of the writer, on a real file.

mod bypass;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::WallClock;
use crate::spool::problem;
use crate::spool::writer::{SpoolWriter, WriterEnd, WriterOutputs};
use crate::stream::ack::{AckToken, ConnectionId};
use crate::stream::connection_event::ConnectionName;
use crate::stream::message::{Feedback, Message};
use crate::telemetry::{Health, Metrics};

const DEADLINE: Duration = Duration::from_secs(60);

const PAYLOAD: usize = 2000;

/// A writer with its file and the other ends of its channels.
struct WriterRig {
    dir: tempfile::TempDir,
    file: SpoolFile,
    cursors: SpoolCursors,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    writer: SpoolWriter,
    ends: ChannelEnds,
    interrupt: CancellationToken,
}

struct ChannelEnds {
    intake: Option<mpsc::Sender<StreamItem>>,
    decode: mpsc::Receiver<StreamItem>,
    session: mpsc::Receiver<Feedback>,
    sent: u64,
}

impl ChannelEnds {
    fn send(&mut self, payload: usize) {
        self.sent += 1;
        let message = Message {
            topic: "topic".into(),
            payload: Bytes::from(vec![0; payload]),
            received_at: OffsetDateTime::UNIX_EPOCH,
            qos: 1,
            retain: false,
            ack: Some(AckToken::new(ConnectionId(1), self.sent)),
            permit: None,
        };
        self.send_item(StreamItem::Message(message));
    }

    fn send_item(&mut self, item: StreamItem) {
        self.intake.as_ref().unwrap().try_send(item).unwrap();
    }

    /// Waits for a commit, and returns its deliveries in order.
    async fn committed(&mut self) -> Vec<u64> {
        let feedback = within(self.session.recv()).await;
        let Some(Feedback::Committed(committed)) = feedback else { panic!("{feedback:?}") };
        committed.deliveries().map(|id| id.sequence).collect()
    }
}

impl WriterRig {
    async fn new(max_size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = SpoolFile::open(&path_in(dir.path())).await.unwrap();
        let (intake, receiver) = mpsc::channel(16);
        let (decode, decoded) = mpsc::channel(16);
        let (session, feedback) = mpsc::channel(16);
        let outputs = WriterOutputs { decode, session };
        let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
        let started = Instant::now();
        let clock = WallClock::simulated(move || OffsetDateTime::UNIX_EPOCH + started.elapsed());
        let telemetry = (Arc::clone(&health), Arc::clone(&metrics));
        let writer = SpoolWriter::new("acme".into(), receiver, outputs, max_size, telemetry, clock);
        let ends =
            ChannelEnds { intake: Some(intake), decode: decoded, session: feedback, sent: 0 };
        let (cursors, interrupt) = (SpoolCursors::new(0), CancellationToken::new());
        Self { dir, file, cursors, health, metrics, writer, ends, interrupt }
    }

    /// Runs the writer next to `test`, which ends it.
    async fn run(
        &mut self,
        test: impl AsyncFnOnce(&mut ChannelEnds, &SpoolCursors, &Health),
    ) -> Result<WriterEnd, SpoolError> {
        let writing = self.writer.run(&mut self.file, &self.cursors, &self.interrupt);
        let testing = test(&mut self.ends, &self.cursors, &self.health);
        within(async { tokio::join!(writing, testing).0 }).await
    }

    /// Lets the writer write everything that was sent.
    async fn run_to_end(&mut self) {
        let end = self.run(async |ends, _, _| ends.intake = None).await;
        assert_eq!(end, Ok(WriterEnd::Finished));
    }

    fn logged(&self) -> u64 {
        fs::metadata(wal(self.dir.path())).unwrap().len()
    }
}

fn opened() -> StreamItem {
    let connection = ConnectionName {
        client_id: "acme".into(),
        instance: uuid::Uuid::nil(),
        id: ConnectionId(1),
    };
    let event = ConnectionEvent::Opened {
        connection,
        at: OffsetDateTime::UNIX_EPOCH,
        session_present: true,
        filters: Vec::new(),
        spool_dir: None,
    };
    StreamItem::Connection(event, None)
}

/// Returns what the rows of this many messages count.
fn cost(messages: u64) -> SpoolDepth {
    let row = SpoolRow {
        received_at: 0,
        topic: Some("topic".into()),
        payload: vec![0; PAYLOAD].into(),
        qos: 1,
        retain: false,
    };
    SpoolDepth { rows: messages, messages, bytes: messages * row.cost() }
}

/// Limits a future in real time, also if the time of the test is paused.
async fn within<T>(future: impl Future<Output = T>) -> T {
    let started = std::time::Instant::now();
    let expired = async {
        while started.elapsed() < DEADLINE {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        done = future => done,
        () = expired => panic!("not within {DEADLINE:?}"),
    }
}

async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    within(met).await;
}

fn events(health: &Health) -> u64 {
    health.read(|s| s.spool.as_ref().map_or(0, |spool| spool.events))
}

fn database_is_up(health: &Health, up: bool) {
    health.update(|s| s.database.up = up);
}

#[tokio::test]
async fn items_are_on_disk_once_acknowledged() {
    let mut rig = WriterRig::new(1_000_000).await;
    rig.ends.send_item(opened());
    rig.ends.send(PAYLOAD);
    rig.ends.send(PAYLOAD);
    rig.run_to_end().await;
    let persisted = rig.ends.session.recv().await;
    assert!(matches!(persisted, Some(Feedback::Persisted(ConnectionEvent::Opened { .. }))));
    assert_eq!(rig.ends.committed().await, [1, 2]);
    assert_eq!(ids(&mut rig.file).await, [1, 2, 3]);
    assert_eq!((*rig.cursors.appended.borrow(), events(&rig.health)), (3, 2));
    assert_eq!(rig.metrics.spool_events.get(), Some(2));
    rig.writer.close_outputs();
    assert!(rig.ends.decode.recv().await.is_none());
    assert!(rig.ends.session.recv().await.is_none());
}

#[tokio::test]
async fn committed_rows_are_deleted_at_the_end() {
    let mut rig = WriterRig::new(1_000_000).await;
    for _ in 0..3 {
        rig.ends.send(PAYLOAD);
    }
    rig.run_to_end().await;
    for id in 1..=3 {
        rig.cursors.forward(id, cost(1));
    }
    rig.cursors.done_through(2);
    assert_eq!(rig.writer.finish(&mut rig.file, &rig.cursors).await, Ok(cost(1)));
    assert_eq!((ids(&mut rig.file).await, events(&rig.health)), (vec![3], 1));
}

#[tokio::test]
async fn emptied_file_corrects_the_depth_and_shrinks() {
    let mut rig = WriterRig::new(1_000_000).await;
    append(&mut rig.file, 1..=1000).await;
    assert_eq!(rig.writer.adopt(&mut rig.file).await, Ok(1000));
    assert_eq!(events(&rig.health), 1000);
    rig.file.settle().await.unwrap();
    let length = || fs::metadata(path_in(rig.dir.path())).unwrap().len();
    let full = length();
    // The rows were subtracted before, by a delete that failed.
    rig.cursors.done_through(1000);
    let left = rig.writer.finish(&mut rig.file, &rig.cursors).await;
    assert_eq!(left, Ok(SpoolDepth::default()));
    rig.file.settle().await.unwrap();
    assert!(length() < full / 10, "{} of {full} bytes", length());
}

#[tokio::test]
async fn a_full_spool_waits_for_deleted_rows() {
    let mut rig = WriterRig::new(cost(2).bytes).await;
    for _ in 0..3 {
        rig.ends.send(PAYLOAD);
    }
    let end = rig.run(async |ends, cursors, health| {
        assert_eq!(ends.committed().await, [1, 2]);
        until(|| problem::is_reported(health)).await;
        let problem = health.read(|s| s.spool.clone().and_then(|spool| spool.problem)).unwrap();
        let bytes = cost(2).bytes;
        assert!(problem.contains(&format!("({bytes} bytes of {bytes})")), "{problem}");
        cursors.forward(1, cost(1));
        cursors.done_through(1);
        assert_eq!(ends.committed().await, [3]);
        until(|| !problem::is_reported(health)).await;
        ends.intake = None;
    });
    assert_eq!(end.await, Ok(WriterEnd::Finished));
    assert_eq!((ids(&mut rig.file).await, events(&rig.health)), (vec![2, 3], 2));
}

#[tokio::test]
async fn a_full_spool_keeps_receiving() {
    let mut rig = WriterRig::new(1).await;
    rig.ends.send(PAYLOAD);
    let end = rig.run(async |ends, cursors, health| {
        assert_eq!(ends.committed().await, [1], "an item larger than the spool is written alone");
        ends.send(PAYLOAD);
        until(|| problem::is_reported(health)).await;
        ends.send(PAYLOAD);
        cursors.done.send_modify(|_| {});
        let intake = ends.intake.clone().unwrap();
        until(|| intake.capacity() == intake.max_capacity()).await;
        ends.intake = None;
        drop(intake);
        for id in 1..=2 {
            cursors.forward(id, cost(1));
            cursors.done_through(id);
            assert_eq!(ends.committed().await, [id + 1]);
        }
    });
    assert_eq!(end.await, Ok(WriterEnd::Finished));
}

#[tokio::test]
async fn groups_are_bounded_in_bytes() {
    const MIB: usize = 1024 * 1024;
    let mut rig = WriterRig::new(1024 * 1024 * 1024).await;
    for payload in [17 * MIB, 6 * MIB, 6 * MIB, 6 * MIB] {
        rig.ends.send(payload);
    }
    rig.run_to_end().await;
    assert_eq!(rig.ends.committed().await, [1]);
    assert_eq!(rig.ends.committed().await, [2, 3]);
    assert_eq!(rig.ends.committed().await, [4]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_writer_writes_nothing() {
    let mut rig = WriterRig::new(1_000_000).await;
    let before = rig.logged();
    let interrupt = rig.interrupt.clone();
    let end = rig.run(async |ends, _, health| {
        sleep(Duration::from_secs(5)).await;
        assert!(!problem::is_reported(health));
        ends.send(PAYLOAD);
        until(|| events(health) == 1).await;
        interrupt.cancel();
    });
    assert_eq!(end.await, Ok(WriterEnd::Interrupted));
    let written = rig.logged();
    assert!(written > before);
    rig.interrupt = CancellationToken::new();
    let interrupt = rig.interrupt.clone();
    let end = rig.run(async |_, _, _| {
        sleep(Duration::from_secs(5)).await;
        interrupt.cancel();
    });
    assert_eq!(end.await, Ok(WriterEnd::Interrupted));
    assert_eq!(rig.logged(), written);
}

#[tokio::test(start_paused = true)]
async fn a_problem_ends_once_the_disk_works() {
    let mut rig = WriterRig::new(1_000_000).await;
    problem::report(&rig.health, "the disk does not work".into());
    let end = rig.run(async |ends, _, health| {
        until(|| !problem::is_reported(health)).await;
        ends.intake = None;
    });
    assert_eq!(end.await, Ok(WriterEnd::Finished));
}

#[tokio::test(start_paused = true)]
async fn open_connections_are_refreshed_while_rows_wait() {
    for (messages, database, refreshed) in
        [(0, true, false), (0, false, true), (1, true, true), (1, false, true)]
    {
        let mut rig = WriterRig::new(1_000_000).await;
        database_is_up(&rig.health, database);
        rig.ends.send_item(opened());
        for _ in 0..messages {
            rig.ends.send(PAYLOAD);
        }
        let mut reader = rig.file.reader(&path_in(rig.dir.path())).await.unwrap();
        let end = rig.run(async |ends, cursors, _| {
            until(|| *cursors.appended.borrow() > 0).await;
            sleep(Duration::from_secs(25)).await;
            let mut seen = reader.last_seen().await.unwrap().unwrap();
            while refreshed && seen.seen_at < 10_000_000_000 {
                sleep(Duration::from_millis(1)).await;
                seen = reader.last_seen().await.unwrap().unwrap();
            }
            assert!(refreshed || seen.seen_at < 10_000_000_000, "{messages} {database}");
            ends.intake = None;
        });
        assert_eq!(end.await, Ok(WriterEnd::Finished));
    }
}

#[tokio::test]
async fn an_unnoticed_end_is_reported_once() {
    let mut rig = WriterRig::new(1_000_000).await;
    rig.ends.send_item(opened());
    rig.run_to_end().await;
    let mut next = WriterRig::new(1_000_000).await;
    next.file = rig.file;
    for appended in [1, 2] {
        assert_eq!(next.writer.adopt(&mut next.file).await, Ok(appended));
        next.run(async |ends, _, _| ends.intake = None).await.unwrap();
    }
    assert_eq!(ids(&mut next.file).await, [1, 2]);
    let persisted = next.ends.session.recv().await;
    assert!(matches!(persisted, Some(Feedback::Persisted(ConnectionEvent::Closed { .. }))));
}
