//! Publishes the messages of a source at QoS 1 and counts the broker's acknowledgements.
//!
//! Two futures run concurrently: one polls rumqttc's event loop, and the feeder fills the window of
//! unacknowledged messages without waiting for each. Every connection uses a new client, and first
//! sends the messages that earlier connections left unacknowledged.

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
use crate::config::BackoffBounds;

/// Delays between attempts to reconnect to a lost broker.
const RECONNECT: BackoffBounds =
    BackoffBounds { min: Duration::from_millis(100), max: Duration::from_secs(5) };
/// Bound on DNS, TCP, TLS and CONNACK together, seconds.
const CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// MQTT keep-alive. It is short, so that an operator who watches the run soon sees a half-open
/// connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Maximum packet size, bytes, far above the size of an event.
const MAX_PACKET: usize = 1024 * 1024;
/// Longest wait for PUBACKs after a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Number of messages that the feeder passes before it yields to the event loop.
const FEED_BATCH: usize = 256;

/// The broker and the client's identity.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Host name or address of the broker.
    pub host: String,
    /// TCP port of the broker.
    pub port: u16,
    /// MQTT client identifier of the simulator.
    pub client_id: String,
    /// User name and password, if any.
    pub credentials: Option<(String, SecretString)>,
    /// TLS settings. `None` is plain TCP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Maximum number of unacknowledged messages, at least one.
    pub max_inflight: u16,
}

/// Error of the first connection. After a first connection, lost connections do not end a run.
#[derive(Debug, thiserror::Error)]
#[error("could not connect to the broker at {host}:{port}: {cause}; {hint}")]
pub struct PublishError {
    host: String,
    port: u16,
    cause: String,
    hint: &'static str,
}

/// The state that the event loop and the feeder share.
struct PublishState {
    ledger: Mutex<PublishLedger>,
    connected: AtomicBool,
    /// Notified when the window has room or a connection is up.
    changed: Notify,
}

/// The end of a connection.
enum PublishEnd {
    /// The run is complete or was stopped.
    Finished,
    Lost(ConnectionError),
}

/// Publishes the source to its end, or until `stop` is cancelled. `rate` is distinct events per
/// second, or 0 to publish as fast as the broker acknowledges. `progress` is called at its
/// interval.
pub async fn publish(
    mut source: MessageSource,
    broker: &BrokerSettings,
    rate: u64,
    stop: CancellationToken,
    (every, progress): (Duration, impl Fn(PublishReport)),
) -> Result<PublishReport, PublishError> {
    let state = PublishState {
        ledger: Mutex::new(PublishLedger::new(broker.max_inflight.max(1))),
        connected: AtomicBool::new(false),
        changed: Notify::new(),
    };
    let work = run(&mut source, broker, rate, &stop, &state);
    tokio::select! {
        result = work => result?,
        () = report_progress(&state, every, progress) => {}
        () = stop_deadline(&stop) => {}
    }
    Ok(state.ledger().report())
}

async fn report_progress(state: &PublishState, every: Duration, progress: impl Fn(PublishReport)) {
    loop {
        sleep(every).await;
        let report = state.ledger().report();
        progress(report);
    }
}

async fn stop_deadline(stop: &CancellationToken) {
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
            return Err(connection_failed(broker, &error).await);
        }
        state.ledger().connection_lost();
        backoff.was_up(since.elapsed());
        let wait = backoff.next(rand::rngs::StdRng::from_os_rng().random());
        let (error, hint) = explain(&error);
        tracing::warn!(error, hint, ?wait, "broker connection lost; reconnecting");
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
    // The channel has room for the whole window and the DISCONNECT, so that feeding never waits.
    let (client, mut event_loop) =
        AsyncClient::new(options, usize::from(broker.max_inflight.max(1)) + 1);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT_SECONDS);
    event_loop.set_network_options(network);
    (client, event_loop)
}

/// Polls until the connection ends. It is cancelled only together with the whole event loop,
/// because polling is not safe to cancel.
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
        // Nothing panics while the lock is held, and a wrong count would do no harm.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a PUBACK and wakes the feeder. Waking it only for a batch of PUBACKs would be slow:
    /// while it sends nothing, the kernel delays its TCP ACK by 40 ms, and the broker delays more
    /// PUBACKs.
    fn acknowledged(&self, packet_id: u16) {
        self.ledger().acknowledged(packet_id);
        self.changed.notify_one();
    }
}

/// The feeder passes messages to the clients. It outlives connections.
struct MessageFeeder<'a> {
    source: &'a mut MessageSource,
    limiter: RateLimiter,
    started: Instant,
    stop: &'a CancellationToken,
    state: &'a PublishState,
}

/// The next action of the feeder.
enum FeedStep {
    Send(SimulatedMessage),
    Wait(Duration),
    /// Wait, because the window is full.
    Full,
    /// Disconnect, because all messages are sent.
    End,
}

impl MessageFeeder<'_> {
    /// Feeds a client. Returns if the run is stopped without a connection. Otherwise it requests
    /// the DISCONNECT, and the event loop ends the connection.
    async fn feed(&mut self, client: &AsyncClient) {
        if !self.wait_for_connection().await {
            return;
        }
        let mut fed = 0;
        loop {
            match self.next() {
                FeedStep::Send(message) => {
                    send(client, &message).await;
                    fed += 1;
                    if fed % FEED_BATCH == 0 {
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
        // The channel has room, and the end of the event loop drops this future.
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
    // An error means that the event loop has ended. The ledger still holds the message.
    let _ = client.publish_bytes(topic, QoS::AtLeastOnce, false, payload).await;
}

async fn connection_failed(broker: &BrokerSettings, error: &ConnectionError) -> PublishError {
    let mismatch = match error {
        ConnectionError::ConnectionRefused(_) => None,
        _ => mismatch::explain(&broker.host, broker.port, broker.tls.is_some()).await,
    };
    let (cause, hint) = mismatch.unwrap_or_else(|| explain(error));
    PublishError { host: broker.host.clone(), port: broker.port, cause, hint }
}

/// Returns the cause of an error and a hint.
fn explain(error: &ConnectionError) -> (String, &'static str) {
    const UNREACHABLE: &str = "check that a broker listens there (--host, --port)";
    const CREDENTIALS: &str =
        "check --username and --password-file, and the access rules of the broker";
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword => {
                ("the broker refused the user name or password".into(), CREDENTIALS)
            }
            ConnectReturnCode::NotAuthorized => {
                ("the broker refused the client".into(), CREDENTIALS)
            }
            ConnectReturnCode::BadClientId => {
                ("the broker refused the client id".into(), "use another --client-id")
            }
            _ => ("the broker refused the connection".into(), "see the broker's log"),
        },
        ConnectionError::Tls(tls) => {
            (format!("TLS failed: {tls}"), "check --ca, --cert and --key, and see the broker's log")
        }
        ConnectionError::NetworkTimeout => {
            ("the broker did not answer in time".into(), UNREACHABLE)
        }
        ConnectionError::Io(io) => (io.to_string(), UNREACHABLE),
        other => (other.to_string(), "see the broker's log"),
    }
}
