//! The MQTT session: one durable session at the broker, carried by one connection after another.
//!
//! [`MqttSession::run`] connects, hands over to [`connection`], and waits before the next attempt. The
//! broker redelivers messages that a connection received and did not acknowledge on the next one.

pub mod connection;
pub mod context;
pub mod control;
pub mod credentials;
pub mod end_session;
pub mod failure;
mod feedback;
pub mod gaps;
pub mod intake_sender;
pub mod ledger;
pub mod probe;
mod reconnect;
pub mod takeover;
pub mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::connection::{BrokerConnection, Disconnected, SessionState, ping_interval};
use self::context::SessionContext;
use self::control::{SessionCommand, SessionControl, changed};
use self::credentials::{ClientCredentials, CredentialFallback, CredentialState};
use self::failure::{ConnectionFailure, FailureKind};
use self::feedback::{FeedbackHandler, WaitOutcome};
use self::gaps::GapTracker;
use self::intake_sender::IntakeSender;
use self::ledger::{DeliveryLedger, pause_at};
use self::reconnect::NextAction;
use self::transport::{AcceptedConnection, ConnectRequest};
use crate::backoff::Backoff;
use crate::progress;
use crate::service::leadership::{Leadership, refused, standing_by};
use crate::stream::ack::ConnectionId;
use crate::stream::message::Feedback;
use crate::telemetry::health::SessionPhase;

/// The largest packet MQTT allows: the remaining length (268,435,455) and the fixed header.
pub const PROTOCOL_MAX_PACKET: usize = 268_435_455 + 5;

/// The client side of one durable session, over all its connections.
pub struct MqttSession {
    context: SessionContext,
    /// Sends to the next stage. `None` once the session accepts no more messages.
    intake: Option<IntakeSender>,
    feedback: mpsc::Receiver<Feedback>,
    control: SessionControl,
    ledger: DeliveryLedger,
    backoff: Backoff,
    rng: StdRng,
    takeover: takeover::TakeoverDetector,
    /// Time between two PINGREQs. Shorter after a connection was closed by an idle timeout.
    ping_interval: Duration,
    /// Number of connections so far, over all pipelines of this process.
    connections: Arc<AtomicU64>,
    /// Largest packet accepted, bytes. Raised when a larger message arrives, so that the decode stage
    /// can dead-letter it.
    max_packet_size: usize,
    /// Credentials to present. `None` while none are usable.
    fallback: Option<CredentialFallback<Arc<ClientCredentials>>>,
}

/// Outcome of one attempt to connect.
enum ConnectOutcome {
    /// A connection was made and has ended.
    Ended(Disconnected),
    /// No connection was made.
    Failed(ConnectionFailure),
    /// The attempt was abandoned, without a packet to the broker.
    Interrupted,
    /// The session shuts down.
    Shutdown,
}

impl MqttSession {
    /// Creates a session that has not connected yet.
    pub fn new(
        context: SessionContext,
        intake: IntakeSender,
        feedback: mpsc::Receiver<Feedback>,
        control: SessionControl,
        connections: Arc<AtomicU64>,
        rng: StdRng,
    ) -> Self {
        let backoff = Backoff::new(context.mqtt.reconnect);
        let max_packet_size = context.mqtt.max_packet_size;
        Self {
            ledger: DeliveryLedger::new(pause_at(context.mqtt.max_unacked, max_packet_size)),
            intake: Some(intake),
            ping_interval: ping_interval(context.mqtt.keep_alive),
            context,
            feedback,
            control,
            backoff,
            rng,
            connections,
            max_packet_size,
            fallback: None,
            takeover: takeover::TakeoverDetector::default(),
        }
    }

    /// Runs the session until it is stopped, or until the downstream stages are gone. Dropping the
    /// intake sender makes those stages finish.
    pub async fn run(mut self) {
        let gaps = Arc::clone(&self.context.process().gaps);
        let mut gaps = progress::idle(gaps.lock_owned()).await;
        while !self.control.stop.is_cancelled() {
            if self.await_lock(&mut gaps).await == WaitOutcome::Shutdown {
                break;
            }
            let next = match self.connect_once(&mut gaps).await {
                ConnectOutcome::Ended(ended) => self.after_disconnect(&ended),
                ConnectOutcome::Failed(failure) => self.after_failure(&failure),
                ConnectOutcome::Interrupted => NextAction::Reconnect(Duration::ZERO),
                ConnectOutcome::Shutdown => NextAction::End,
            };
            match next {
                NextAction::End => break,
                NextAction::Reconnect(wait) => {
                    tracing::debug!(?wait, "waiting before the next connection");
                    if self.wait_to_reconnect(wait, &mut gaps).await == WaitOutcome::Shutdown {
                        break;
                    }
                }
            }
        }
        self.context.metrics.connected.set(0);
        self.context.metrics.standby.set(0);
        // Gaps that the downstream stages still store must not be reported again by the next process.
        self.intake = None;
        let Self { feedback, ledger, context, .. } = &mut self;
        let handler = FeedbackHandler { feedback, ledger, gaps: &mut gaps, context };
        handler.until(std::future::pending(), &CancellationToken::new()).await;
    }

    /// Waits until no other process holds the single-writer lock.
    async fn await_lock(&mut self, gaps: &mut OwnedMutexGuard<GapTracker>) -> WaitOutcome {
        loop {
            let now = self.control.leadership.borrow_and_update().clone();
            self.context.metrics.standby.set(i64::from(now.holder().is_some()));
            if now.may_connect() {
                return WaitOutcome::Completed;
            }
            self.report_lock_state(&now);
            if now.holder().is_some() {
                gaps.stand_by();
            }
            let Self { control, feedback, ledger, context, .. } = self;
            let change = changed(&mut control.leadership);
            let handler = FeedbackHandler { feedback, ledger, gaps: &mut *gaps, context };
            if handler.until(change, &control.stop).await == WaitOutcome::Shutdown {
                return WaitOutcome::Shutdown;
            }
        }
    }

