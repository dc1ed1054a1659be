//! The stages of the bridge as in the service, joined by the same channels, between the model
//! broker and the model database.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use centiloc_bridge::config::keys::env_name;
use centiloc_bridge::config::{self, BackoffBounds, KeepPayload, MqttConfig};
use centiloc_bridge::decode::Decoder;
use centiloc_bridge::decode::stage::DecodeStage;
use centiloc_bridge::service::leadership::{Leadership, LockHolder};
use centiloc_bridge::session::MqttSession;
use centiloc_bridge::session::context::{ProcessContext, SessionContext};
use centiloc_bridge::session::control::SessionControl;
use centiloc_bridge::session::credentials::{CredentialSource, CredentialState};
use centiloc_bridge::session::gaps::GapTracker;
use centiloc_bridge::session::intake_sender::{self, IntakeSender};
use centiloc_bridge::spool;
use centiloc_bridge::spool::drain::DrainParts;
use centiloc_bridge::spool::stage::SpoolParts;
use centiloc_bridge::store::DatabaseStatus;
use centiloc_bridge::store::writer::{self, RetryWaits, WriterParts};
use centiloc_bridge::stream::accounting::MessageAccounting;
use centiloc_bridge::stream::gap::GapCause;
use centiloc_bridge::stream::message::{DecodedItem, Feedback};
use centiloc_bridge::telemetry::health::SessionPhase;
use centiloc_bridge::telemetry::{Health, Metrics};
use centiloc_bridge::topic;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::{DurableState, MessageLoss, ModelBroker, ModelConnector};
use crate::database::{ModelDatabase, ModelDisk};
use crate::spool::{ModelSpool, ModelStorage};
use crate::world::SimulatedWorld;

/// The models that surround the bridge.
#[derive(Clone)]
pub struct ModelSurroundings {
    pub world: Arc<SimulatedWorld>,
    pub broker: Arc<ModelBroker>,
    pub database: Arc<ModelDatabase>,
    /// The local disk, which survives the process on its own host.
    pub disk: Arc<ModelDisk>,
    pub spool: Arc<ModelSpool>,
    pub settings: ModelSettings,
}

impl DurableState for ModelSurroundings {
    fn has(&self, event: u64) -> bool {
        self.database.has(event) || self.spool.has(event) || self.spool.lost(event)
    }

    fn covers(&self, loss: &MessageLoss) -> bool {
        let causes: &[GapCause] = if loss.of_session {
            &[GapCause::SessionLost]
        } else {
            &[GapCause::Backpressure, GapCause::SpoolFull]
        };
        loss.excused
            || self.database.has_gap_over(loss.number, causes)
            || self.spool.has_gap(causes)
            // The event of the loss itself may have been damaged.
            || (self.spool.lost_news() && self.has_gap_of_damage())
    }
}

impl ModelSurroundings {
    fn has_gap_of_damage(&self) -> bool {
        let cause = GapCause::SpoolDamaged;
        self.database.gaps(cause) > 0 || self.spool.has_gap(&[cause])
    }
}

/// The configured values that a schedule draws.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// `mqtt.keep_alive`.
    pub keep_alive: Duration,
    /// `mqtt.max_unacked`.
    pub max_unacked: usize,
    /// `mqtt.max_packet_size`.
    pub max_packet_size: usize,
    /// `mqtt.queue_grace`.
    pub queue_grace: Duration,
    /// `batch.max_events`.
    pub max_events: usize,
    /// `spool.max_size`. `None` if the spool is off.
    pub spool: Option<u64>,
}

/// A process of the bridge.
pub struct ModelProcess {
    around: ModelSurroundings,
    state: ProcessContext,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    condition: Arc<DatabaseStatus>,
    leadership: watch::Sender<Leadership>,
    material: watch::Sender<CredentialState>,
    max_events: watch::Sender<usize>,
    reconnect: watch::Sender<BackoffBounds>,
    connections: Arc<AtomicU64>,
    pipeline: StagePipeline,
}

struct StagePipeline {
    stages: JoinSet<()>,
    stop: CancellationToken,
    abandon: CancellationToken,
}

