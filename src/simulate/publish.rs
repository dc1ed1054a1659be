//! Publishes a source at QoS 1 and counts what the broker acknowledged.
//!
//! One task drives rumqttc's event loop and one feeds it, side by side: the feeder fills the
//! window of un-acknowledged messages without waiting for each. Every connection gets a fresh
//! client, and what an earlier one left un-acknowledged is sent again first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions,
    Outgoing, Packet, QoS, TlsConfiguration, Transport,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::ledger::{PublishLedger, PublishReport};
use super::mismatch;
use super::rate::RateLimiter;
use super::source::{MessageSource, SimulatedMessage};
use crate::backoff::Backoff;
use crate::config::Reconnect;

/// A broker that went away is asked again this often.
const RECONNECT: Reconnect =
    Reconnect { min: Duration::from_millis(100), max: Duration::from_secs(5) };
/// Covers DNS, TCP, TLS and CONNACK.
const CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// Short, so that a half-open connection is noticed while someone watches.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Far above what an event takes.
const MAX_PACKET: usize = 1024 * 1024;
/// How long PUBACKs are waited for once told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Messages fed at a stretch before the event loop gets its turn.
const STRETCH: usize = 256;

/// Where to publish, and as whom.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// MQTT client identifier.
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<(String, SecretString)>,
    /// TLS; `None` is plain TCP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Most messages un-acknowledged at a time, at least one.
    pub max_inflight: u16,
}

/// Why nothing could be published. Once connected, nothing of the kind ends a run.
#[derive(Debug, thiserror::Error)]
#[error("could not connect to the broker at {host}:{port}: {cause}; {cure}")]
pub struct PublishError {
    host: String,
    port: u16,
    cause: String,
    cure: &'static str,
}

/// Both sides of a connection see it.
struct PublishState {
    ledger: Mutex<PublishLedger>,
    connected: AtomicBool,
    /// There is room, or a connection.
    changed: Notify,
}

/// How a connection ended.
enum PublishEnd {
    /// Everything is acknowledged, or enough.
    Finished,
    Lost(ConnectionError),
}

/// Publishes the source to its end, or until told to stop. `rate` is distinct events a second,
/// 0 as fast as they are acknowledged. `progress` is called every few seconds.
pub async fn publish(
    mut source: MessageSource,
    broker: &BrokerSettings,
    rate: u64,
    stop: CancellationToken,
    progress: impl Fn(PublishReport),
) -> Result<PublishReport, PublishError> {
    let state = PublishState {
        ledger: Mutex::new(PublishLedger::new(broker.max_inflight.max(1))),
        connected: AtomicBool::new(false),
        changed: Notify::new(),
    };
    let work = run(&mut source, broker, rate, &stop, &state);
    tokio::select! {
        result = work => result?,
        () = tell(&state, progress) => {}
        () = grace(&stop) => {}
    }
    Ok(state.ledger().report())
}

async fn tell(state: &PublishState, progress: impl Fn(PublishReport)) {
    loop {
        sleep(PROGRESS_EVERY).await;
        let report = state.ledger().report();
        progress(report);
    }
}

async fn grace(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(STOP_GRACE).await;
}

async fn run(
    source: &mut MessageSource,
    broker: &BrokerSettings,
    rate: u64,
    stop: &CancellationToken,
    state: &PublishState,
) -> Result<(), PublishError> {
    let mut backoff = Backoff::new(RECONNECT);
    let mut feeder = MessageFeeder {
        source,
        limiter: RateLimiter::new(rate),
        started: Instant::now(),
        stop,
        state,
    };
    let mut ever_connected = false;
    loop {
        let (client, mut event_loop) = connect(broker);
        let since = Instant::now();
        let ended = tokio::select! {
            ended = drive(&mut event_loop, state) => ended,
            () = feeder.feed(&client) => PublishEnd::Finished,
        };
        ever_connected |= state.connected.swap(false, Ordering::AcqRel);
        let PublishEnd::Lost(error) = ended else { return Ok(()) };
        if !ever_connected {
            return Err(refused(broker, &error).await);
        }
        state.ledger().connection_lost();
        backoff.was_up(since.elapsed());
        let wait = backoff.next(rand::rngs::StdRng::from_os_rng().random());
        tracing::warn!(cause = explain(&error).0, ?wait, "connection lost; connecting again");
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

fn connect(broker: &BrokerSettings) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
    options
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_max_packet_size(MAX_PACKET, MAX_PACKET)
        .set_inflight(broker.max_inflight.max(1));
    if let Some((username, password)) = &broker.credentials {
        options.set_credentials(username, password.expose_secret());
    }
    if let Some(tls) = &broker.tls {
        let tls = TlsConfiguration::Rustls(Arc::clone(tls));
        options.set_transport(Transport::tls_with_config(tls));
    }
    // Room for the whole window and the DISCONNECT: feeding never waits for the channel.
    let (client, mut event_loop) =
        AsyncClient::new(options, usize::from(broker.max_inflight.max(1)) + 1);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT_SECONDS);
    event_loop.set_network_options(network);
    (client, event_loop)
}

