//! The composition root of `run`: builds the stages, joins them with bounded channels, rebuilds them
//! when one fails, and takes them down in order on SIGTERM or SIGINT.

mod background;
pub mod config_diff;
pub mod leadership;
mod notify;
mod pipeline;
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

use self::background::{BackgroundTask, BackgroundTasks};
use self::pipeline::Pipeline;
use self::reloader::ConfigReloader;
pub use self::retire::retire;
use crate::admin::map::feed::MapFeed;
use crate::backoff::Backoff;
use crate::clock::WallClock;
use crate::config::{BackoffBounds, Config, LoadedConfig};
use crate::decode::Decoder;
use crate::exit;
use crate::progress::{ProgressRegistry, idle};
use crate::service::config_diff::ConfigSource;
use crate::service::leadership::Leadership;
use crate::service::signals::{ReloadSignals, StopSignal, StopSignals};
use crate::service::supervisor::TaskOutcome;
use crate::session::context::ProcessContext;
use crate::session::credentials::renewal;
use crate::session::credentials::{CredentialSource, CredentialState};
use crate::session::gaps::GapStateFile;
use crate::session::gaps::GapTracker;
use crate::session::transport::connector::NetworkConnector;
use crate::state_file;
use crate::store::schema::MigrationError;
use crate::store::{DatabaseStatus, Store};
use crate::telemetry::history::FigureHistory;
use crate::telemetry::logging::LogHandle;
use crate::telemetry::{Health, Metrics};

/// Bounds of the wait before a failed pipeline or background task is started again.
const RESTART_BACKOFF: BackoffBounds =
    BackoffBounds { min: Duration::from_millis(500), max: Duration::from_secs(30) };

/// The time that the remaining tasks of a failed pipeline have to end.
const TAKE_DOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval at which a drain checks that everything is on disk.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Once everything is durable, a shutdown waits this long for the writes that the next process can do
/// without.
const BEST_EFFORT_WAIT: Duration = Duration::from_secs(2);

/// The parts of the service that outlive a pipeline.
struct BridgeService {
    config: Config,
    process: ProcessContext,
    gap_state: Arc<GapStateFile>,
    decoder: Arc<Decoder>,
    store: Arc<Store>,
    condition: Arc<DatabaseStatus>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    progress: Arc<ProgressRegistry>,
    map: Arc<MapFeed>,
    history: Arc<FigureHistory>,
    settings: LiveSettings,
    leadership: watch::Sender<Leadership>,
    material: watch::Sender<CredentialState>,
    /// Set by [`retire`], which ends the session for good.
    retire: Option<watch::Sender<bool>>,
    /// Connections are numbered over all pipelines, so that no token fits a later connection.
    connections: Arc<AtomicU64>,
}

/// Settings that a reload changes without a restart.
struct LiveSettings {
    reconnect: watch::Sender<BackoffBounds>,
    max_events: watch::Sender<usize>,
    keep_events: watch::Sender<Option<Duration>>,
    keep_payloads: watch::Sender<Option<Duration>>,
    sources: watch::Sender<CredentialSource>,
}

/// The inputs of the service from outside: signals and the configuration.
struct ServiceInputs {
    signals: StopSignals,
    reloads: ReloadSignals,
    reloader: ConfigReloader,
}

/// The end of the service, which decides the exit code.
enum ServiceEnd {
    Stopped { complete: bool },
    Forced(StopSignal),
    Refused(String),
}

impl ServiceEnd {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Stopped { complete: true } => ExitCode::SUCCESS,
            Self::Stopped { complete: false } => ExitCode::from(exit::FAILED),
            Self::Forced(stop) => ExitCode::from(stop.forced_exit_code()),
            Self::Refused(_) => ExitCode::from(exit::CONFIG),
        }
    }
}

/// Runs the service until a stop signal.
pub async fn run(
    loaded: LoadedConfig,
    source: ConfigSource,
    log: LogHandle,
) -> anyhow::Result<ExitCode> {
    let (signals, reloads) = (StopSignals::listen()?, ReloadSignals::listen()?);
    let service = BridgeService::new(loaded.config.clone())?;
    let reloader = ConfigReloader { source, log, in_force: loaded };
    let mut control = ServiceInputs { signals, reloads, reloader };
    let mut background = BackgroundTasks::start(&service).await;
    notify::ready();
    let supervise = service.supervise(&mut control, &mut background);
    let mut end = service.progress.watch("supervisor", idle(supervise)).await;
    if !matches!(end, ServiceEnd::Forced(_)) {
        notify::stopping();
        tokio::select! {
            () = background.take_down() => {}
            again = control.signals.stop() => end = ServiceEnd::Forced(again),
        }
    }
    // The last line of the log: its reader finds the service gone.
    service.report(&end);
    Ok(end.exit_code())
}

