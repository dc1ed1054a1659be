//! The MQTT session: one durable session at the broker, carried by one connection after another.
//!
//! [`Session::run`] connects, lets [`connection`] do the work, and waits before the next attempt. What a
//! connection received and did not acknowledge is redelivered on the next one.

pub mod ack_stall;
pub mod choice;
pub mod connection;
pub mod credentials;
pub mod ending;
pub mod failure;
pub mod gap_state_file;
pub mod gap_tracker;
pub mod intake_sender;
pub mod ledger;
pub mod orders;
pub mod probe;
mod reconnecting;
mod recording_verifier;
pub mod renewal;
mod retirement;
mod settling;
pub mod shared;
pub mod subscription;
pub mod takeover;
pub mod tls;
pub mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::choice::Choice;
use self::connection::{Connection, Disconnected, SessionState, ping_interval};
use self::credentials::{Credentials, Material};
use self::failure::{Failure, FailureKind};
use self::gap_tracker::GapTracker;
use self::intake_sender::IntakeSender;
use self::ledger::{Ledger, pause_at};
use self::orders::{Order, Orders, changed};
use self::reconnecting::Next;
use self::settling::{Settling, Waited};
use self::shared::Shared;
use self::transport::{Accepted, ConnectRequest};
use crate::ack::ConnectionId;
use crate::backoff::Backoff;
use crate::message::Feedback;
use crate::progress;
use crate::service::leadership::{Leadership, refused, standing_by};
use crate::telemetry::health::SessionPhase;

/// The largest packet MQTT allows: the remaining length (268,435,455) and the fixed header.
pub const PROTOCOL_MAX_PACKET: usize = 268_435_455 + 5;

/// The session over all its connections.
pub struct Session {
    shared: Shared,
    /// `None` once the session stops taking messages in.
    intake: Option<IntakeSender>,
    feedback: mpsc::Receiver<Feedback>,
    orders: Orders,
    ledger: Ledger,
    backoff: Backoff,
    rng: StdRng,
    takeover: takeover::Pattern,
    /// Time between two PINGREQs. Shorter after a connection was closed for being idle.
    ping_interval: Duration,
    /// Numbers given to connections so far, over all pipelines of this process.
    connections: Arc<AtomicU64>,
    /// Raised when a larger message arrives. The decode stage sets such a message aside.
    max_packet_size: usize,
    /// `None` while there are no usable credentials.
    choice: Option<Choice<Arc<Credentials>>>,
}

/// The result of one attempt to connect.
enum Attempt {
    /// The connection was used until its end.
    Ended(Disconnected),
    /// There was none.
    Failed(Failure),
    /// The attempt was given up, without a word to the broker.
    Interrupted,
    /// The session is to end.
    ToEnd,
}

impl Session {
    /// Makes a session that has not connected yet.
    pub fn new(
        shared: Shared,
        intake: IntakeSender,
        feedback: mpsc::Receiver<Feedback>,
        orders: Orders,
        connections: Arc<AtomicU64>,
        rng: StdRng,
    ) -> Self {
        let backoff = Backoff::new(shared.mqtt.reconnect);
        let max_packet_size = shared.mqtt.max_packet_size;
        Self {
            ledger: Ledger::new(pause_at(shared.mqtt.max_unacked, max_packet_size)),
            intake: Some(intake),
            ping_interval: ping_interval(shared.mqtt.keep_alive),
            shared,
            feedback,
            orders,
            backoff,
            rng,
            connections,
            max_packet_size,
            choice: None,
            takeover: takeover::Pattern::default(),
        }
    }

    /// Keeps the session until told to stop, or until the stages behind are gone. Dropping the
    /// sender of the intake tells them to finish.
    pub async fn run(mut self) {
        let gaps = Arc::clone(&self.shared.process().gaps);
        let mut gaps = progress::idle(gaps.lock_owned()).await;
        while !self.orders.stop.is_cancelled() {
            if self.await_turn(&mut gaps).await == Waited::ToEnd {
                break;
            }
            let next = match self.connect_once(&mut gaps).await {
                Attempt::Ended(ended) => self.after(&ended),
                Attempt::Failed(failure) => self.fail(&failure),
                Attempt::Interrupted => Next::Reconnect(Duration::ZERO),
                Attempt::ToEnd => Next::End,
            };
            match next {
                Next::End => break,
                Next::Reconnect(wait) => {
                    if self.wait(wait, &mut gaps).await == Waited::ToEnd {
                        break;
                    }
                }
            }
        }
        self.shared.metrics.connected.set(0);
        self.shared.metrics.standby.set(0);
        // What the stages behind still store must not be reported again by the next process.
        self.intake = None;
        let Self { feedback, ledger, shared, .. } = &mut self;
        let settling = Settling { feedback, ledger, gaps: &mut gaps, shared };
        settling.until(std::future::pending(), &CancellationToken::new()).await;
    }

    /// Waits until no other process holds the session.
    async fn await_turn(&mut self, gaps: &mut OwnedMutexGuard<GapTracker>) -> Waited {
        loop {
            let now = self.orders.leadership.borrow_and_update().clone();
            self.shared.metrics.standby.set(i64::from(now.holder().is_some()));
            if now.may_connect() {
                return Waited::Enough;
            }
            self.say_who_holds_it(&now);
            if now.holder().is_some() {
                gaps.stand_by();
            }
            let Self { orders, feedback, ledger, shared, .. } = self;
            let change = changed(&mut orders.leadership);
            let settling = Settling { feedback, ledger, gaps: &mut *gaps, shared };
            if settling.until(change, &orders.stop).await == Waited::ToEnd {
                return Waited::ToEnd;
            }
        }
    }