/// Polls until the connection ends. Never cancelled while it may go on: the whole event loop is
/// dropped with it.
async fn drive(event_loop: &mut EventLoop, state: &PublishState) -> PublishEnd {
    loop {
        match event_loop.poll().await {
            Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => state.ledger().sent(packet_id),
            Ok(Event::Incoming(Packet::PubAck(ack))) => state.acknowledged(ack.pkid),
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                state.connected.store(true, Ordering::Release);
                state.changed.notify_one();
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return PublishEnd::Finished,
            Ok(_) => {}
            Err(error) => return PublishEnd::Lost(error),
        }
    }
}

impl PublishState {
    fn ledger(&self) -> MutexGuard<'_, PublishLedger> {
        // Nothing panics while the lock is held, and a count that is off by one harms nobody.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the feeder for every PUBACK, never only for a batch of them: while the feeder holds
    /// back, the kernel delays its TCP ACK by 40 ms, and the broker the PUBACKs behind it.
    fn acknowledged(&self, packet_id: u16) {
        self.ledger().acknowledged(packet_id);
        self.changed.notify_one();
    }
}

/// Gives the client what there is to send. Outlives connections.
struct MessageFeeder<'a> {
    source: &'a mut MessageSource,
    limiter: RateLimiter,
    started: Instant,
    stop: &'a CancellationToken,
    state: &'a PublishState,
}

/// What the feeder does next.
enum FeedStep {
    Send(SimulatedMessage),
    Wait(Duration),
    /// The window is full.
    Full,
    /// All is told.
    End,
}

impl MessageFeeder<'_> {
    /// Ends at once if told to stop without a connection; otherwise asks for the DISCONNECT and
    /// leaves the end to the event loop.
    async fn feed(&mut self, client: &AsyncClient) {
        if !self.wait_for_connection().await {
            return;
        }
        let mut stretch = 0;
        loop {
            match self.next() {
                FeedStep::Send(message) => {
                    send(client, &message).await;
                    stretch += 1;
                    if stretch % STRETCH == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                FeedStep::Wait(wait) => tokio::select! {
                    () = sleep(wait) => {}
                    () = self.stop.cancelled() => {}
                },
                FeedStep::Full => self.state.changed.notified().await,
                FeedStep::End => break,
            }
        }
        while self.state.ledger().outstanding() > 0 {
            self.state.changed.notified().await;
        }
        // The channel has room, and an event loop that is gone ends this future anyway.
        let _ = client.disconnect().await;
        std::future::pending::<()>().await;
    }

    async fn wait_for_connection(&self) -> bool {
        while !self.state.connected.load(Ordering::Acquire) {
            tokio::select! {
                () = self.state.changed.notified() => {}
                () = self.stop.cancelled() => return false,
            }
        }
        true
    }

    fn next(&mut self) -> FeedStep {
        let mut ledger = self.state.ledger();
        if ledger.room() == 0 {
            return FeedStep::Full;
        }
        if let Some(message) = ledger.resend() {
            return FeedStep::Send(message.clone());
        }
        if self.source.at_event_start() {
            if self.stop.is_cancelled() {
                self.source.finish();
            } else if let Some(wait) =
                self.limiter.wait(self.started.elapsed(), self.source.events())
            {
                return FeedStep::Wait(wait);
            }
        }
        match self.source.next() {
            Some(message) => {
                ledger.send(message.clone());
                FeedStep::Send(message)
            }
            None => FeedStep::End,
        }
    }
}

async fn send(client: &AsyncClient, message: &SimulatedMessage) {
    let (topic, payload) = (message.topic.to_string(), message.payload.clone());
    // An error says that the event loop is gone: the ledger still holds the message.
    let _ = client.publish_bytes(topic, QoS::AtLeastOnce, false, payload).await;
}

async fn refused(broker: &BrokerSettings, error: &ConnectionError) -> PublishError {
    let mismatch = match error {
        ConnectionError::ConnectionRefused(_) => None,
        _ => mismatch::explain(&broker.host, broker.port, broker.tls.is_some()).await,
    };
    let (cause, cure) = mismatch.unwrap_or_else(|| explain(error));
    PublishError { host: broker.host.clone(), port: broker.port, cause, cure }
}

/// Cause and cure.
fn explain(error: &ConnectionError) -> (String, &'static str) {
    const UNREACHABLE: &str = "see that a broker listens there (--host, --port)";
    const CREDENTIALS: &str = "see --username and --password-file, and whom the broker lets in";
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword => {
                ("it refused user name or password".into(), CREDENTIALS)
            }
            ConnectReturnCode::NotAuthorized => ("it refused the client".into(), CREDENTIALS),
            ConnectReturnCode::BadClientId => {
                ("it refused the client id".into(), "give another --client-id")
            }
            _ => ("it refused the connection".into(), "see the broker's log"),
        },
        ConnectionError::Tls(tls) => {
            (format!("TLS failed: {tls}"), "see --ca, --cert and --key, and the broker's log")
        }
        ConnectionError::NetworkTimeout => ("it did not answer in time".into(), UNREACHABLE),
        ConnectionError::Io(io) => (io.to_string(), UNREACHABLE),
        other => (other.to_string(), "see the broker's log"),
    }
}
