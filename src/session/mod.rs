//! The MQTT session: one durable session at the broker, carried by one connection after another.
//!
//! [`Session::run`] connects, lets [`connection`] do the work, and waits before the next attempt. What a
//! connection received and did not acknowledge is redelivered on the next one.

pub mod acks;
pub mod connection;
pub mod failure;
pub mod intake;
pub mod ledger;
pub mod options;
pub mod probe;
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
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::connection::{Attempt, Connection, End, Ended};
use self::failure::{Context, Failure, FailureKind};
use self::intake::Door;
use self::shared::Shared;
use crate::backoff::Backoff;
use crate::credentials::inspect::CertificateFacts;
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
    stop: CancellationToken,
    backoff: Backoff,
    /// Numbers given to connections so far, over all pipelines of this process.
    connections: Arc<AtomicU64>,
    /// Raised when a larger message arrives; the decode stage sets such a message aside.
    max_packet_size: usize,
    /// The client certificate of the last attempt.
    certificate: Option<CertificateFacts>,
    takeover: takeover::Pattern,
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
        stop: CancellationToken,
        connections: Arc<AtomicU64>,
    ) -> Self {
        let backoff = Backoff::new(shared.mqtt.reconnect);
        let max_packet_size = shared.mqtt.max_packet_size;
        let door = Some(door);
        Self {
            shared,
            door,
            feedback,
            stop,
            backoff,
            connections,
            max_packet_size,
            certificate: None,
            takeover: takeover::Pattern::default(),
        }
    }

    /// Keeps the session until told to stop, or until the stages behind are gone. Dropping the
    /// sender of the intake tells them to finish.
    pub async fn run(mut self) {
        while !self.stop.is_cancelled() {
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
    }

    async fn connect_once(&mut self) -> Result<Ended, Failure> {
        self.shared.enter(Phase::Connecting, None);
        let tls = self.load_tls()?;
        let (client, event_loop) =
            options::client(&self.shared.mqtt, tls.as_ref(), self.max_packet_size);
        let id = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        tracing::info!(
            connection = id.0,
            host = self.shared.mqtt.host,
            port = self.shared.mqtt.port,
            client_id = self.shared.mqtt.client_id,
            "connecting to the broker"
        );
        let attempt = Attempt { id, client, event_loop };
        let ended =
            Connection::run(&self.shared, &mut self.door, attempt, &mut self.feedback, &self.stop)
                .await;
        self.shared.metrics.connected.set(0);
        if let Some(uptime) = ended.uptime {
            self.backoff.was_up(uptime);
        }
        Ok(ended)
    }

    /// Reads the files of section `mqtt.tls`, so that renewed ones count, and says what is wrong
    /// with them once a change.
    fn load_tls(&mut self) -> Result<Option<tls::Loaded>, Failure> {
        let Some(section) = &self.shared.mqtt.tls else { return Ok(None) };
        let loaded = tls::client_config(section)
            .map_err(|error| Failure::new(FailureKind::TlsFiles, error.to_string()))?;
        if self.certificate.as_ref() != Some(&loaded.certificate) {
            for warning in &loaded.warnings {
                tracing::warn!(warning, "the TLS files want attention");
            }
            self.shared.note_certificate(loaded.certificate.not_after);
            self.certificate = Some(loaded.certificate.clone());
        }
        Ok(Some(loaded))
    }

    fn after(&mut self, ended: &Ended) -> Next {
        let failure = match &ended.end {
            End::Stopped | End::Gone => return Next::End,
            End::MakeRoom => {
                self.announce_closed(ended, &ended.end.to_string());
                tracing::info!("there is room again: reconnecting for what stayed with the broker");
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
        let wait = if failure.needs_a_person() {
            self.backoff.longest()
        } else {
            self.backoff.next(rand::random())
        };
        let problem = &failure.sentence;
        let retry_in = format!("{:.1}s", wait.as_secs_f64());
        if failure.needs_a_person() {
            tracing::error!(reason, problem, retry_in, "no connection to the broker");
        } else {
            tracing::warn!(reason, problem, retry_in, "no connection to the broker");
        }
        self.shared.enter(Phase::Connecting, Some(problem.clone()));
        Next::Reconnect(wait)
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
        if let Some(certificate) = &self.certificate {
            context = context.with_certificate(certificate);
        }
        context
    }

    /// Waits out the backoff. Acknowledgements that come meanwhile belong to a dead connection.
    async fn wait(&mut self, wait: Duration) -> Waited {
        let sleep = tokio::time::sleep(wait);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return Waited::Enough,
                () = self.stop.cancelled() => return Waited::ToEnd,
                feedback = self.feedback.recv() => if feedback.is_none() { return Waited::ToEnd },
            }
        }
    }
}
