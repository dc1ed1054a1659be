//! What every connection of the session uses: settings, figures, and the things said only once.

use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use time::OffsetDateTime;
use uuid::Uuid;

use super::failure::FailureKind;
use super::gaps::GapState;
use super::gaps::GapTracker;
use super::intake_sender::IntakeSender;
use super::ledger::LedgerBound;
use super::transport::{BrokerConnector, PublishPacket};
use crate::accounting::MessageAccounting;
use crate::ack::ConnectionId;
use crate::clock::WallClock;
use crate::config::MqttConfig;
use crate::connection_event::{ConnectionEvent, ConnectionName};
use crate::gap::GapCause;
use crate::telemetry::health::{CertificateHealth, SessionPhase};
use crate::telemetry::metrics::{ReasonLabel, ReceivedLabels};
use crate::telemetry::{Health, Metrics};

/// Identifies the process, and holds the state that outlives its pipelines.
#[derive(Clone)]
pub struct ProcessContext {
    /// A fresh UUID per start.
    pub instance: Uuid,
    /// Where it spools, if it does.
    pub spool_dir: Option<String>,
    /// Possible losses that are not durable yet. Locked by one session for all of its life.
    pub gaps: Arc<tokio::sync::Mutex<GapTracker>>,
    /// Keeps them beyond the process.
    pub gap_state: Arc<dyn GapState>,
    /// Counts what became of each message.
    pub accounting: Arc<MessageAccounting>,
    /// Makes connections to the broker.
    pub connector: Arc<dyn BrokerConnector>,
    /// Tells the time of day.
    pub clock: WallClock,
}

/// Settings and figures, the same for all connections.
pub struct SessionContext {
    process: ProcessContext,
    /// The tenant.
    pub tenant: String,
    /// Section `mqtt`.
    pub mqtt: MqttConfig,
    /// Topic filters to subscribe to.
    pub filters: Vec<String>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// State as seen from outside.
    pub health: Arc<Health>,
    /// Whether a connection of this pipeline was.
    opened_before: AtomicBool,
    qos0_seen: AtomicBool,
    /// The counter of the topic seen last, to spare the registry's lock.
    last_counter: Mutex<Option<(ReceivedLabels, Counter)>>,
    /// Keys the digests of messages, so that nobody can construct two alike.
    digest_key: RandomState,
}

