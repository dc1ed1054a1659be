//! The MQTT session: one durable session at the broker, carried by one connection after another.
//!
//! [`Session::run`] connects, lets [`connection`] do the work, and waits before the next attempt. What a
//! connection received and did not acknowledge is redelivered on the next one.

pub mod acks;
pub mod choice;
pub mod connection;
pub mod credentials;
pub mod failure;
mod hold;
pub mod intake;
pub mod ledger;
pub mod memory;
pub mod options;
pub mod orders;
pub mod probe;
pub mod record;
pub mod renewal;
pub mod shared;
pub mod subscription;
pub mod takeover;
pub mod tls;
mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::ConnectionError;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::choice::{AfterRefusal, Choice};
use self::connection::{Attempt, Connection, End, Ended};
use self::credentials::{Credentials, Material};
use self::failure::{Context, Failure, FailureKind};
use self::intake::Door;
use self::orders::{Orders, changed};
use self::shared::Shared;
use crate::backoff::Backoff;
use crate::leadership::{Leadership, standing_by};
use crate::message::{ConnectionId, Feedback};
use crate::telemetry::health::Phase;
use crate::telemetry::metrics::ReasonLabel;

/// The largest packet MQTT allows: the remaining length (268,435,455) and the fixed header.
pub const PROTOCOL_MAX_PACKET: usize = 268_435_455 + 5;

/// The session over all its connections.
pub struct Session {
    shared: Shared,
    door: Option<Door>,
    feedback: mpsc::Receiver<Feedback>,
    orders: Orders,
    backoff: Backoff,
    takeover: takeover::Pattern,
    /// Numbers given to connections so far, over all pipelines of this process.
    connections: Arc<AtomicU64>,
    /// Raised when a larger message arrives; the decode stage sets such a message aside.
    max_packet_size: usize,
    /// `None` while there are no usable credentials.
    choice: Option<Choice<Arc<Credentials>>>,
}

/// What to do after a connection ended.
enum Next {
    End,
    Reconnect(Duration),
}

/// How a wait ended.
#[derive(PartialEq, Eq)]
enum Waited {
    Enough,
    ToEnd,
}

impl Session {
    /// A session that has not connected yet.
    pub fn new(
        shared: Shared,
        door: Door,
        feedback: mpsc::Receiver<Feedback>,
        orders: Orders,
        connections: Arc<AtomicU64>,
    ) -> Self {
        let backoff = Backoff::new(shared.mqtt.reconnect);
        let max_packet_size = shared.mqtt.max_packet_size;
        let door = Some(door);
        Self {
            shared,
            door,
            feedback,
            orders,
            backoff,
            connections,
            max_packet_size,
            choice: None,
            takeover: takeover::Pattern::default(),
        }
    }

    /// Keeps the session until told to stop, or until the stages behind are gone. Dropping the
    /// sender of the intake tells them to finish.
    pub async fn run(mut self) {
        while !self.orders.stop.is_cancelled() {
            if self.await_turn().await == Waited::ToEnd {
                break;
            }
            let next = match self.connect_once().await {
                Ok(ended) => self.after(&ended),
                Err(failure) => self.fail(&failure),
            };
            match next {
                Next::End => break,
                Next::Reconnect(wait) => {
                    if self.wait(wait).await == Waited::ToEnd {
                        break;
                    }
                }
            }
        }
        self.shared.metrics.connected.set(0);
        self.shared.metrics.standby.set(0);
    }

    /// Waits until no other process holds the session.
    async fn await_turn(&mut self) -> Waited {
        loop {
            let now = self.orders.leadership.borrow_and_update().clone();
            self.shared.metrics.standby.set(i64::from(now.holder().is_some()));
            if now.may_connect() {
                return Waited::Enough;
            }
            self.say_who_holds_it(&now);
            let change = changed(&mut self.orders.leadership);
            if idle(change, &self.orders.stop, &mut self.feedback, &self.shared).await
                == Waited::ToEnd
            {
                return Waited::ToEnd;
            }
        }
    }

    fn say_who_holds_it(&self, now: &Leadership) {
        let Some(holder) = now.holder() else { return };
        let problem = standing_by(&self.shared.mqtt.client_id, holder);
        tracing::warn!(holder = %holder, problem, "another process holds the client id");
        self.shared.enter(Phase::Standby, Some(problem));
    }

