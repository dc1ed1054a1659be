//! The composition root of `run`: builds the stages, joins them with bounded channels, rebuilds
//! them when one falls, and takes them down in order when told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admin::{self, AdminState};
use crate::backoff::Backoff;
use crate::config::{Config, Reconnect};
use crate::decode::Decoder;
use crate::decode::stage::Stage as DecodeStage;
use crate::exit;
use crate::message::{Decoded, Feedback, InFlight};
use crate::session::Session;
use crate::session::intake::{self, Door};
use crate::session::shared::Shared;
use crate::signals::{Signals, Stop};
use crate::store::maintenance::{self, MaintenanceParts};
use crate::store::schema::SchemaError;
use crate::store::writer::{self, Waits, WriterParts};
use crate::store::{Condition, Identity, Store};
use crate::supervisor::{Group, Outcome};
use crate::telemetry::{Health, Heartbeat, Metrics};
use crate::{topic, watchdog};

/// Acknowledgements on their way back. The session always takes them, so few are enough; each
/// holds a whole batch.
const FEEDBACK_CAPACITY: usize = 64;

/// Bounds of the wait before a fallen pipeline is rebuilt.
const REBUILD: Reconnect =
    Reconnect { min: Duration::from_millis(500), max: Duration::from_secs(30) };

/// How long the stages left over from a fallen pipeline may take to end.
const TAKE_DOWN: Duration = Duration::from_secs(5);

/// Everything that outlives a pipeline.
struct Service {
    config: Config,
    instance: Uuid,
    decoder: Arc<Decoder>,
    store: Arc<Store>,
    condition: Arc<Condition>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    in_flight: Arc<InFlight>,
    /// Connections are numbered over all pipelines, so that no token fits a later connection.
    connections: Arc<AtomicU64>,
}

/// The stages between broker and database, from session to store.
struct Pipeline {
    group: Group<SchemaError>,
    /// Stop taking in; finish what is inside.
    stop: CancellationToken,
    /// Stop retrying; what is not committed stays with the broker.
    abandon: CancellationToken,
}

/// What stands beside the pipeline.
struct Edge {
    group: Group<SchemaError>,
    stop: CancellationToken,
}

/// How the service ended.
enum End {
    Stopped { complete: bool },
    Forced(Stop),
    Refused(String),
}

/// Runs the service until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let service = Service::new(config)?;
    let mut edge = service.start_edge().await?;
    watchdog::ready();
    let end = service.supervise(&mut signals, &mut edge).await;
    watchdog::stopping();
    edge.take_down().await;
    Ok(match end {
        End::Stopped { complete: true } => ExitCode::SUCCESS,
        End::Stopped { complete: false } => ExitCode::from(exit::FAILED),
        End::Forced(stop) => ExitCode::from(stop.forced_exit_code()),
        End::Refused(problem) => {
            tracing::error!(problem, "the service cannot run");
            ExitCode::from(exit::CONFIG)
        }
    })
}