impl SessionContext {
    /// Makes the context of a session that has not connected yet.
    pub fn new(
        process: ProcessContext,
        tenant: String,
        mqtt: MqttConfig,
        filters: Vec<String>,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Self {
        create_metric_series(&metrics, &filters);
        Self {
            process,
            tenant,
            mqtt,
            filters,
            metrics,
            health,
            opened_before: AtomicBool::new(false),
            qos0_seen: AtomicBool::new(false),
            last_counter: Mutex::default(),
            digest_key: RandomState::new(),
        }
    }

    /// Returns what outlives the pipeline.
    pub fn process(&self) -> &ProcessContext {
        &self.process
    }

    /// Returns the time of day.
    pub fn now_utc(&self) -> OffsetDateTime {
        self.process.clock.now_utc()
    }

    /// Returns a digest of topic and payload.
    pub fn digest(&self, publish: &PublishPacket) -> u64 {
        self.digest_key.hash_one((&publish.topic, &publish.payload))
    }

    /// Names a connection of this process.
    pub fn name(&self, id: ConnectionId) -> ConnectionName {
        let client_id = self.mqtt.client_id.clone();
        ConnectionName { client_id, instance: self.process.instance, id }
    }

    /// Returns true for the first connection of this pipeline.
    pub fn is_first_connection(&self) -> bool {
        !self.opened_before.swap(true, Ordering::Relaxed)
    }

    /// Publishes a CONNACK. `reported` is whether the session counts as present.
    pub fn opened(
        &self,
        id: ConnectionId,
        session_present: bool,
        reported: bool,
    ) -> ConnectionEvent {
        let connection = self.name(id);
        self.metrics.session_present.set(i64::from(session_present));
        self.health.update(|snapshot| {
            snapshot.session.session_present = session_present;
            snapshot.session.connection = Some(connection.clone());
        });
        ConnectionEvent::Opened {
            connection,
            at: self.now_utc(),
            session_present: reported,
            filters: self.filters.clone(),
            spool_dir: self.process.spool_dir.clone(),
        }
    }

    /// Acknowledgements have been held for `held`: what that is written down as.
    pub fn describe_stall(&self, held: Duration, unacked: usize) -> (GapCause, String) {
        let (spool, database) = self.health.read(|snapshot| {
            let spool = snapshot.spool.as_ref().and_then(|spool| spool.problem.clone());
            (spool, snapshot.database.problem.clone())
        });
        let cause = if spool.is_some() { GapCause::SpoolFull } else { GapCause::Backpressure };
        let why = spool.or(database).map(|why| format!(" ({why})")).unwrap_or_default();
        let detail = format!(
            "nothing could be acknowledged for {} s with {unacked} messages un-acknowledged{why}. \
             A broker keeps a bounded number of further messages meanwhile; whether it dropped any, \
             it does not say, so this may be a false alarm",
            held.as_secs(),
        );
        (cause, detail)
    }

    /// Enters a phase of the session, with what is wrong in it.
    pub fn enter(&self, phase: SessionPhase, problem: Option<String>) {
        self.health.update(|snapshot| {
            let session = &mut snapshot.session;
            if session.phase != phase {
                session.since = Some(self.now_utc());
            }
            session.phase = phase;
            session.problem = problem;
        });
    }

    /// Counts one PUBLISH.
    pub fn count_received(&self, publish: &PublishPacket, at: OffsetDateTime) {
        let qos = publish.qos;
        let mut last = self.last_counter.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref() {
            Some((labels, counter)) if labels.topic == publish.topic && labels.qos == qos => {
                counter.inc();
            }
            _ => {
                let labels = self.metrics.received_labels(&publish.topic, qos);
                let counter = self.metrics.received.get_or_create_owned(&labels);
                counter.inc();
                *last = Some((labels, counter));
            }
        }
        drop(last);
        self.health.update(|snapshot| snapshot.session.last_message_at = Some(at));
    }

    /// Says once that a publisher uses QoS 0.
    pub fn warn_of_qos0(&self, topic: &str) {
        if !self.qos0_seen.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                topic,
                "messages arrive at QoS 0: they are stored, but the broker does not repeat what \
                 is lost on the way; ask the publisher for QoS 1"
            );
        }
    }

    /// Logs that the session stops reading.
    pub fn log_pause(&self, id: ConnectionId, bound: LedgerBound, unacked: usize, bytes: usize) {
        tracing::debug!(
            connection = id.0,
            bound = self.bound_name(bound),
            unacked,
            bytes,
            "not reading from the broker until received messages are committed"
        );
    }

    /// Warns that messages are dropped and stay with the broker.
    pub fn warn_of_refusals(&self, id: ConnectionId, bound: LedgerBound) {
        tracing::warn!(
            connection = id.0,
            bound = self.bound_name(bound),
            keep_alive = ?self.mqtt.keep_alive,
            "nothing could be acknowledged for a whole keep-alive and there is no room left: \
             further messages stay with the broker, which delivers them again after a reconnect \
             once there is room"
        );
    }

    /// Names a bound as an operator knows it.
    pub fn bound_name(&self, bound: LedgerBound) -> String {
        match bound {
            LedgerBound::Messages => format!("{} messages", super::ledger::MAX_MESSAGES),
            LedgerBound::Bytes => format!("mqtt.max_unacked = {} bytes", self.mqtt.max_unacked),
        }
    }

    /// Warns that a QoS-0 message was dropped, which nobody repeats.
    pub fn warn_of_dropped_qos0(&self, topic: &str) {
        tracing::warn!(
            topic,
            "a QoS-0 message was dropped for want of room and is lost; see the view data_gap"
        );
    }

    /// Notes the client certificate in use.
    pub fn note_certificate(&self, not_after: OffsetDateTime) {
        self.health.update(|snapshot| {
            snapshot.certificate = Some(CertificateHealth { not_after });
        });
        let left = not_after - self.now_utc();
        self.metrics.certificate_expiry_seconds.set(left.as_seconds_f64());
    }

    /// Passes the end of a connection on; a lost stage is noticed elsewhere.
    pub fn send_closed(&self, intake: &IntakeSender, id: ConnectionId, reason: &str) {
        let at = self.now_utc();
        let (connection, reason) = (self.name(id), reason.to_owned());
        let _ = intake.send_event(ConnectionEvent::Closed { connection, at, reason });
    }
}

/// A counter that first shows at 1 has no rise that an alert could see.
fn create_metric_series(metrics: &Metrics, filters: &[String]) {
    for kind in FailureKind::ALL {
        drop(metrics.reconnects.get_or_create(&ReasonLabel { reason: kind.label() }));
    }
    for filter in filters {
        let context = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        let topic = context.map_or(filter.as_str(), |(_group, topic)| topic);
        drop(metrics.received.get_or_create(&metrics.received_labels(topic, 1)));
    }
}
