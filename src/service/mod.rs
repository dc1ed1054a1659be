//! The composition root of `run`: builds the stages, joins them with bounded channels, rebuilds
//! them when one falls, and takes them down in order when told to stop.

mod background;
pub mod leadership;
mod notify;
mod pipeline;
pub mod reload;
mod reloader;
mod retire;
pub mod signals;
pub mod supervisor;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use uuid::Uuid;

use self::background::Edge;
use self::pipeline::Pipeline;
use self::reloader::Reloader;
pub use self::retire::retire;
use crate::backoff::Backoff;
use crate::clock::WallClock;
use crate::config::{Config, Loaded, Reconnect};
use crate::decode::Decoder;
use crate::exit;
use crate::progress::{Registry, idle};
use crate::service::leadership::Leadership;
use crate::service::reload::Source;
use crate::service::signals::{Reloads, Signals, Stop};
use crate::service::supervisor::Outcome;
use crate::session::credentials::{Material, Sources};
use crate::session::gap_state_file::GapStateFile;
use crate::session::gap_tracker::GapTracker;
use crate::session::renewal;
use crate::session::shared::Process;
use crate::session::transport::connector::NetworkConnector;
use crate::state_file;
use crate::store::schema::MigrationError;
use crate::store::{DatabaseStatus, Store};
use crate::telemetry::logging::LogHandle;
use crate::telemetry::{Health, Metrics};

/// Bounds of the wait before a fallen pipeline is rebuilt.
const REBUILD: Reconnect =
    Reconnect { min: Duration::from_millis(500), max: Duration::from_secs(30) };

/// How long the stages left over from a fallen pipeline may take to end.
const TAKE_DOWN: Duration = Duration::from_secs(5);

/// How often a stop looks whether everything is on disk.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// With everything safe, how long a stop waits for the writes that the next process can do without.
const BEST_EFFORT: Duration = Duration::from_secs(2);

/// Everything that outlives a pipeline.
struct Service {
    config: Config,
    process: Process,
    gap_state: Arc<GapStateFile>,
    decoder: Arc<Decoder>,
    store: Arc<Store>,
    condition: Arc<DatabaseStatus>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    progress: Arc<Registry>,
    dials: Dials,
    leadership: watch::Sender<Leadership>,
    material: watch::Sender<Material>,
    /// The session is to end for good; see [`retire`].
    retire: Option<watch::Sender<bool>>,
    /// Connections are numbered over all pipelines, so that no token fits a later connection.
    connections: Arc<AtomicU64>,
}

/// What a reload turns.
struct Dials {
    reconnect: watch::Sender<Reconnect>,
    max_events: watch::Sender<usize>,
    keep_events: watch::Sender<Option<Duration>>,
    keep_payloads: watch::Sender<Option<Duration>>,
    sources: watch::Sender<Sources>,
}

/// What reaches the service from outside.
struct Control {
    signals: Signals,
    reloads: Reloads,
    reloader: Reloader,
}

/// How the service ended.
enum End {
    Stopped { complete: bool },
    Forced(Stop),
    Refused(String),
}

impl End {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Stopped { complete: true } => ExitCode::SUCCESS,
            Self::Stopped { complete: false } => ExitCode::from(exit::FAILED),
            Self::Forced(stop) => ExitCode::from(stop.forced_exit_code()),
            Self::Refused(_) => ExitCode::from(exit::CONFIG),
        }
    }
}

/// Runs the service until it is told to stop.
pub async fn run(loaded: Loaded, source: Source, log: LogHandle) -> anyhow::Result<ExitCode> {
    let (signals, reloads) = (Signals::listen()?, Reloads::listen()?);
    let service = Service::new(loaded.config.clone())?;
    let reloader = Reloader { source, log, in_force: loaded };
    let mut control = Control { signals, reloads, reloader };
    let mut edge = Edge::start(&service).await;
    notify::ready();
    let supervise = service.supervise(&mut control, &mut edge);
    let mut end = service.progress.watch("supervisor", idle(supervise)).await;
    if !matches!(end, End::Forced(_)) {
        notify::stopping();
        tokio::select! {
            () = edge.take_down() => {}
            again = control.signals.stop() => end = End::Forced(again),
        }
    }
    // The last thing that happens: who reads that the service stopped finds it gone.
    service.report(&end);
    Ok(end.exit_code())
}

