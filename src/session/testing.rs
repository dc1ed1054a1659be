//! Sessions for tests, without a broker.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::MqttSession;
use super::context::{ProcessContext, SessionContext};
use super::control::SessionControl;
use super::credentials::CredentialState;
use super::gaps::{GapStateFile, GapTracker};
use super::intake_sender::{self, IntakeSender};
use super::transport::{BrokerConnector, ConnectFuture, ConnectRequest};
use crate::clock::WallClock;
use crate::config::testing;
use crate::service::leadership::Leadership;
use crate::telemetry::Metrics;

struct NoBroker;

impl BrokerConnector for NoBroker {
    fn connect<'a>(&'a self, _: &'a ConnectRequest<'a>) -> ConnectFuture<'a> {
        Box::pin(std::future::pending())
    }
}

/// The time of day of [`context`].
pub const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

/// Returns the context of a session with the defaults of the configuration.
pub fn context() -> SessionContext {
    let metrics = Arc::new(Metrics::new());
    let mqtt = testing::mqtt();
    let process = ProcessContext {
        instance: Uuid::nil(),
        spool_dir: None,
        gaps: Arc::new(tokio::sync::Mutex::new(GapTracker::new(Duration::from_secs(1)))),
        gap_state: Arc::new(GapStateFile::within(None, &mqtt.client_id)),
        accounting: Arc::clone(metrics.accounting()),
        connector: Arc::new(NoBroker),
        clock: WallClock::simulated(|| NOW),
    };
    let filters = vec!["$share/group/acme/item".to_owned(), "acme/board".to_owned()];
    SessionContext::new(process, "acme".into(), mqtt, filters, metrics, Arc::default())
}

/// Returns a session that has not connected yet.
pub fn session(credentials: watch::Receiver<CredentialState>) -> MqttSession {
    let context = context();
    let control = SessionControl {
        stop: CancellationToken::new(),
        leadership: watch::Sender::new(Leadership::Held).subscribe(),
        credentials,
        reconnect: watch::Sender::new(context.mqtt.reconnect).subscribe(),
        retire: None,
    };
    let intake = IntakeSender::new(intake_sender::channel().0);
    let (_, feedback) = mpsc::channel(1);
    MqttSession::new(context, intake, feedback, control, Arc::default(), StdRng::seed_from_u64(1))
}