impl BridgeService {
    fn new(config: Config) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        for task in BackgroundTask::ALL.map(BackgroundTask::name).iter().chain(&pipeline::STAGES) {
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
        let sources = CredentialSource::new(&config.tenant, &config.mqtt);
        let material = watch::Sender::new(renewal::load_initial(&sources));
        let settings = LiveSettings {
            reconnect: watch::Sender::new(config.mqtt.reconnect),
            max_events: watch::Sender::new(config.batch.max_events),
            keep_events: watch::Sender::new(config.retention.events),
            keep_payloads: watch::Sender::new(config.retention.payloads),
            sources: watch::Sender::new(sources),
        };
        let gap_state = Arc::new(GapStateFile::within(state_dir.as_deref(), client_id));
        let process = ProcessContext {
            instance: Uuid::new_v4(),
            spool_dir: config.spool.as_ref().map(|spool| spool.dir.display().to_string()),
            gaps: Arc::new(Mutex::new(GapTracker::new(config.mqtt.queue_grace))),
            gap_state: Arc::clone(&gap_state) as _,
            accounting: Arc::clone(metrics.accounting()),
            connector: Arc::new(NetworkConnector::default()),
            clock: WallClock::system(),
        };
        let map_epoch = process.instance.simple().to_string();
        Ok(Self {
            map: Arc::new(MapFeed::new(map_epoch, Arc::clone(&metrics))),
            settings,
            material,
            leadership: watch::Sender::new(Leadership::default()),
            progress: Arc::default(),
            history: Arc::default(),
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

    /// Keeps a pipeline running until a stop signal, or until the database schema is one that this
    /// version cannot use.
    async fn supervise(
        &self,
        control: &mut ServiceInputs,
        background: &mut BackgroundTasks,
    ) -> ServiceEnd {
        let mut backoff = Backoff::new(RESTART_BACKOFF);
        loop {
            let started = Instant::now();
            let mut pipeline = self.start_pipeline();
            let ServiceInputs { signals, reloads, reloader } = control;
            let (stage, outcome) = tokio::select! {
                stop = signals.stop() => return self.drain(pipeline, stop, signals, reloader.grace()).await,
                failed = self.watch(&mut pipeline, background, reloads, reloader) => failed,
            };
            pipeline.take_down().await;
            self.process.accounting.write_off();
            if let TaskOutcome::Failed(_) = &outcome {
                return ServiceEnd::Refused(outcome.to_string());
            }
            backoff.was_up(started.elapsed());
            let wait = backoff.next(rand::random());
            let error = outcome.to_string();
            let retry_in = format!("{:.1}s", wait.as_secs_f64());
            tracing::error!(
                stage,
                error,
                retry_in,
                "a pipeline stage stopped unexpectedly; restarting the pipeline"
            );
            self.metrics.count_restart(stage);
            self.health.task_is_down(stage, &error);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = background.keep_running(self) => {}
                _ = control.signals.stop() => return ServiceEnd::Stopped { complete: true },
            }
            self.health.task_is_up(stage);
        }
    }

    /// Waits until a stage of the pipeline ends.
    async fn watch(
        &self,
        pipeline: &mut Pipeline,
        background: &mut BackgroundTasks,
        reloads: &mut ReloadSignals,
        reloader: &mut ConfigReloader,
    ) -> (&'static str, TaskOutcome<MigrationError>) {
        loop {
            tokio::select! {
                Some(failed) = pipeline.group.next() => return failed,
                () = background.keep_running(self) => {}
                () = reloads.next() => reloader.reload(self).await,
            }
        }
    }

    /// Takes no more messages and waits until the stages have finished those they hold.
    async fn drain(
        &self,
        mut pipeline: Pipeline,
        stop: StopSignal,
        signals: &mut StopSignals,
        grace: Duration,
    ) -> ServiceEnd {
        notify::stopping();
        tracing::info!(signal = stop.name(), ?grace, "stopping: committing what was received");
        pipeline.stop.cancel();
        let abandon = pipeline.abandon.clone();
        let finish = async {
            let deadline = async {
                self.wait_for_drain_deadline(grace).await;
                abandon.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                result = pipeline.group.finish(grace) => result,
                () = deadline => unreachable!("the deadline only cancels"),
            }
        };
        tokio::select! {
            (failed, in_time) = finish => {
                for (stage, error) in &failed {
                    tracing::error!(stage, %error, "a pipeline stage failed during shutdown");
                }
                let complete = self.is_everything_durable() || !abandon.is_cancelled();
                ServiceEnd::Stopped { complete: in_time && complete && failed.is_empty() }
            }
            again = signals.stop() => ServiceEnd::Forced(again),
        }
    }

    /// Returns true if every message received and every possible loss outlasts this process, even if
    /// the database stays unavailable.
    fn is_everything_durable(&self) -> bool {
        self.process.accounting.counts().uncommitted() == 0 && self.gap_state.is_complete()
    }

    /// Waits until the stages have had their time to finish. The last tenth of the grace is for the
    /// DISCONNECT. Once everything is durable, a database that does not answer is not waited for.
    async fn wait_for_drain_deadline(&self, grace: Duration) {
        let durable = async {
            let mut since = Instant::now();
            while since.elapsed() < BEST_EFFORT_WAIT {
                tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
                if !self.is_everything_durable() {
                    since = Instant::now();
                }
            }
        };
        tokio::select! {
            () = durable => {}
            () = tokio::time::sleep(grace.mul_f64(0.9)) => {}
        }
    }

    /// Logs the end of the service.
    fn report(&self, end: &ServiceEnd) {
        let uncommitted = self.process.accounting.counts().uncommitted();
        let spooled = self.health.read(|s| s.spool.as_ref().map_or(0, |spool| spool.events));
        match end {
            ServiceEnd::Stopped { complete: true } if spooled > 0 => tracing::info!(
                spooled,
                "stopped: everything received is acknowledged; the next start forwards the messages \
                 left in the spool"
            ),
            ServiceEnd::Stopped { complete: true } => {
                tracing::info!("stopped: everything received is committed and acknowledged");
            }
            ServiceEnd::Stopped { complete: false } => tracing::error!(
                uncommitted,
                gaps_recorded = self.gap_state.is_complete(),
                "shutdown.grace expired with uncommitted messages: they were not acknowledged, and \
                 the broker will redeliver them"
            ),
            ServiceEnd::Forced(signal) => tracing::warn!(
                signal = signal.name(),
                uncommitted,
                "forced shutdown by a second signal: the broker will redeliver uncommitted messages"
            ),
            ServiceEnd::Refused(error) => {
                tracing::error!(error, "the service cannot run with this database schema");
            }
        }
    }
}
