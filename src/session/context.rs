//! Settings, metrics and health that all connections of the session share, and the warnings that are
//! logged once.

use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use time::OffsetDateTime;
use uuid::Uuid;

use super::failure::FailureKind;
use super::gaps::{GapState, GapTracker};
use super::intake_sender::IntakeSender;
use super::ledger::LedgerBound;
use super::transport::{BrokerConnector, PublishPacket};
use crate::clock::WallClock;
use crate::config::MqttConfig;
use crate::stream::accounting::MessageAccounting;
use crate::stream::ack::ConnectionId;
use crate::stream::connection_event::{ConnectionEvent, ConnectionName};
use crate::stream::gap::GapCause;
use crate::telemetry::health::{CertificateHealth, SessionPhase};
use crate::telemetry::metrics::{ReasonLabel, ReceivedLabels};
use crate::telemetry::{Health, Metrics};

/// Identity of the process and the state that outlives its pipelines.
#[derive(Clone)]
pub struct ProcessContext {
    /// UUID generated at each start of the process.
    pub instance: Uuid,
    /// Directory of the spool, if it is enabled.
    pub spool_dir: Option<String>,
    /// Gaps that are not in the database yet. One session holds the lock while it runs.
    pub gaps: Arc<tokio::sync::Mutex<GapTracker>>,
    /// Saves pending gaps for the next process.
    pub gap_state: Arc<dyn GapState>,
    /// Counts the outcome of each message.
    pub accounting: Arc<MessageAccounting>,
    /// Opens connections to the broker.
    pub connector: Arc<dyn BrokerConnector>,
    /// Wall clock, which tests replace.
    pub clock: WallClock,
}

/// Settings, metrics and health that all connections of a session share. Only the credentials in
/// `mqtt` change between two connections.
pub struct SessionContext {
    process: ProcessContext,
    /// Tenant of the configuration.
    pub tenant: String,
    /// Section `mqtt`.
    pub mqtt: MqttConfig,
    /// Topic filters to subscribe to.
    pub filters: Vec<String>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// State shown by the admin endpoints.
    pub health: Arc<Health>,
    /// True once this pipeline has connected.
    opened_before: AtomicBool,
    qos0_seen: AtomicBool,
    /// Counter of the most recent topic, cached to avoid the lock of the registry.
    last_counter: Mutex<Option<(ReceivedLabels, Counter)>>,
    /// Key of message digests, so that a publisher cannot construct a collision.
    digest_key: RandomState,
}

impl SessionContext {
    /// Creates the context of a session that has not connected yet.
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

    /// Returns the state that outlives the pipeline.
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

    /// Returns the global name of a connection of this process.
    pub fn name(&self, id: ConnectionId) -> ConnectionName {
        let client_id = self.mqtt.client_id.clone();
        ConnectionName { client_id, instance: self.process.instance, id }
    }

    /// Returns true for the first connection of this pipeline.
    pub fn is_first_connection(&self) -> bool {
        !self.opened_before.swap(true, Ordering::Relaxed)
    }

    /// Records a CONNACK in metrics and health. Returns the event to store.
    pub fn opened(&self, id: ConnectionId, session_present: bool) -> ConnectionEvent {
        let connection = self.name(id);
        self.metrics.session_present.set(i64::from(session_present));
        self.health.update(|snapshot| {
            snapshot.session.session_present = session_present;
            snapshot.session.connection = Some(connection.clone());
        });
        ConnectionEvent::Opened {
            connection,
            at: self.now_utc(),
            session_present,
            filters: self.filters.clone(),
            spool_dir: self.process.spool_dir.clone(),
        }
    }

    /// Returns cause and detail of the gap for acknowledgements that were held for `held`.
    pub fn describe_stall(&self, held: Duration, unacked: usize) -> (GapCause, String) {
        let (spool, database) = self.health.read(|snapshot| {
            let spool = snapshot.spool.as_ref().and_then(|spool| spool.problem.clone());
            (spool, snapshot.database.problem.clone())
        });
        let cause = if spool.is_some() { GapCause::SpoolFull } else { GapCause::Backpressure };
        let why = spool.or(database).map(|why| format!(" ({why})")).unwrap_or_default();
        let detail = format!(
            "nothing could be acknowledged for {} s with {unacked} messages un-acknowledged{why}. \
             A broker queues a bounded number of further messages meanwhile and does not report \
             whether it dropped any, so this may be a false alarm",
            held.as_secs(),
        );
        (cause, detail)
    }

    /// Sets the phase of the session, with its problem if there is one.
    pub fn enter(&self, phase: SessionPhase, problem: Option<String>) {
        self.health.update(|snapshot| {
            let session = &mut snapshot.session;
            if session.phase != phase {
                session.since = Some(self.now_utc());
            }
            session.phase = phase;
            session.problem = problem;
            session.needs_action = false;
        });
    }

    /// Counts one received PUBLISH and records its time.
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