    fn report_lock_state(&self, now: &Leadership) {
        let client_id = &self.context.mqtt.client_id;
        match now {
            Leadership::HeldByOther(holder) => {
                let problem = standing_by(client_id, holder);
                tracing::warn!(
                    holder = %holder,
                    error = problem,
                    "another process holds the client id"
                );
                self.context.enter(SessionPhase::Standby, Some(problem));
            }
            Leadership::Refused(reason) => {
                self.context.enter(SessionPhase::Connecting, Some(refused(client_id, reason)));
            }
            Leadership::Pending | Leadership::Unknown | Leadership::Held => {}
        }
    }

    async fn connect_once(&mut self, gaps: &mut OwnedMutexGuard<GapTracker>) -> ConnectOutcome {
        self.context.enter(SessionPhase::Connecting, None);
        self.backoff.set_limits(*self.control.reconnect.borrow());
        if gaps.needs_restore() {
            let pending = self.context.process().gap_state.read().await;
            gaps.restore(pending, self.context.now_utc());
        }
        let credentials = match self.choose_credentials() {
            Ok(credentials) => credentials,
            Err(failure) => return ConnectOutcome::Failed(failure),
        };
        let id = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        tracing::info!(
            connection = id.0,
            host = self.context.mqtt.host,
            port = self.context.mqtt.port,
            client_id = self.context.mqtt.client_id,
            "connecting to the broker"
        );
        let accepted = match self.connect(&credentials, gaps).await {
            Ok(accepted) => accepted,
            Err(attempt) => return attempt,
        };
        let Self { context, intake, ledger, feedback, control, ping_interval, .. } = self;
        let state = SessionState { context, intake, ledger, gaps, ping_interval: *ping_interval };
        let ended = BrokerConnection::run(state, id, accepted, feedback, control).await;
        self.context.metrics.connected.set(0);
        self.backoff.was_up(ended.uptime);
        if let Some(fallback) = &mut self.fallback
            && ended.granted
        {
            fallback.accepted();
        }
        ConnectOutcome::Ended(ended)
    }

    /// Waits for CONNACK, unless a command interrupts the attempt.
    async fn connect(
        &mut self,
        credentials: &ClientCredentials,
        gaps: &mut OwnedMutexGuard<GapTracker>,
    ) -> Result<AcceptedConnection, ConnectOutcome> {
        let Self { context, control, feedback, ledger, max_packet_size, .. } = self;
        let connector = Arc::clone(&context.process().connector);
        let request =
            ConnectRequest { mqtt: &context.mqtt, credentials, max_packet_size: *max_packet_size };
        let limit = context.mqtt.connect_timeout * 2;
        let connect = progress::during(limit, connector.connect(&request));
        let connect = progress::part("session connect", connect);
        let never = CancellationToken::new();
        let outcome = {
            let handler = FeedbackHandler { feedback, ledger, gaps, context };
            let pipeline_gone = handler.until(std::future::pending(), &never);
            tokio::select! {
                biased;
                command = control.next(true) => Err(match command {
                    SessionCommand::Stop => ConnectOutcome::Shutdown,
                    SessionCommand::StandBy | SessionCommand::Renew => ConnectOutcome::Interrupted,
                }),
                _ = pipeline_gone => Err(ConnectOutcome::Shutdown),
                accepted = connect => Ok(accepted),
            }
        };
        outcome?.map_err(|error| {
            ConnectOutcome::Failed(self.failure_context(None).explain_attempt(&error))
        })
    }

    /// Returns the credentials for the next connection: the newest, unless the broker refused them
    /// and accepted earlier ones.
    fn choose_credentials(&mut self) -> Result<Arc<ClientCredentials>, ConnectionFailure> {
        match (self.control.credentials.borrow_and_update().clone(), &mut self.fallback) {
            (CredentialState::Ready(newest), Some(fallback)) => {
                if !Arc::ptr_eq(fallback.newest(), &newest) {
                    fallback.replace(newest);
                }
            }
            (CredentialState::Ready(newest), None) => {
                self.fallback = Some(CredentialFallback::new(newest));
            }
            (CredentialState::Unusable(problem), None) => {
                return Err(ConnectionFailure::new(FailureKind::TlsFiles, problem));
            }
            (CredentialState::Unusable(_), Some(_)) => {}
        }
        // Unwrap safety: the field was set before, or has just been set.
        let current = Arc::clone(self.fallback.as_ref().expect("credentials").current());
        current.apply_to(&mut self.context.mqtt);
        if let Some(certificate) = current.certificate() {
            self.context.note_certificate(certificate.not_after);
        }
        Ok(current)
    }

    /// Waits for the backoff to pass, or for new credentials to try.
    async fn wait_to_reconnect(
        &mut self,
        wait: Duration,
        gaps: &mut OwnedMutexGuard<GapTracker>,
    ) -> WaitOutcome {
        let Self { control, feedback, ledger, context, .. } = self;
        let SessionControl { stop, credentials, .. } = control;
        let enough = async {
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = changed_later(credentials) => {}
            }
        };
        FeedbackHandler { feedback, ledger, gaps, context }.until(enough, stop).await
    }
}

/// Waits for a change without marking it as seen.
async fn changed_later<T>(receiver: &watch::Receiver<T>) {
    changed(&mut receiver.clone()).await;
}