    async fn connect_once(&mut self) -> Result<Ended, Failure> {
        self.shared.enter(Phase::Connecting, None);
        self.backoff.set_limits(*self.orders.reconnect.borrow());
        let credentials = self.choose_credentials()?;
        let (client, event_loop) =
            options::client(&self.shared.mqtt, credentials.tls.as_ref(), self.max_packet_size);
        let id = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        tracing::info!(
            connection = id.0,
            host = self.shared.mqtt.host,
            port = self.shared.mqtt.port,
            client_id = self.shared.mqtt.client_id,
            "connecting to the broker"
        );
        let attempt = Attempt { id, client, event_loop };
        let orders = &mut self.orders;
        let ended =
            Connection::run(&self.shared, &mut self.door, attempt, &mut self.feedback, orders)
                .await;
        self.shared.metrics.connected.set(0);
        if let Some(uptime) = ended.uptime {
            self.backoff.was_up(uptime);
            if let Some(choice) = &mut self.choice {
                choice.accepted();
            }
        }
        Ok(ended)
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

    fn after(&mut self, ended: &Ended) -> Next {
        let failure = match &ended.end {
            End::Stopped | End::Gone => return Next::End,
            End::MakeRoom => {
                self.announce_closed(ended, &ended.end.to_string());
                tracing::info!("there is room again: reconnecting for what stayed with the broker");
                return Next::Reconnect(Duration::ZERO);
            }
            End::StandBy => {
                self.announce_closed(ended, &ended.end.to_string());
                return Next::Reconnect(Duration::ZERO);
            }
            End::Renewed => {
                self.announce_closed(ended, &ended.end.to_string());
                tracing::info!("reconnecting with renewed credentials; the session is kept");
                return Next::Reconnect(Duration::ZERO);
            }
            End::NotAuthorized(problem) => Failure::new(FailureKind::NotAuthorized, problem),
            End::Protocol(problem) => Failure::new(FailureKind::Protocol, problem),
            End::Failed(error) => self.explain(error, ended.uptime),
        };
        let failure = match self.takeover.lost(failure.kind, ended.uptime) {
            Some(losses) => self.context(ended.uptime).takeover(losses),
            None => failure,
        };
        self.announce_closed(ended, &format!("{}: {}", failure.label(), failure.sentence));
        if matches!(failure.kind, FailureKind::PacketTooLarge(_))
            && self.max_packet_size < PROTOCOL_MAX_PACKET
        {
            self.max_packet_size = PROTOCOL_MAX_PACKET;
            tracing::warn!(
                problem = failure.sentence,
                "reconnecting with the protocol's packet limit, to set the message aside"
            );
            return Next::Reconnect(Duration::ZERO);
        }
        self.fail(&failure)
    }

    fn announce_closed(&self, ended: &Ended, reason: &str) {
        if let (Some(_), Some(door)) = (ended.uptime, &self.door) {
            self.shared.announce_closed(door, ended.id, reason);
        }
    }

    fn fail(&mut self, failure: &Failure) -> Next {
        let reason = failure.label();
        self.shared.metrics.reconnects.get_or_create(&ReasonLabel { reason }).inc();
        let problem = &failure.sentence;
        let fall_back = failure.kind.blames_credentials() && self.fall_back(problem);
        let wait = if failure.needs_a_person() && !fall_back {
            self.backoff.longest()
        } else {
            self.backoff.next(rand::random())
        };
        let retry_in = format!("{:.1}s", wait.as_secs_f64());
        if failure.needs_a_person() {
            tracing::error!(reason, problem, retry_in, "no connection to the broker");
        } else {
            tracing::warn!(reason, problem, retry_in, "no connection to the broker");
        }
        self.shared.enter(Phase::Connecting, Some(problem.clone()));
        Next::Reconnect(wait)
    }

    /// The broker refused the credentials: whether there are earlier ones that it accepted.
    fn fall_back(&mut self, problem: &str) -> bool {
        let Some(choice) = &mut self.choice else { return false };
        if choice.refused() == AfterRefusal::Wait {
            return false;
        }
        tracing::error!(
            problem,
            "the renewed credentials do not work; using the earlier ones, until the files change \
             again"
        );
        self.shared.health.update(|s| s.credentials.refused = Some(problem.to_owned()));
        true
    }

    fn explain(&self, error: &ConnectionError, uptime: Option<Duration>) -> Failure {
        self.context(uptime).explain(error)
    }

    fn context(&self, uptime: Option<Duration>) -> Context<'_> {
        let mut context =
            Context::new(&self.shared.tenant, &self.shared.mqtt, OffsetDateTime::now_utc());
        if let Some(uptime) = uptime {
            context = context.up_for(uptime);
        }
        let presented = self.choice.as_ref().and_then(|choice| choice.current().certificate());
        if let Some(certificate) = presented {
            context = context.with_certificate(certificate);
        }
        context
    }

    /// Waits out the backoff, unless there are new credentials to try.
    async fn wait(&mut self, wait: Duration) -> Waited {
        let Orders { stop, credentials, .. } = &mut self.orders;
        let enough = async {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed_later(credentials) => {}
            }
        };
        idle(enough, stop, &mut self.feedback, &self.shared).await
    }
}

/// Waits for a change, without taking note of it.
async fn changed_later<T>(receiver: &watch::Receiver<T>) {
    changed(&mut receiver.clone()).await;
}

/// Waits while not connected. Acknowledgements that come meanwhile belong to a dead connection;
/// they must be taken, or the stages behind would stand still.
async fn idle(
    enough: impl Future<Output = ()>,
    stop: &CancellationToken,
    feedback: &mut mpsc::Receiver<Feedback>,
    shared: &Shared,
) -> Waited {
    tokio::pin!(enough);
    loop {
        tokio::select! {
            () = &mut enough => return Waited::Enough,
            () = stop.cancelled() => return Waited::ToEnd,
            feedback = feedback.recv() => match feedback {
                None => return Waited::ToEnd,
                Some(Feedback::Noted(news)) => shared.memory().noted(&news),
                Some(Feedback::Committed(_) | Feedback::Unsubscribe(_)) => {}
            },
        }
    }
}