impl Service {
    fn new(config: Config) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        for task in background::TASKS.iter().chain(&pipeline::STAGES) {
            metrics.show_restarts(task);
        }
        let health = Arc::new(Health::default());
        let decoder = Arc::new(Decoder::new(&config.decode, &config.tenant)?);
        decoder.require(&config.decode, &config.mqtt)?;
        let store = Arc::new(Store::new(&config.database, config.retention.partition)?);
        let state_dir = state_file::folder(config.spool.as_ref().map(|spool| &*spool.dir));
        let client_id = &config.mqtt.client_id;
        store.remember_position(state_dir.as_deref(), client_id, Arc::clone(&metrics));
        let condition = Arc::new(DatabaseStatus::new(Arc::clone(&health), Arc::clone(&metrics)));
        let sources = Sources::new(&config.tenant, &config.mqtt);
        let material = watch::Sender::new(renewal::first(&sources));
        let dials = Dials {
            reconnect: watch::Sender::new(config.mqtt.reconnect),
            max_events: watch::Sender::new(config.batch.max_events),
            keep_events: watch::Sender::new(config.retention.events),
            keep_payloads: watch::Sender::new(config.retention.payloads),
            sources: watch::Sender::new(sources),
        };
        let gap_state = Arc::new(GapStateFile::within(state_dir.as_deref(), client_id));
        let process = Process {
            instance: Uuid::new_v4(),
            spool_dir: config.spool.as_ref().map(|spool| spool.dir.display().to_string()),
            gaps: Arc::new(Mutex::new(GapTracker::new(config.mqtt.queue_grace))),
            gap_state: Arc::clone(&gap_state) as _,
            accounting: Arc::clone(metrics.accounting()),
            connector: Arc::new(NetworkConnector::default()),
            clock: WallClock::system(),
        };
        Ok(Self {
            dials,
            material,
            leadership: watch::Sender::new(Leadership::default()),
            progress: Arc::default(),
            process,
            gap_state,
            decoder,
            store,
            condition,
            metrics,
            health,
            retire: None,
            connections: Arc::default(),
            config,
        })
    }

    /// Keeps a pipeline running until a signal comes or the database refuses the program.
    async fn supervise(&self, control: &mut Control, edge: &mut Edge) -> End {
        let mut backoff = Backoff::new(REBUILD);
        loop {
            let started = Instant::now();
            let mut pipeline = self.start_pipeline();
            let Control { signals, reloads, reloader } = control;
            let (stage, outcome) = tokio::select! {
                stop = signals.stop() => return self.drain(pipeline, stop, signals, reloader.grace()).await,
                fallen = self.watch(&mut pipeline, edge, reloads, reloader) => fallen,
            };
            pipeline.take_down().await;
            self.process.accounting.write_off();
            if let Outcome::Failed(_) = &outcome {
                return End::Refused(outcome.to_string());
            }
            backoff.was_up(started.elapsed());
            let wait = backoff.next(rand::random());
            let error = outcome.to_string();
            let retry_in = format!("{:.1}s", wait.as_secs_f64());
            tracing::error!(stage, error, retry_in, "a stage failed; the pipeline is rebuilt");
            self.metrics.count_restart(stage);
            self.health.task_is_down(stage, &error);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = edge.keep_running(self) => {}
                _ = control.signals.stop() => return End::Stopped { complete: true },
            }
            self.health.task_is_up(stage);
        }
    }

    /// Waits until a stage of the pipeline ends.
    async fn watch(
        &self,
        pipeline: &mut Pipeline,
        edge: &mut Edge,
        reloads: &mut Reloads,
        reloader: &mut Reloader,
    ) -> (&'static str, Outcome<MigrationError>) {
        loop {
            tokio::select! {
                Some(fallen) = pipeline.group.next() => return fallen,
                () = edge.keep_running(self) => {}
                () = reloads.next() => reloader.reload(self).await,
            }
        }
    }

    async fn drain(
        &self,
        mut pipeline: Pipeline,
        stop: Stop,
        signals: &mut Signals,
        grace: Duration,
    ) -> End {
        notify::stopping();
        tracing::info!(signal = stop.name(), ?grace, "stopping: committing what was received");
        pipeline.stop.cancel();
        let abandon = pipeline.abandon.clone();
        let finish = async {
            let last_call = async {
                self.until_last_call(grace).await;
                abandon.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                result = pipeline.group.finish(grace) => result,
                () = last_call => unreachable!("last call never ends"),
            }
        };
        tokio::select! {
            (fallen, in_time) = finish => {
                for (stage, cause) in &fallen {
                    tracing::error!(stage, %cause, "a stage fell while stopping");
                }
                let complete = self.all_is_safe() || !abandon.is_cancelled();
                End::Stopped { complete: in_time && complete && fallen.is_empty() }
            }
            again = signals.stop() => End::Forced(again),
        }
    }

    /// Returns true if nothing received and no possible loss would be missing after the end of this
    /// process, whatever becomes of the database.
    fn all_is_safe(&self) -> bool {
        self.process.accounting.counts().uncommitted() == 0 && self.gap_state.is_complete()
    }

    /// Waits until the stages have had their time to finish. The last tenth of the grace is for the
    /// DISCONNECT; and where all is safe, a database that does not answer is not waited for.
    async fn until_last_call(&self, grace: Duration) {
        let safe = async {
            let mut since = Instant::now();
            while since.elapsed() < BEST_EFFORT {
                tokio::time::sleep(LOOK_AGAIN).await;
                if !self.all_is_safe() {
                    since = Instant::now();
                }
            }
        };
        tokio::select! {
            () = safe => {}
            () = tokio::time::sleep(grace.mul_f64(0.9)) => {}
        }
    }

    /// Logs how the service ended.
    fn report(&self, end: &End) {
        let uncommitted = self.process.accounting.counts().uncommitted();
        let spooled = self.health.read(|s| s.spool.as_ref().map_or(0, |spool| spool.events));
        match end {
            End::Stopped { complete: true } if spooled > 0 => tracing::info!(
                spooled,
                "stopped: everything received is acknowledged; the next start goes on with what is \
                 left in the spool"
            ),
            End::Stopped { complete: true } => {
                tracing::info!("stopped: everything received is committed and acknowledged");
            }
            End::Stopped { complete: false } => tracing::error!(
                uncommitted,
                gaps_recorded = self.gap_state.is_complete(),
                "stopped at the deadline of shutdown.grace: what is not committed was not \
                 acknowledged, and the broker will deliver it again"
            ),
            End::Forced(signal) => tracing::warn!(
                signal = signal.name(),
                uncommitted,
                "stopped by a second signal: the broker will deliver again what is not committed"
            ),
            End::Refused(error) => tracing::error!(error, "the service cannot run"),
        }
    }
}
