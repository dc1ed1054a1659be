//! What every connection of the session uses: settings, figures, and the things said only once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rumqttc::Publish;
use time::OffsetDateTime;
use uuid::Uuid;

use super::failure::FailureKind;
use super::intake::Door;
use super::memory::Memory;
use crate::config::Mqtt;
use crate::message::{ConnectionId, ConnectionName, ConnectionNews, GapCause};
use crate::telemetry::health::{CertificateHealth, Phase};
use crate::telemetry::metrics::{ReasonLabel, ReceivedLabels};
use crate::telemetry::{Health, Metrics};

/// What the process is known by, and what outlives its pipelines.
#[derive(Clone)]
pub struct Process {
    /// A fresh UUID per start.
    pub instance: Uuid,
    /// Where it spools, if it does.
    pub spool_dir: Option<String>,
    /// What is not to be forgotten.
    pub memory: Arc<Mutex<Memory>>,
}

/// Settings and figures, the same for all connections.
pub struct Shared {
    process: Process,
    /// The tenant.
    pub tenant: String,
    /// Section `mqtt`.
    pub mqtt: Mqtt,
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
}

impl Shared {
    /// Nothing said yet.
    pub fn new(
        process: Process,
        tenant: String,
        mqtt: Mqtt,
        filters: Vec<String>,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Self {
        show_from_the_start(&metrics, &filters);
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
        }
    }

    /// What is not to be forgotten.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each change is whole, also after a panic of its caller.
        self.process.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names a connection of this process.
    pub fn name(&self, id: ConnectionId) -> ConnectionName {
        let client_id = self.mqtt.client_id.clone();
        ConnectionName { client_id, instance: self.process.instance, id }
    }

    /// CONNACK came.
    pub fn opened(&self, id: ConnectionId, session_present: bool) -> ConnectionNews {
        let connection = self.name(id);
        let first = !self.opened_before.swap(true, Ordering::Relaxed);
        self.metrics.session_present.set(i64::from(session_present));
        self.health.update(|snapshot| {
            snapshot.session.session_present = session_present;
            snapshot.session.connection = Some(connection.clone());
        });
        ConnectionNews::Opened {
            connection,
            at: OffsetDateTime::now_utc(),
            session_present: self.memory().opened(first, session_present),
            filters: self.filters.clone(),
            spool_dir: self.process.spool_dir.clone(),
        }
    }

    /// Acknowledgements have been held for `held`: what that is written down as.
    pub fn describe_hold(&self, held: Duration, unacked: usize) -> (GapCause, String) {
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
    pub fn enter(&self, phase: Phase, problem: Option<String>) {
        self.health.update(|snapshot| {
            let session = &mut snapshot.session;
            if session.phase != phase {
                session.since = Some(OffsetDateTime::now_utc());
            }
            session.phase = phase;
            session.problem = problem;
        });
    }

    /// Counts one PUBLISH.
    pub fn count_received(&self, publish: &Publish, at: OffsetDateTime) {
        let qos = publish.qos as u8;
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

    /// Says that no more fits into memory.
    pub fn warn_of_full_memory(&self, id: ConnectionId) {
        tracing::warn!(
            connection = id.0,
            max_unacked = self.mqtt.max_unacked,
            "mqtt.max_unacked is reached: further messages stay with the broker until what was \
             received is committed"
        );
    }

    /// Notes the client certificate in use.
    pub fn note_certificate(&self, not_after: OffsetDateTime) {
        self.health.update(|snapshot| {
            snapshot.certificate = Some(CertificateHealth { not_after });
        });
        let left = not_after - OffsetDateTime::now_utc();
        self.metrics.certificate_expiry_seconds.set(left.as_seconds_f64());
    }

    /// Passes the end of a connection on; a lost stage is noticed elsewhere.
    pub fn announce_closed(&self, door: &Door, id: ConnectionId, reason: &str) {
        let at = OffsetDateTime::now_utc();
        let (connection, reason) = (self.name(id), reason.to_owned());
        let _ = door.announce(ConnectionNews::Closed { connection, at, reason });
    }
}

/// A counter that first shows at 1 has no rise that an alert could see.
fn show_from_the_start(metrics: &Metrics, filters: &[String]) {
    for kind in FailureKind::ALL {
        drop(metrics.reconnects.get_or_create(&ReasonLabel { reason: kind.label() }));
    }
    for filter in filters {
        let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        let topic = shared.map_or(filter.as_str(), |(_group, topic)| topic);
        drop(metrics.received.get_or_create(&metrics.received_labels(topic, 1)));
    }
}
