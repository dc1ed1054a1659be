//! What every connection of the session uses: settings, figures, and the things said only once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use prometheus_client::metrics::counter::Counter;
use rumqttc::Publish;
use time::OffsetDateTime;

use super::failure::FailureKind;
use super::intake::Door;
use crate::config::Mqtt;
use crate::message::{ConnectionId, ConnectionNews};
use crate::telemetry::health::{CertificateHealth, Phase};
use crate::telemetry::metrics::{ReasonLabel, ReceivedLabels};
use crate::telemetry::{Health, Metrics};

/// Settings and figures, the same for all connections.
pub struct Shared {
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
    qos0_seen: AtomicBool,
    /// The counter of the topic seen last, to spare the registry's lock.
    last_counter: Mutex<Option<(ReceivedLabels, Counter)>>,
}

impl Shared {
    /// Nothing said yet.
    pub fn new(
        tenant: String,
        mqtt: Mqtt,
        filters: Vec<String>,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Self {
        show_from_the_start(&metrics, &filters);
        Self {
            tenant,
            mqtt,
            filters,
            metrics,
            health,
            qos0_seen: AtomicBool::new(false),
            last_counter: Mutex::default(),
        }
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
        let mut last = self.last_counter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
        let _ = door.announce(ConnectionNews::Closed { id, at, reason: reason.to_owned() });
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