    fn say_who_holds_it(&self, now: &Leadership) {
        let client_id = &self.shared.mqtt.client_id;
        match now {
            Leadership::HeldByOther(holder) => {
                let problem = standing_by(client_id, holder);
                tracing::warn!(holder = %holder, problem, "another process holds the client id");
                self.shared.enter(SessionPhase::Standby, Some(problem));
            }
            Leadership::Refused(reason) => {
                self.shared.enter(SessionPhase::Connecting, Some(refused(client_id, reason)));
            }
            Leadership::Pending | Leadership::Unknown | Leadership::Held => {}
        }
    }

    async fn connect_once(&mut self, gaps: &mut OwnedMutexGuard<GapTracker>) -> Attempt {
        self.shared.enter(SessionPhase::Connecting, None);
        self.backoff.set_limits(*self.orders.reconnect.borrow());
        if gaps.needs_recall() {
            let pending = self.shared.process().gap_state.read().await;
            gaps.recall(pending, self.shared.now_utc());
        }
        let credentials = match self.choose_credentials() {
            Ok(credentials) => credentials,
            Err(failure) => return Attempt::Failed(failure),
        };
        let id = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        tracing::info!(
            connection = id.0,
            host = self.shared.mqtt.host,
            port = self.shared.mqtt.port,
            client_id = self.shared.mqtt.client_id,
            "connecting to the broker"
        );
        let accepted = match self.connect(&credentials, gaps).await {
            Ok(accepted) => accepted,
            Err(attempt) => return attempt,
        };
        let Self { shared, intake, ledger, feedback, orders, ping_interval, .. } = self;
        let state = SessionState { shared, intake, ledger, gaps, ping_interval: *ping_interval };
        let ended = Connection::run(state, id, accepted, feedback, orders).await;
        self.shared.metrics.connected.set(0);
        self.backoff.was_up(ended.uptime);
        if let Some(choice) = &mut self.choice
            && ended.granted
        {
            choice.accepted();
        }
        Attempt::Ended(ended)
    }

    /// Waits for CONNACK, unless something else is asked for meanwhile.
    async fn connect(
        &mut self,
        credentials: &Credentials,
        gaps: &mut OwnedMutexGuard<GapTracker>,
    ) -> Result<Accepted, Attempt> {
        let Self { shared, orders, feedback, ledger, max_packet_size, .. } = self;
        let connector = Arc::clone(&shared.process().connector);
        let request =
            ConnectRequest { mqtt: &shared.mqtt, credentials, max_packet_size: *max_packet_size };
        let limit = shared.mqtt.connect_timeout * 2;
        let connect = progress::during(limit, connector.connect(&request));
        let connect = progress::part("session connect", connect);
        let never = CancellationToken::new();
        let outcome = {
            let settling = Settling { feedback, ledger, gaps, shared };
            let pipeline_gone = settling.until(std::future::pending(), &never);
            tokio::select! {
                biased;
                order = orders.next(true) => Err(match order {
                    Order::Stop => Attempt::ToEnd,
                    Order::StandBy | Order::Renew => Attempt::Interrupted,
                }),
                _ = pipeline_gone => Err(Attempt::ToEnd),
                accepted = connect => Ok(accepted),
            }
        };
        outcome?.map_err(|error| Attempt::Failed(self.context(None).explain_attempt(&error)))
    }

    /// The credentials for the next connection: new ones if there are, unless the broker refused
    /// them.
    fn choose_credentials(&mut self) -> Result<Arc<Credentials>, Failure> {
        match (self.orders.credentials.borrow_and_update().clone(), &mut self.choice) {
            (Material::Ready(newest), Some(choice)) => {
                if !Arc::ptr_eq(choice.newest(), &newest) {
                    choice.replace(newest);
                }
            }
            (Material::Ready(newest), None) => self.choice = Some(Choice::new(newest)),
            (Material::Unusable(problem), None) => {
                return Err(Failure::new(FailureKind::TlsFiles, problem));
            }
            (Material::Unusable(_), Some(_)) => {}
        }
        // Unwrap safety: there was one, or one was just made.
        let current = Arc::clone(self.choice.as_ref().expect("credentials").current());
        current.apply_to(&mut self.shared.mqtt);
        if let Some(certificate) = current.certificate() {
            self.shared.note_certificate(certificate.not_after);
        }
        Ok(current)
    }

    /// Waits out the backoff, unless there are new credentials to try.
    async fn wait(&mut self, wait: Duration, gaps: &mut OwnedMutexGuard<GapTracker>) -> Waited {
        let Self { orders, feedback, ledger, shared, .. } = self;
        let Orders { stop, credentials, .. } = orders;
        let enough = async {
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = changed_later(credentials) => {}
            }
        };
        Settling { feedback, ledger, gaps, shared }.until(enough, stop).await
    }
}

/// Waits for a change, without taking note of it.
async fn changed_later<T>(receiver: &watch::Receiver<T>) {
    changed(&mut receiver.clone()).await;
}
