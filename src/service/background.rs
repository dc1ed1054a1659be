//! Background tasks that outlive the pipeline. A task that fails is restarted alone: the others, above
//! all the one that holds the single-writer lock, must not be interrupted by it.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{BridgeService, RESTART_BACKOFF, TAKE_DOWN_TIMEOUT};
use crate::admin::map::feed::{self, MapFeedParts};
use crate::admin::{self, AdminParts, AdminState};
use crate::backoff::{Backoff, STABLE_AFTER};
use crate::progress::idle;
use crate::service::notify;
use crate::service::supervisor::TaskGroup;
use crate::session::credentials::renewal::{self, RenewalParts};
use crate::store::archive::{self, ArchiveParts};
use crate::store::lock::{self, LockParts};
use crate::store::maintenance::members::GroupMembership;
use crate::store::maintenance::{self, MaintenanceParts};
use crate::store::stays::{self, StaysParts};
use crate::topic;

/// A task that runs next to the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BackgroundTask {
    /// Takes and holds the single-writer lock.
    Lock,
    /// Loads the credential files again when they change.
    Credentials,
    /// Maintains partitions, retention and the record of the open connection.
    Maintenance,
    /// Computes the stays of tags.
    Stays,
    /// Reads the database for the map while somebody looks at it.
    Map,
    /// Archives events past their retention.
    Archive,
    /// Serves the admin endpoint.
    Admin,
    /// Notifies the service manager.
    Watchdog,
}

impl BackgroundTask {
    /// Every task, in the order of their start. The lock comes first: the session waits for it.
    pub(super) const ALL: [Self; 8] = [
        Self::Lock,
        Self::Credentials,
        Self::Maintenance,
        Self::Stays,
        Self::Map,
        Self::Archive,
        Self::Admin,
        Self::Watchdog,
    ];

    /// Returns the name in the log, in `/livez` and in the metrics label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Credentials => "credentials",
            Self::Maintenance => "maintenance",
            Self::Stays => "stays",
            Self::Map => "map",
            Self::Archive => "archive",
            Self::Admin => "admin",
            Self::Watchdog => "watchdog",
        }
    }
}

/// The running background tasks, and the restarts that are due.
pub(super) struct BackgroundTasks {
    group: TaskGroup<anyhow::Error>,
    restarts: Vec<TaskRestart>,
    stop: CancellationToken,
}

/// Decides when one task is restarted.
struct TaskRestart {
    task: BackgroundTask,
    backoff: Backoff,
    started: Instant,
    /// Time of the next start. `None` while the task runs.
    due: Option<Instant>,
    /// The last error, until the task has been up for [`STABLE_AFTER`].
    error: Option<String>,
}

impl TaskRestart {
    fn started(task: BackgroundTask) -> Self {
        let backoff = Backoff::new(RESTART_BACKOFF);
        Self { task, backoff, started: Instant::now(), due: None, error: None }
    }

    /// Schedules the next start after a failure. Returns the wait, and true if the error differs from
    /// that of the failure before.
    fn failed(&mut self, error: &str, jitter: f64) -> (Duration, bool) {
        let up = self.started.elapsed();
        self.backoff.was_up(up);
        let wait = self.backoff.next(jitter);
        self.due = Some(Instant::now() + wait);
        let known = up < STABLE_AFTER && self.error.as_deref() == Some(error);
        self.error = Some(error.to_owned());
        (wait, !known)
    }
}

impl BackgroundTasks {
    /// Starts all tasks. An admin endpoint that cannot listen is tried again later: storing events
    /// matters more than showing them.
    pub async fn start(service: &BridgeService) -> Self {
        let mut background = Self {
            group: TaskGroup::new(Arc::clone(&service.progress)),
            restarts: Vec::new(),
            stop: CancellationToken::new(),
        };
        let mut listener = match service.config.admin_listen {
            Some(address) => Some(admin::bind(address).await),
            None => None,
        };
        for task in BackgroundTask::ALL {
            background.restarts.push(TaskRestart::started(task));
            match listener.take_if(|_| task == BackgroundTask::Admin).transpose() {
                Ok(listener) => background.start_task(service, task, listener),
                Err(error) => background.failed(service, task.name(), &error.to_string()),
            }
        }
        background
    }