    /// Warns once that a publisher uses QoS 0.
    pub fn warn_of_qos0(&self, topic: &str) {
        if !self.qos0_seen.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                topic,
                hint = "ask the publisher to use QoS 1",
                "received messages at QoS 0, which the broker does not redeliver after a loss"
            );
        }
    }

    /// Logs that the session pauses reading.
    pub fn log_pause(&self, id: ConnectionId, bound: LedgerBound, unacked: usize, bytes: usize) {
        tracing::debug!(
            connection = id.0,
            bound = self.bound_name(bound),
            unacked,
            bytes,
            "paused reading from the broker until received messages are committed"
        );
    }

    /// Warns that messages are refused, so that the broker keeps them.
    pub fn warn_of_refusals(&self, id: ConnectionId, bound: LedgerBound) {
        tracing::warn!(
            connection = id.0,
            bound = self.bound_name(bound),
            keep_alive = ?self.mqtt.keep_alive,
            "no message could be acknowledged for a whole keep-alive and mqtt.max_unacked is \
             reached; refusing further messages, which the broker redelivers after a reconnect"
        );
    }

    /// Returns the name of a bound, as the operator configures it.
    pub fn bound_name(&self, bound: LedgerBound) -> String {
        match bound {
            LedgerBound::Messages => format!("{} messages", super::ledger::MAX_MESSAGES),
            LedgerBound::Bytes => format!("mqtt.max_unacked = {} bytes", self.mqtt.max_unacked),
        }
    }

    /// Warns that a QoS-0 message was dropped, which the broker does not redeliver.
    pub fn warn_of_dropped_qos0(&self, topic: &str) {
        tracing::warn!(
            topic,
            hint = "see the view data_gap",
            "dropped a QoS-0 message because mqtt.max_unacked is reached; the message is lost"
        );
    }

    /// Publishes the expiry of the client certificate in use.
    pub fn note_certificate(&self, not_after: OffsetDateTime) {
        self.health.update(|snapshot| {
            snapshot.certificate = Some(CertificateHealth { not_after });
        });
        let left = not_after - self.now_utc();
        self.metrics.certificate_expiry_seconds.set(left.as_seconds_f64());
    }

    /// Sends the end of a connection to the next stage. The caller detects a lost stage elsewhere.
    pub fn send_closed(&self, intake: &IntakeSender, id: ConnectionId, reason: &str) {
        let at = self.now_utc();
        let (connection, reason) = (self.name(id), reason.to_owned());
        let _ = intake.send_event(ConnectionEvent::Closed { connection, at, reason });
    }
}

/// Creates all series at 0: a counter whose first sample is 1 has no increase that an alert could see.
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::session::testing::{NOW, context};

    fn publish(topic: &str, qos: u8) -> PublishPacket {
        PublishPacket {
            topic: topic.into(),
            payload: Bytes::from_static(b"payload"),
            qos,
            dup: false,
            retain: false,
            packet_id: 1,
        }
    }

    fn received(context: &SessionContext, topic: &str, qos: u8) -> u64 {
        let labels = ReceivedLabels { topic: topic.into(), qos };
        context.metrics.received.get(&labels).map_or(u64::MAX, |counter| counter.get())
    }

    #[test]
    fn series_exist_before_their_first_event() {
        let context = context();
        assert_eq!(received(&context, "acme/item", 1), 0);
        assert_eq!(received(&context, "acme/board", 1), 0);
        for kind in FailureKind::ALL {
            let label = ReasonLabel { reason: kind.label() };
            assert!(context.metrics.reconnects.get(&label).is_some(), "{label:?}");
        }
    }

    #[test]
    fn messages_are_counted_by_topic_and_qos() {
        let context = context();
        for (topic, qos) in
            [("acme/item", 1), ("acme/item", 1), ("acme/item", 0), ("acme/board", 0)]
        {
            context.count_received(&publish(topic, qos), NOW);
        }
        assert_eq!(received(&context, "acme/item", 1), 2);
        assert_eq!(received(&context, "acme/item", 0), 1);
        assert_eq!(received(&context, "acme/board", 0), 1);
        assert_eq!(context.health.read(|s| s.session.last_message_at), Some(NOW));
    }

    #[test]
    fn digests_differ_by_topic_and_payload() {
        let context = context();
        let (one, other) = (publish("a", 1), publish("b", 1));
        let longer = PublishPacket { payload: Bytes::from_static(b"payloads"), ..one.clone() };
        assert_eq!(context.digest(&one), context.digest(&one.clone()));
        assert_ne!(context.digest(&one), context.digest(&other));
        assert_ne!(context.digest(&one), context.digest(&longer));
        assert_eq!((one.size(), longer.size()), (8, 9));
    }

    #[test]
    fn a_phase_keeps_its_beginning() {
        let context = context();
        let started_as = context.health.read(|s| s.session.phase);
        context.enter(started_as, Some("slow".into()));
        assert_eq!(context.health.read(|s| s.session.since), None);
        assert_eq!(context.health.read(|s| s.session.problem.clone()), Some("slow".into()));
        context.enter(SessionPhase::Subscribed, None);
        let session = context.health.read(|s| s.session.clone());
        assert_eq!((session.phase, session.since), (SessionPhase::Subscribed, Some(NOW)));
        assert_eq!(session.problem, None);
    }

    #[test]
    fn only_one_connection_is_the_first() {
        let context = context();
        assert!(context.is_first_connection());
        assert!(!context.is_first_connection());
    }

    #[test]
    fn expiry_and_bounds_are_shown() {
        let context = context();
        context.note_certificate(NOW + Duration::from_secs(60));
        let certificate = context.health.read(|s| s.certificate.as_ref().map(|c| c.not_after));
        assert_eq!(certificate, Some(NOW + Duration::from_secs(60)));
        assert_eq!(context.metrics.certificate_expiry_seconds.get(), Some(60.0));
        assert_eq!(context.bound_name(LedgerBound::Messages), "32768 messages");
        assert!(context.bound_name(LedgerBound::Bytes).starts_with("mqtt.max_unacked = "));
    }
}