impl ModelProcess {
    /// Starts a process, which waits for the leadership decision.
    pub fn start(around: &ModelSurroundings) -> Self {
        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(Health::default());
        let settings = &around.settings;
        let state = ProcessContext {
            instance: Uuid::from_u128(around.world.draw(1..=u64::MAX).into()),
            spool_dir: settings.spool.map(|_| "spool".to_owned()),
            gaps: Arc::new(Mutex::new(GapTracker::new(settings.queue_grace))),
            gap_state: Arc::clone(&around.disk) as _,
            accounting: Arc::clone(metrics.accounting()),
            connector: Arc::new(ModelConnector {
                world: Arc::clone(&around.world),
                broker: Arc::clone(&around.broker),
            }),
            clock: around.world.clock(),
        };
        let mut process = Self {
            state,
            condition: Arc::new(DatabaseStatus::new(Arc::clone(&health), Arc::clone(&metrics))),
            metrics,
            health,
            leadership: watch::Sender::new(Leadership::Pending),
            material: watch::Sender::new(material(around)),
            max_events: watch::Sender::new(settings.max_events),
            reconnect: watch::Sender::new(mqtt(settings).reconnect),
            connections: Arc::default(),
            pipeline: StagePipeline {
                stages: JoinSet::new(),
                stop: CancellationToken::new(),
                abandon: CancellationToken::new(),
            },
            around: around.clone(),
        };
        process.start_pipeline();
        process
    }

    fn start_pipeline(&mut self) {
        let (stop, abandon) = (CancellationToken::new(), CancellationToken::new());
        let (to_decode, intake) = intake_sender::channel();
        let (to_store, decoded) = mpsc::channel::<DecodedItem>(64);
        let (to_session, from_stages) = mpsc::channel::<Feedback>(4);
        let (stored, from_store) = mpsc::channel::<Feedback>(4);
        let (rows, spooled) = spool::stage::channel();
        let mut stages = JoinSet::new();
        let settings = &self.around.settings;
        let mqtt = mqtt(settings);
        let filters = topic::filters(&mqtt, "acme");
        let shared = SessionContext::new(
            self.state.clone(),
            "acme".to_owned(),
            mqtt.clone(),
            filters,
            Arc::clone(&self.metrics),
            Arc::clone(&self.health),
        );
        let orders = SessionControl {
            stop: stop.clone(),
            leadership: self.leadership.subscribe(),
            credentials: self.material.subscribe(),
            reconnect: self.reconnect.subscribe(),
            retire: None,
        };
        let session = MqttSession::new(
            shared,
            IntakeSender::new(to_decode),
            from_stages,
            orders,
            Arc::clone(&self.connections),
            self.around.world.rng(),
        );
        stages.spawn(session.run());
        let decode = DecodeStage {
            decoder: decoder(),
            max_packet_size: settings.max_packet_size,
            health: Arc::clone(&self.health),
        };
        if let Some(max_size) = settings.spool {
            let parts = SpoolParts {
                storage: ModelStorage(Arc::clone(&self.around.spool)),
                client_id: mqtt.client_id.clone(),
                max_size,
                intake,
                decode: rows,
                store: from_store,
                session: to_session,
                health: Arc::clone(&self.health),
                metrics: Arc::clone(&self.metrics),
                clock: self.around.world.clock(),
                abandon: abandon.clone(),
            };
            stages.spawn(spool::stage::run(parts));
            stages.spawn(decode.run([spooled], to_store));
        } else {
            let parts = DrainParts {
                client_id: mqtt.client_id.clone(),
                decode: rows,
                store: from_store,
                session: to_session,
                stop: stop.clone(),
            };
            stages.spawn(spool::drain::run(parts, std::future::ready(None)));
            stages.spawn(decode.run([spooled, intake], to_store));
        }
        let parts = WriterParts {
            store: Arc::clone(&self.around.database),
            session_expiry: mqtt.session_expiry,
            migrate: true,
            decoded,
            feedback: stored,
            max_events: self.max_events.subscribe(),
            waits: RetryWaits::default(),
            condition: Arc::clone(&self.condition),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            clock: self.around.world.clock(),
            rng: self.around.world.rng(),
            abandon: abandon.clone(),
        };
        stages.spawn(async move { writer::run(parts).await.unwrap() });
        self.pipeline = StagePipeline { stages, stop, abandon };
    }

    /// Returns the accounting of messages.
    pub fn accounting(&self) -> &MessageAccounting {
        &self.state.accounting
    }

    /// Informs the process about the holder of the session.
    pub fn lead(&self, leadership: Leadership) {
        self.around.world.note(format_args!("{} is told {leadership:?}", self.name()));
        self.leadership.send_replace(leadership);
    }

    /// Informs the process that another one holds the session.
    pub fn stand_by(&self) {
        self.lead(Leadership::HeldByOther(LockHolder::default()));
    }