    /// Restarts failed tasks indefinitely, each after its backoff. May be dropped at any point.
    pub async fn keep_running(&mut self, service: &BridgeService) {
        loop {
            let due = self.restarts.iter().filter_map(|restart| restart.due).min();
            let next_due = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((name, outcome)) = self.group.next() => {
                    self.failed(service, name, &outcome.to_string());
                }
                () = next_due => self.start_due(service),
            }
        }
    }

    /// Ends all tasks. The single-writer lock is freed here, after the session has disconnected.
    pub async fn take_down(&mut self) {
        self.stop.cancel();
        self.group.finish(TAKE_DOWN_TIMEOUT).await;
    }

    /// Logs the first of equal failures as an error: a port that stays taken is one line, not
    /// thousands.
    fn failed(&mut self, service: &BridgeService, name: &'static str, error: &str) {
        let restart = self.restarts.iter_mut().find(|restart| restart.task.name() == name);
        let Some(restart) = restart else { return };
        let (wait, is_new) = restart.failed(error, rand::random());
        let retry_in = format!("{:.1}s", wait.as_secs_f64());
        if is_new {
            tracing::error!(
                task = name,
                error,
                retry_in,
                "a background task failed; restarting it"
            );
        } else {
            tracing::debug!(task = name, error, retry_in, "a background task failed again");
        }
        service.metrics.count_restart(name);
        service.health.task_is_down(name, error);
    }

    fn start_due(&mut self, service: &BridgeService) {
        let now = Instant::now();
        for at in 0..self.restarts.len() {
            let restart = &mut self.restarts[at];
            if restart.due.is_some_and(|due| due <= now) {
                (restart.due, restart.started) = (None, now);
                let task = restart.task;
                service.health.task_is_up(task.name());
                self.start_task(service, task, None);
            }
        }
    }

    /// Starts a task. `listener` is that of the admin endpoint, where it is bound already.
    fn start_task(
        &mut self,
        service: &BridgeService,
        task: BackgroundTask,
        listener: Option<TcpListener>,
    ) {
        let stop = self.stop.clone();
        match task {
            BackgroundTask::Lock => self.spawn(task, lock::run(service.lock(stop))),
            BackgroundTask::Credentials => self.spawn(task, renewal::run(service.renewal(stop))),
            BackgroundTask::Maintenance => {
                self.spawn(task, maintenance::run(service.maintenance(stop)));
            }
            BackgroundTask::Stays => self.spawn(task, stays::run(service.stays(stop))),
            BackgroundTask::Map => self.spawn(task, feed::run(service.map_feed(stop))),
            BackgroundTask::Archive => self.spawn(task, archive::run(service.archive(stop))),
            BackgroundTask::Admin => self.start_admin(service, listener, stop),
            BackgroundTask::Watchdog => {
                let progress = Arc::clone(&service.progress);
                self.spawn(task, async move { notify::run(&progress, stop).await });
            }
        }
    }

    /// Starts the admin endpoint, where one is configured.
    fn start_admin(
        &mut self,
        service: &BridgeService,
        listener: Option<TcpListener>,
        stop: CancellationToken,
    ) {
        let Some(address) = service.config.admin_listen else { return };
        let state = service.admin();
        self.group.spawn(BackgroundTask::Admin.name(), async move {
            let listener = match listener {
                Some(listener) => listener,
                None => admin::bind(address).await?,
            };
            idle(admin::serve(listener, state, stop)).await;
            Ok(())
        });
    }

    fn spawn(&mut self, task: BackgroundTask, run: impl Future<Output = ()> + Send + 'static) {
        self.group.spawn(task.name(), async move {
            run.await;
            Ok(())
        });
    }
}

impl BridgeService {
    fn lock(&self, stop: CancellationToken) -> LockParts {
        LockParts {
            store: Arc::clone(&self.store),
            client_id: self.config.mqtt.client_id.clone(),
            instance: self.process.instance,
            leadership: self.leadership.clone(),
            stop,
        }
    }

    fn renewal(&self, stop: CancellationToken) -> RenewalParts {
        RenewalParts {
            source: self.settings.sources.subscribe(),
            state: self.material.clone(),
            health: Arc::clone(&self.health),
            metrics: Arc::clone(&self.metrics),
            stop,
        }
    }

    fn maintenance(&self, stop: CancellationToken) -> MaintenanceParts {
        MaintenanceParts {
            store: Arc::clone(&self.store),
            keep_events: self.settings.keep_events.subscribe(),
            archives: self.config.retention.archive_dir.is_some(),
            keep_payloads: self.settings.keep_payloads.subscribe(),
            condition: Arc::clone(&self.condition),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            members: GroupMembership {
                client_id: self.config.mqtt.client_id.clone(),
                filters: topic::filters(&self.config.mqtt, &self.config.tenant),
                session_expiry: self.config.mqtt.session_expiry,
            },
            stop,
        }
    }

    fn archive(&self, stop: CancellationToken) -> ArchiveParts {
        ArchiveParts {
            store: Arc::clone(&self.store),
            folder: self.config.retention.archive_dir.clone(),
            keep_events: self.settings.keep_events.subscribe(),
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            stop,
        }
    }

    fn stays(&self, stop: CancellationToken) -> StaysParts {
        StaysParts { store: Arc::clone(&self.store), metrics: Arc::clone(&self.metrics), stop }
    }

    fn map_feed(&self, stop: CancellationToken) -> MapFeedParts {
        MapFeedParts {
            store: Arc::clone(&self.store),
            tenant: self.config.tenant.clone(),
            feed: Arc::clone(&self.map),
            metrics: Arc::clone(&self.metrics),
            stop,
        }
    }

    fn admin(&self) -> AdminState {
        let parts = AdminParts {
            metrics: Arc::clone(&self.metrics),
            health: Arc::clone(&self.health),
            progress: Arc::clone(&self.progress),
            history: Arc::clone(&self.history),
            store: Arc::clone(&self.store),
            map: Arc::clone(&self.map),
        };
        AdminState::new(&self.config, self.process.instance, parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeated_failures_wait_longer() {
        let mut restart = TaskRestart::started(BackgroundTask::Lock);
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(restart.failed("gone", 1.0).0);
            restart.started = Instant::now();
        }
        assert!(waits.is_sorted() && waits[0] < waits[5], "{waits:?}");
        assert_eq!(waits[7], RESTART_BACKOFF.max);
        tokio::time::advance(STABLE_AFTER).await;
        assert_eq!(restart.failed("gone", 1.0), (RESTART_BACKOFF.min, true), "it had been up");
    }

    #[tokio::test(start_paused = true)]
    async fn equal_failures_in_a_row_are_one() {
        let mut restart = TaskRestart::started(BackgroundTask::Admin);
        assert!(restart.failed("port taken", 1.0).1);
        assert!(!restart.failed("port taken", 1.0).1);
        assert!(restart.failed("no such address", 1.0).1);
        assert!(restart.failed("port taken", 1.0).1);
        tokio::time::advance(STABLE_AFTER).await;
        assert!(restart.failed("port taken", 1.0).1);
    }
}
