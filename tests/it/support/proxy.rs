//! A TCP proxy that breaks connections: it cuts, stalls, delays, refuses and truncates.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::process::{background, free_port, loopback};
pub use super::traffic::{Direction, TrafficObserver};

/// Bytes read at once from one side.
const CHUNK: usize = 16 * 1024;

/// A duration longer than any test.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, Default)]
struct ProxyRules {
    /// Counts the changes, so that tasks can wait for one.
    version: u64,
    /// Connections of an earlier epoch are reset.
    epoch: u64,
    refuse: bool,
    stalled: Vec<Direction>,
    delay: Duration,
    /// Connections numbered below are cut off from both ends without notice.
    silent_below: u64,
    /// Connections numbered below are reset.
    reset_below: u64,
    /// Connections without traffic for this long are closed.
    idle_timeout: Option<Duration>,
}

/// A proxy. Dropping it resets all its connections.
pub struct TcpProxy {
    port: u16,
    rules: watch::Sender<ProxyRules>,
    applied: watch::Receiver<u64>,
    shared: Arc<ProxyState>,
    task: AbortHandle,
}

struct ProxyState {
    target: SocketAddr,
    observer: Option<Arc<dyn TrafficObserver>>,
    accepted: AtomicU64,
    forwarded: [AtomicU64; 2],
    /// Limit by direction. `None` lets everything pass.
    limits: Mutex<[Option<ByteLimit>; 2]>,
}

/// Number of bytes that may still pass.
#[derive(Debug, Clone, Copy)]
struct ByteLimit {
    bytes: u64,
    then: LimitAction,
}

/// The end of a connection that has reached a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LimitAction {
    Cut,
    Silence,
}

impl TcpProxy {
    /// Starts a proxy in front of a port on loopback.
    pub async fn to(port: u16) -> Self {
        Self::observed(port, None).await
    }