impl Service {
    fn new(config: Config) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let health = Arc::new(Health::default());
        let decoder = Arc::new(Decoder::new(&config.decode, &config.tenant)?);
        decoder.require(&config.decode, &config.mqtt)?;
        let store = Arc::new(Store::new(&config.database, config.retention.partition)?);
        let condition = Arc::new(Condition::new(Arc::clone(&health), Arc::clone(&metrics)));
        Ok(Self {
            instance: Uuid::new_v4(),
            decoder,
            store,
            condition,
            metrics,
            health,
            in_flight: Arc::default(),
            connections: Arc::default(),
            config,
        })
    }

    /// What stands beside the pipeline and outlives it.
    async fn start_edge(&self) -> anyhow::Result<Edge> {
        let mut edge = Edge { group: Group::default(), stop: CancellationToken::new() };
        let heartbeat = Arc::new(Heartbeat::default());
        if let Some(address) = self.config.admin_listen {
            let listener = admin::bind(address).await?;
            let state = AdminState::new(
                &self.config,
                self.instance,
                Arc::clone(&self.metrics),
                Arc::clone(&self.health),
                Arc::clone(&heartbeat),
            );
            let stop = edge.stop.clone();
            edge.group.spawn("admin", async move {
                admin::serve(listener, state, stop).await;
                Ok(())
            });
        }
        let keeping_house = maintenance::run(MaintenanceParts {
            store: Arc::clone(&self.store),
            keep_events: self.config.retention.events,
            condition: Arc::clone(&self.condition),
            health: Arc::clone(&self.health),
            stop: edge.stop.clone(),
        });
        edge.group.spawn("maintenance", async move {
            keeping_house.await;
            Ok(())
        });
        let stop = edge.stop.clone();
        edge.group.spawn("watchdog", async move {
            watchdog::run(heartbeat, stop).await;
            Ok(())
        });
        Ok(edge)
    }

    /// The admin endpoint fell, not the pipeline: start it again beside the running one.
    async fn restart_edge(&self, edge: &mut Edge, task: &str, cause: &str) {
        tracing::error!(task, cause, "a task beside the pipeline ended unasked; starting it again");
        edge.take_down().await;
        match self.start_edge().await {
            Ok(fresh) => *edge = fresh,
            Err(error) => tracing::error!(error = format!("{error:#}"), "it could not be started"),
        }
    }

    fn start_pipeline(&self) -> Pipeline {
        let (stop, abandon) = (CancellationToken::new(), CancellationToken::new());
        let (intake_sender, intake_receiver) = intake::channel();
        // One batch in the writer's hands and one decoded ahead.
        let (decoded_sender, decoded_receiver) =
            mpsc::channel::<Decoded>(self.config.batch.max_events * 2);
        let (feedback_sender, feedback_receiver) = mpsc::channel::<Feedback>(FEEDBACK_CAPACITY);

        let mut group = Group::default();
        let session = self.session(intake_sender, feedback_receiver, stop.clone());
        group.spawn("session", async move {
            session.run().await;
            Ok(())
        });
        let decode = DecodeStage {
            decoder: Arc::clone(&self.decoder),
            max_packet_size: self.config.mqtt.max_packet_size,
            health: Arc::clone(&self.health),
        };
        group.spawn("decode", async move {
            decode.run(intake_receiver, decoded_sender).await;
            Ok(())
        });
        group.spawn(
            "store",
            writer::run(self.writer(decoded_receiver, feedback_sender, abandon.clone())),
        );
        Pipeline { group, stop, abandon }
    }

    fn session(
        &self,
        intake: mpsc::Sender<crate::message::Intake>,
        feedback: mpsc::Receiver<Feedback>,
        stop: CancellationToken,
    ) -> Session {
        let mqtt = &self.config.mqtt;
        let shared = Shared::new(
            self.config.tenant.clone(),
            mqtt.clone(),
            topic::filters(mqtt, &self.config.tenant),
            Arc::clone(&self.metrics),
            Arc::clone(&self.health),
        );
        let door = Door::new(intake, Arc::clone(&self.in_flight), mqtt.max_unacked);
        Session::new(shared, door, feedback, stop, Arc::clone(&self.connections))
    }

    fn writer(
        &self,
        decoded: mpsc::Receiver<Decoded>,
        feedback: mpsc::Sender<Feedback>,
        abandon: CancellationToken,
    ) -> WriterParts {
        WriterParts {
            store: Arc::clone(&self.store),
            identity: Identity {
                client_id: self.config.mqtt.client_id.clone(),
                instance: self.instance,
                session_expiry: self.config.mqtt.session_expiry,
            },
            migrate: self.config.database.migrate,
            decoded,
            feedback,
            max_events: self.config.batch.max_events,
            waits: Waits::default(),
            condition: Arc::clone(&self.condition),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            abandon,
        }
    }

    /// Keeps a pipeline running until a signal comes or the database refuses the program.
    async fn supervise(&self, signals: &mut Signals, edge: &mut Edge) -> End {
        let mut backoff = Backoff::new(REBUILD);
        loop {
            let started = Instant::now();
            let mut pipeline = self.start_pipeline();
            let (stage, outcome) = tokio::select! {
                stop = signals.stop() => return self.drain(pipeline, stop, signals).await,
                fallen = self.watch(&mut pipeline, edge) => fallen,
            };
            pipeline.take_down().await;
            if let Outcome::Failed(_) = &outcome {
                return End::Refused(outcome.to_string());
            }
            backoff.was_up(started.elapsed());
            let wait = backoff.next(rand::random());
            tracing::error!(stage, cause = %outcome, ?wait, "a stage ended unasked; rebuilding the pipeline");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = signals.stop() => return End::Stopped { complete: true },
            }
        }
    }

    /// Waits until a stage of the pipeline ends.
    async fn watch(
        &self,
        pipeline: &mut Pipeline,
        edge: &mut Edge,
    ) -> (&'static str, Outcome<SchemaError>) {
        loop {
            tokio::select! {
                Some(fallen) = pipeline.group.next() => return fallen,
                Some((task, outcome)) = edge.group.next() => {
                    self.restart_edge(edge, task, &outcome.to_string()).await;
                }
            }
        }
    }

    async fn drain(&self, mut pipeline: Pipeline, stop: Stop, signals: &mut Signals) -> End {
        let grace = self.config.shutdown_grace;
        tracing::info!(signal = stop.name(), ?grace, "stopping: committing what was received");
        pipeline.stop.cancel();
        let abandon = pipeline.abandon.clone();
        let finish = async {
            // The last tenth is for the DISCONNECT.
            let last_call = async {
                tokio::time::sleep(grace.mul_f64(0.9)).await;
                abandon.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                result = pipeline.group.finish(grace) => result,
                () = last_call => unreachable!("last call never ends"),
            }
        };
        tokio::select! {
            (_, in_time) = finish => self.report_drain(in_time && !abandon.is_cancelled()),
            again = signals.stop() => {
                tracing::warn!("stopping at once: what is not committed stays with the broker");
                End::Forced(again)
            }
        }
    }

    fn report_drain(&self, complete: bool) -> End {
        let left = self.in_flight.messages();
        if complete {
            tracing::info!("stopped: everything received is committed and acknowledged");
        } else {
            tracing::error!(
                left,
                "stopped at the deadline of shutdown.grace: what is not committed was not \
                 acknowledged and stays with the broker"
            );
        }
        End::Stopped { complete }
    }
}

impl Edge {
    async fn take_down(&mut self) {
        self.stop.cancel();
        self.group.finish(TAKE_DOWN).await;
    }
}

impl Pipeline {
    /// Ends what still runs of a fallen pipeline. Nothing is lost: what was not committed was
    /// not acknowledged.
    async fn take_down(&mut self) {
        self.stop.cancel();
        self.abandon.cancel();
        self.group.finish(TAKE_DOWN).await;
    }
}
