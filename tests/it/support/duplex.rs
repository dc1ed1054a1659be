//! A connection of the scripted broker on which writing and reading do not wait for each other, as
//! with a real broker. Packets are queued, and a PINGREQ is answered after everything queued before
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::process::background;
use super::scripted_broker::{BridgePacket, PINGRESP, ScriptedPublish, read_from_bridge};
use super::wait::SOON;

/// Capacity of the queues: more than any test queues, and as many answers.
const ROOM: usize = 200_000;

/// A socket that accepts nothing for this long is blocked.
const STILL: Duration = Duration::from_secs(1);

/// A connection with independent reading and writing. Dropping it ends it.
pub struct DuplexConnection {
    outgoing: mpsc::Sender<Vec<u8>>,
    incoming: mpsc::Receiver<BridgePacket>,
    counts: Arc<DuplexCounts>,
    queued: usize,
    reset: CancellationToken,
    end: CancellationToken,
}

#[derive(Default)]
struct DuplexCounts {
    /// Packets that the socket accepted, without PINGRESPs.
    written: AtomicUsize,
    pings: AtomicUsize,
}

impl DuplexConnection {
    /// Takes over a stream that has carried only whole packets so far.
    pub fn over(stream: TcpStream) -> Self {
        let (outgoing, to_write) = mpsc::channel(ROOM);
        let (read, incoming) = mpsc::channel(ROOM);
        let counts = Arc::<DuplexCounts>::default();
        let (reset, end) = (CancellationToken::new(), CancellationToken::new());
        let link =
            DuplexTask { outgoing: outgoing.downgrade(), to_write, read, counts: counts.clone() };
        background().spawn(link.run(stream, reset.clone(), end.clone()));
        Self { outgoing, incoming, counts, queued: 0, reset, end }
    }

    /// Queues a message.
    pub fn publish(&mut self, delivery: ScriptedPublish<'_>) {
        self.queued += 1;
        self.outgoing
            .try_send(delivery.packet())
            .expect("a test queued more than there is room for");
    }

    /// Returns the next packet other than PINGREQ. Panics at the end of the connection, and if
    /// nothing arrives.
    pub async fn next(&mut self) -> BridgePacket {
        let next = tokio::time::timeout(SOON, self.incoming.recv()).await;
        next.expect("the bridge sent nothing").expect("the bridge closed the connection")
    }

    /// Counts the PINGREQs so far.
    pub fn pings(&self) -> usize {
        self.counts.pings.load(Ordering::SeqCst)
    }

    /// True if queued messages have not been accepted by the socket.
    pub fn has_waiting(&self) -> bool {
        self.counts.written.load(Ordering::SeqCst) < self.queued
    }

    /// Waits until the socket accepts no more queued packets because the bridge does not read.
    pub async fn until_blocked(&self) {
        let started = Instant::now();
        loop {
            let before = self.counts.written.load(Ordering::SeqCst);
            tokio::time::sleep(STILL).await;
            let still = self.counts.written.load(Ordering::SeqCst) == before;
            if still && self.has_waiting() {
                return;
            }
            assert!(self.has_waiting(), "the bridge read all {} messages", self.queued);
            assert!(started.elapsed() < SOON, "the bridge goes on reading: {before} messages");
        }
    }

    /// Ends the connection by a reset, including everything in flight.
    pub fn reset(self) {
        self.reset.cancel();
    }
}

impl Drop for DuplexConnection {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// State of the task that writes.
struct DuplexTask {
    /// Sender for PINGRESPs. It is weak, or the queue would never end.
    outgoing: mpsc::WeakSender<Vec<u8>>,
    to_write: mpsc::Receiver<Vec<u8>>,
    read: mpsc::Sender<BridgePacket>,
    counts: Arc<DuplexCounts>,
}

impl DuplexTask {
    async fn run(self, mut stream: TcpStream, reset: CancellationToken, end: CancellationToken) {
        let Self { outgoing, to_write, read, counts } = self;
        let (from, to) = stream.split();
        tokio::select! {
            () = read_all(from, &outgoing, &read, &counts) => {}
            () = write_all(to, to_write, &counts) => {}
            () = reset.cancelled() => {}
            () = end.cancelled() => {}
        }
        if reset.is_cancelled() {
            let _ = stream.set_zero_linger();
        }
    }
}

/// Reads until the end of the connection.
async fn read_all(
    mut from: impl AsyncRead + Unpin,
    outgoing: &mpsc::WeakSender<Vec<u8>>,
    read: &mpsc::Sender<BridgePacket>,
    counts: &DuplexCounts,
) {
    while let Ok(packet) = read_from_bridge(&mut from).await {
        if packet != BridgePacket::Pingreq {
            let _ = read.try_send(packet);
            continue;
        }
        counts.pings.fetch_add(1, Ordering::SeqCst);
        if let Some(outgoing) = outgoing.upgrade() {
            let _ = outgoing.try_send(PINGRESP.to_vec());
        }
    }
}

/// Writes queued packets. Never returns, because packets sent by the bridge before it closed are
/// still to be read.
async fn write_all(
    mut to: impl AsyncWrite + Unpin,
    mut to_write: mpsc::Receiver<Vec<u8>>,
    counts: &DuplexCounts,
) {
    while let Some(packet) = to_write.recv().await {
        if to.write_all(&packet).await.is_err() {
            break;
        }
        if packet != PINGRESP {
            counts.written.fetch_add(1, Ordering::SeqCst);
        }
    }
    std::future::pending::<()>().await;
}