    /// Starts a proxy with an observer of its traffic.
    pub async fn observed(port: u16, observer: Option<Arc<dyn TrafficObserver>>) -> Self {
        let shared = Arc::new(ProxyState {
            target: loopback(port),
            observer,
            accepted: AtomicU64::new(0),
            forwarded: [AtomicU64::new(0), AtomicU64::new(0)],
            limits: Mutex::default(),
        });
        let port = free_port();
        let (rules, rules_seen) =
            watch::channel(ProxyRules { version: 1, ..ProxyRules::default() });
        let (applied_tx, applied) = watch::channel(0);
        let task = background()
            .spawn(serve(port, Arc::clone(&shared), rules_seen, applied_tx))
            .abort_handle();
        let proxy = Self { port, rules, applied, shared, task };
        proxy.applied().await;
        proxy
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Counts the connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Counts the bytes forwarded so far.
    pub fn forwarded(&self, direction: Direction) -> u64 {
        self.shared.forwarded[direction as usize].load(Ordering::Relaxed)
    }

    /// Ends every refusal, stall, delay and limit. Bytes held back by a stall are delivered.
    pub async fn pass(&self) {
        *self.shared.limits.lock().unwrap() = [None, None];
        self.change(|rules| {
            rules.refuse = false;
            rules.stalled.clear();
            rules.delay = Duration::ZERO;
        })
        .await;
    }

    /// Resets every open connection (RST). New ones pass.
    pub async fn cut(&self) {
        self.change(|rules| rules.epoch += 1).await;
    }

    /// Resets every open connection and refuses new ones, as a port without a server does.
    pub async fn refuse(&self) {
        self.change(|rules| {
            rules.epoch += 1;
            rules.refuse = true;
        })
        .await;
    }

    /// Stops forwarding in this direction, including the end of the connection (half-open).
    pub async fn stall(&self, direction: Direction) {
        self.change(|rules| rules.stalled.push(direction)).await;
    }

    /// Applies [`TcpProxy::stall`] in both directions.
    pub async fn stall_both(&self) {
        self.change(|rules| rules.stalled.extend([Direction::Up, Direction::Down])).await;
    }

    /// Silences the existing connections on both sides, as a middlebox that forgets them.
    pub async fn half_open(&self) {
        let below = self.accepted();
        self.change(|rules| rules.silent_below = below).await;
    }

    /// Resets the connections left by [`TcpProxy::half_open`].
    pub async fn reset_half_open(&self) {
        self.change(|rules| rules.reset_below = rules.silent_below).await;
    }

    /// Closes (FIN) each connection, existing ones included, without traffic in either direction
    /// for this long, as load balancers do.
    pub async fn set_idle_timeout(&self, timeout: Duration) {
        self.change(|rules| rules.idle_timeout = Some(timeout)).await;
    }

    /// Delays every chunk by this long.
    pub async fn delay(&self, delay: Duration) {
        self.change(|rules| rules.delay = delay).await;
    }

    /// Lets that many bytes more pass in this direction, over all connections, then cuts the
    /// connection that carried the last of them, and every later one at its first byte.
    pub fn limit(&self, direction: Direction, bytes: u64) {
        self.set_limit(direction, ByteLimit { bytes, then: LimitAction::Cut });
    }

    /// Does the same as [`TcpProxy::limit`], but a connection at the limit stays open and silent, also
    /// when the other side closes.
    pub fn silence_after(&self, direction: Direction, bytes: u64) {
        self.set_limit(direction, ByteLimit { bytes, then: LimitAction::Silence });
    }

    fn set_limit(&self, direction: Direction, limit: ByteLimit) {
        self.shared.limits.lock().unwrap()[direction as usize] = Some(limit);
    }

    async fn change(&self, change: impl FnOnce(&mut ProxyRules)) {
        self.rules.send_modify(|rules| {
            change(rules);
            rules.version += 1;
        });
        self.applied().await;
    }

    async fn applied(&self) {
        let version = self.rules.borrow().version;
        let mut applied = self.applied.clone();
        applied.wait_for(|seen| *seen >= version).await.expect("the proxy could not listen");
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections until refused. They end with the set that holds them.
async fn serve(
    port: u16,
    shared: Arc<ProxyState>,
    mut rules: watch::Receiver<ProxyRules>,
    applied: watch::Sender<u64>,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut listener = None;
    loop {
        let now = rules.borrow_and_update().clone();
        if now.refuse {
            drop(listener.take());
            until_refused(port).await;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(loopback(port)).await?);
        }
        applied.send_replace(now.version);
        tokio::select! {
            changed = rules.changed() => if changed.is_err() { return Ok(()) },
            accepted = accept(listener.as_ref()) => {
                let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
                let epoch = rules.borrow().epoch;
                let link = ProxyLink {
                    number,
                    epoch,
                    shared: Arc::clone(&shared),
                    rules: rules.clone(),
                    last_traffic: Mutex::new(Instant::now()),
                };
                connections.spawn(link.run(accepted?));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Waits until the port is free. A child that this process is about to start holds a copy of the
/// closed listener until its exec.
async fn until_refused(port: u16) {
    while TcpStream::connect(loopback(port)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// One connection through the proxy.
struct ProxyLink {
    number: u64,
    epoch: u64,
    shared: Arc<ProxyState>,
    rules: watch::Receiver<ProxyRules>,
    last_traffic: Mutex<Instant>,
}

impl ProxyLink {
    async fn run(self, mut client: TcpStream) {
        // Zero linger makes closing a reset, also when the task is aborted. A regular end on both
        // sides reverts that.
        let _ = client.set_zero_linger();
        let Ok(mut server) = TcpStream::connect(self.shared.target).await else { return };
        let _ = server.set_zero_linger();
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let orderly = {
            let (client_read, client_write) = client.split();
            let (server_read, server_write) = server.split();
            let both = async {
                tokio::try_join!(
                    self.pump(Direction::Up, client_read, server_write),
                    self.pump(Direction::Down, server_read, client_write),
                )
            };
            let mut rules = self.rules.clone();
            tokio::select! {
                ended = both => ended.is_ok(),
                _ = rules.wait_for(|rules| self.is_reset(rules)) => false,
                () = self.until_idle() => true,
            }
        };
        if orderly {
            // Both ends are already shut down or idle, so there is nothing left to reset.
            linger_as_usual(&client);
            linger_as_usual(&server);
        }
    }

    async fn pump(
        &self,
        direction: Direction,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> io::Result<()> {
        let mut rules = self.rules.clone();
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = from.read(&mut buffer).await?;
            let now = rules.wait_for(|rules| self.may_pass(rules, direction)).await;
            let delay = now.map_err(io::Error::other)?.delay;
            tokio::time::sleep(delay).await;
            if count == 0 {
                return to.shutdown().await;
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let (allowed, then) = self.take(direction, rest.len());
                let (now, later) = rest.split_at(allowed);
                rest = later;
                if let Some(observer) = &self.shared.observer {
                    observer.bytes(self.number, direction, now).await;
                }
                let forwarded = &self.shared.forwarded[direction as usize];
                forwarded.fetch_add(allowed as u64, Ordering::Relaxed);
                *self.last_traffic.lock().unwrap() = Instant::now();
                to.write_all(now).await?;
                match then {
                    None => {}
                    Some(LimitAction::Cut) => return Err(io::ErrorKind::ConnectionAborted.into()),
                    Some(LimitAction::Silence) => {
                        rules.changed().await.map_err(io::Error::other)?;
                    }
                }
            }
        }
    }

    /// Waits until neither direction has had traffic for the idle timeout, or until the proxy is
    /// gone.
    async fn until_idle(&self) {
        let mut rules = self.rules.clone();
        loop {
            let timeout = rules.borrow_and_update().idle_timeout;
            let timeout = timeout.unwrap_or(NEVER);
            let due = *self.last_traffic.lock().unwrap() + timeout;
            if due <= Instant::now() {
                return;
            }
            let changed = tokio::time::timeout_at(due.into(), rules.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return;
            }
        }
    }

    fn is_reset(&self, rules: &ProxyRules) -> bool {
        rules.epoch != self.epoch || self.number < rules.reset_below
    }

    fn may_pass(&self, rules: &ProxyRules, direction: Direction) -> bool {
        !rules.stalled.contains(&direction) && self.number >= rules.silent_below
    }

    /// Returns how many of `count` bytes may pass now, and the fate of the connection after them.
    fn take(&self, direction: Direction, count: usize) -> (usize, Option<LimitAction>) {
        match &mut self.shared.limits.lock().unwrap()[direction as usize] {
            None => (count, None),
            Some(ByteLimit { bytes, then }) => {
                let allowed = count.min(usize::try_from(*bytes).unwrap_or(usize::MAX));
                *bytes -= allowed as u64;
                (allowed, (*bytes == 0).then_some(*then))
            }
        }
    }
}

fn linger_as_usual(stream: &TcpStream) {
    #[allow(deprecated, reason = "taking the zero linger back never blocks")]
    let _ = stream.set_linger(None);
}