    /// Replaces the credentials.
    pub fn renew_credentials(&self) {
        self.around.world.note(format_args!("{} renews its credentials", self.name()));
        self.material.send_replace(material(&self.around));
    }

    /// Changes `batch.max_events` and `mqtt.reconnect`, as a reload does.
    pub fn reload(&self) {
        let world = &self.around.world;
        self.max_events.send_replace(usize::try_from(world.draw(1..=60)).unwrap());
        world.note("reload");
    }

    /// Returns a short name of the process.
    pub fn name(&self) -> String {
        format!("process {:08x}", self.state.instance.as_u128() & 0xffff_ffff)
    }

    /// Kills all stages wherever they are.
    pub async fn kill(mut self) {
        self.around.world.note(format_args!("{} is killed", self.name()));
        self.pipeline.stages.shutdown().await;
    }

    /// Stops the stages and builds them again, as after a failed stage.
    pub async fn rebuild(&mut self) {
        self.around.world.note(format_args!("{} rebuilds its pipeline", self.name()));
        self.pipeline.stop.cancel();
        self.pipeline.abandon.cancel();
        self.pipeline.stages.shutdown().await;
        self.state.accounting.write_off();
        self.start_pipeline();
    }

    /// Stops as on SIGTERM. Returns true if that took no longer than `grace`.
    pub async fn stop(mut self, grace: Duration) -> bool {
        self.around.world.note(format_args!("{} stops", self.name()));
        self.pipeline.stop.cancel();
        let StagePipeline { stages, abandon, .. } = &mut self.pipeline;
        let all = async { while stages.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(grace, all).await.is_ok();
        if !in_time {
            abandon.cancel();
        }
        self.pipeline.stages.shutdown().await;
        self.around.world.note(format_args!("stopped, in time: {in_time}"));
        in_time
    }

    /// Returns the outcome of a stage that ended unexpectedly.
    pub fn ended_unasked(&mut self) -> Option<String> {
        let ended = self.pipeline.stages.try_join_next()?;
        Some(match ended {
            Ok(()) => "it returned".to_owned(),
            Err(error) => error.to_string(),
        })
    }

    /// Returns the part of health and metrics that does not show a session at rest.
    pub fn shown_unrest(&self) -> Option<String> {
        let session = self.health.read(|snapshot| snapshot.session.clone());
        let (unacked, age) =
            (self.metrics.unacked.get(), self.metrics.oldest_unacked_seconds.get());
        let rests = session.phase == SessionPhase::Subscribed && unacked == 0 && age == 0.0;
        (!rests || session.problem.is_some())
            .then(|| format!("health shows {session:?}, metrics {unacked} unacked since {age} s"))
    }

    /// Checks that every message is accounted for.
    pub fn check_accounts(&self) {
        let counts = self.accounting().counts();
        if counts.unaccounted() != 0 {
            self.around.world.violated(format_args!("messages unaccounted for: {counts:?}"));
        }
    }
}

fn decoder() -> Arc<Decoder> {
    static DECODER: OnceLock<Arc<Decoder>> = OnceLock::new();
    let config = config::DecodeConfig::new(None, KeepPayload::Never);
    Arc::clone(DECODER.get_or_init(|| Arc::new(Decoder::new(&config, "acme").unwrap())))
}

fn mqtt(settings: &ModelSettings) -> MqttConfig {
    static DEFAULTS: OnceLock<MqttConfig> = OnceLock::new();
    MqttConfig {
        keep_alive: settings.keep_alive,
        connect_timeout: Duration::from_secs(10),
        max_packet_size: settings.max_packet_size,
        max_unacked: settings.max_unacked,
        queue_grace: settings.queue_grace,
        reconnect: BackoffBounds { min: Duration::from_millis(200), max: Duration::from_secs(5) },
        ..DEFAULTS.get_or_init(defaults).clone()
    }
}

/// Loads a configuration of defaults with one event format.
fn defaults() -> MqttConfig {
    let keys = [
        ("tenant", "acme"),
        ("mqtt.host", "localhost"),
        ("mqtt.tls.enabled", "false"),
        ("mqtt.items", "json"),
        ("mqtt.boards", "off"),
        ("database.url", "postgres:///centiloc"),
    ];
    let environment = keys.map(|(key, value)| (env_name(key), value.to_owned()));
    config::load(Some(Path::new("/dev/null")), environment).unwrap().config.mqtt
}

fn material(around: &ModelSurroundings) -> CredentialState {
    let sources = CredentialSource::new("acme", &mqtt(&around.settings));
    CredentialState::Ready(Arc::new(sources.load().unwrap()))
}
