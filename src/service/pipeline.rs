//! Builds the stages of the pipeline and the bounded channels that join them.

use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{BridgeService, TAKE_DOWN_TIMEOUT};
use crate::decode::stage::DecodeStage;
use crate::service::supervisor::TaskGroup;
use crate::session::MqttSession;
use crate::session::context::SessionContext;
use crate::session::control::SessionControl;
use crate::session::intake_sender::{self, IntakeSender};
use crate::spool::drain::DrainParts;
use crate::spool::sqlite::SqliteStorage;
use crate::spool::stage::SpoolParts;
use crate::store::schema::MigrationError;
use crate::store::writer::{self, RetryWaits, WriterParts};
use crate::stream::message::{DecodedItem, Feedback, StreamItem};
use crate::{spool, topic};

/// Capacity of the feedback channels. The session always receives, so few are enough. Each entry
/// holds the acknowledgements of a whole batch.
const FEEDBACK_CAPACITY: usize = 64;

/// Smallest batch that the channel from decode to store has room for, in events. A reload can raise
/// `batch.max_events` up to this number with full effect. A larger value needs a restart for it.
const MIN_DECODED_CAPACITY: usize = 1_000;

/// Names of the stages, in the log and in the metrics label.
pub(super) const STAGES: [&str; 4] = ["session", "spool", "decode", "store"];

/// The stages between broker and database, from session to store.
pub(super) struct Pipeline {
    pub group: TaskGroup<MigrationError>,
    /// Stops the intake. The stages finish the messages that they hold.
    pub stop: CancellationToken,
    /// Stops the retries. Uncommitted messages stay with the broker.
    pub abandon: CancellationToken,
}

impl BridgeService {
    pub(super) fn start_pipeline(&self) -> Pipeline {
        let (stop, abandon) = (CancellationToken::new(), CancellationToken::new());
        let (intake_sender, intake) = intake_sender::channel();
        // One batch that is being written and one decoded ahead.
        let room = (*self.settings.max_events.borrow()).max(MIN_DECODED_CAPACITY) * 2;
        let (decoded_sender, decoded) = mpsc::channel::<DecodedItem>(room);
        let (to_session, from_stages) = mpsc::channel::<Feedback>(FEEDBACK_CAPACITY);
        let (stored, from_store) = mpsc::channel::<Feedback>(FEEDBACK_CAPACITY);

        let mut pipeline = Pipeline {
            group: TaskGroup::new(Arc::clone(&self.progress)),
            stop: stop.clone(),
            abandon: abandon.clone(),
        };
        let session = self.session(intake_sender, from_stages, stop.clone());
        pipeline.spawn("session", session.run());
        let (rows, spooled) = spool::stage::channel();
        let decode = DecodeStage {
            decoder: Arc::clone(&self.decoder),
            max_packet_size: self.config.mqtt.max_packet_size,
            health: Arc::clone(&self.health),
        };
        let client_id = self.config.mqtt.client_id.clone();
        if let Some(config) = &self.config.spool {
            let parts = SpoolParts {
                storage: SqliteStorage { dir: config.dir.clone(), client_id: client_id.clone() },
                client_id,
                max_size: config.max_size,
                intake,
                decode: rows,
                store: from_store,
                session: to_session,
                health: Arc::clone(&self.health),
                metrics: Arc::clone(&self.metrics),
                clock: self.process.clock.clone(),
                abandon: abandon.clone(),
            };
            pipeline.spawn("spool", spool::stage::run(parts));
            pipeline.spawn("decode", decode.run([spooled], decoded_sender));
        } else {
            let parts = DrainParts {
                client_id: client_id.clone(),
                decode: rows,
                store: from_store,
                session: to_session,
                stop,
            };
            let store = Arc::clone(&self.store);
            let leftover = async move {
                Box::pin(spool::drain::run(parts, store.find_spool(&client_id))).await;
            };
            pipeline.spawn("spool", leftover);
            pipeline.spawn("decode", decode.run([spooled, intake], decoded_sender));
        }
        let writer = writer::run(self.writer(decoded, stored, abandon));
        pipeline.group.spawn("store", writer);
        pipeline
    }

    fn session(
        &self,
        intake: mpsc::Sender<StreamItem>,
        feedback: mpsc::Receiver<Feedback>,
        stop: CancellationToken,
    ) -> MqttSession {
        let mqtt = &self.config.mqtt;
        let shared = SessionContext::new(
            self.process.clone(),
            self.config.tenant.clone(),
            mqtt.clone(),
            topic::filters(mqtt, &self.config.tenant),
            Arc::clone(&self.metrics),
            Arc::clone(&self.health),
        );
        let intake = IntakeSender::new(intake);
        let orders = SessionControl {
            stop,
            leadership: self.leadership.subscribe(),
            credentials: self.material.subscribe(),
            reconnect: self.settings.reconnect.subscribe(),
            retire: self.retire.clone(),
        };
        let connections = Arc::clone(&self.connections);
        MqttSession::new(shared, intake, feedback, orders, connections, StdRng::from_os_rng())
    }

    fn writer(
        &self,
        decoded: mpsc::Receiver<DecodedItem>,
        feedback: mpsc::Sender<Feedback>,
        abandon: CancellationToken,
    ) -> WriterParts {
        WriterParts {
            store: Arc::clone(&self.store),
            session_expiry: self.config.mqtt.session_expiry,
            migrate: self.config.database.migrate,
            decoded,
            feedback,
            max_events: self.settings.max_events.subscribe(),
            waits: RetryWaits::default(),
            condition: Arc::clone(&self.condition),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            clock: self.process.clock.clone(),
            rng: StdRng::from_os_rng(),
            abandon,
        }
    }
}

impl Pipeline {
    fn spawn(&mut self, name: &'static str, stage: impl Future<Output = ()> + Send + 'static) {
        self.group.spawn(name, async move {
            stage.await;
            Ok(())
        });
    }

    /// Ends the remaining tasks of a failed pipeline. Nothing is lost: uncommitted messages were not
    /// acknowledged.
    pub async fn take_down(&mut self) {
        self.stop.cancel();
        self.abandon.cancel();
        self.group.finish(TAKE_DOWN_TIMEOUT).await;
    }
}
