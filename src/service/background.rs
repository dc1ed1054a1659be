//! What stands beside the pipeline and outlives it. A task that falls is started again alone: the
//! others, the single-writer lock above all, must not be interrupted by it.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{BridgeService, REBUILD, TAKE_DOWN_TIMEOUT};
use crate::admin::{self, AdminState};
use crate::backoff::{Backoff, STABLE_AFTER};
use crate::progress::idle;
use crate::service::notify;
use crate::service::supervisor::TaskGroup;
use crate::session::renewal::{self, RenewalParts};
use crate::store::lock::{self, LockParts};
use crate::store::maintenance::members::GroupMembership;
use crate::store::maintenance::{self, MaintenanceParts};
use crate::topic;

/// The tasks.
pub(super) struct BackgroundTasks {
    group: TaskGroup<anyhow::Error>,
    tasks: Vec<Task>,
    stop: CancellationToken,
}

/// Each of them. The lock comes first: the session waits for its word.
pub(super) const TASKS: [&str; 5] = ["lock", "credentials", "maintenance", "admin", "watchdog"];

/// Decides when a task is started again.
struct Task {
    name: &'static str,
    backoff: Backoff,
    started: Instant,
    /// When it is started again; `None` while it runs.
    due: Option<Instant>,
    /// The last error, until the task has been up for a while.
    error: Option<String>,
}

impl Task {
    fn started(name: &'static str) -> Self {
        let backoff = Backoff::new(REBUILD);
        Self { name, backoff, started: Instant::now(), due: None, error: None }
    }

    /// Schedules the next start after a failure. Returns the wait, and whether the error is another
    /// than that of the failure before.
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
    /// Starts them all. An admin endpoint that cannot listen is tried again later: events matter more
    /// than the sight of them.
    pub async fn start(service: &BridgeService) -> Self {
        let mut background = Self {
            group: TaskGroup::new(Arc::clone(&service.progress)),
            tasks: Vec::new(),
            stop: CancellationToken::new(),
        };
        let mut listener = match service.config.admin_listen {
            Some(address) => Some(admin::bind(address).await),
            None => None,
        };
        for name in TASKS {
            background.tasks.push(Task::started(name));
            match listener.take_if(|_| name == "admin").transpose() {
                Ok(listener) => background.start_one(service, name, listener),
                Err(error) => background.failed(service, name, &error.to_string()),
            }
        }
        background
    }

    /// Starts fallen ones again, each after its backoff, for ever. May be dropped at any point.
    pub async fn keep_running(&mut self, service: &BridgeService) {
        loop {
            let due = self.tasks.iter().filter_map(|task| task.due).min();
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

    /// Ends them all. The lock is freed here, after the session has said goodbye.
    pub async fn take_down(&mut self) {
        self.stop.cancel();
        self.group.finish(TAKE_DOWN_TIMEOUT).await;
    }

    /// Logs the first of equal failures as an error: a port that stays taken is one line, not thousands.
    fn failed(&mut self, service: &BridgeService, name: &'static str, error: &str) {
        let Some(task) = self.tasks.iter_mut().find(|task| task.name == name) else { return };
        let (wait, is_new) = task.failed(error, rand::random());
        let retry_in = format!("{:.1}s", wait.as_secs_f64());
        if is_new {
            tracing::error!(
                task = name,
                error,
                retry_in,
                "a background task failed; it is restarted until it works"
            );
        } else {
            tracing::debug!(task = name, error, retry_in, "a background task failed again");
        }
        service.metrics.count_restart(name);
        service.health.task_is_down(name, error);
    }

    fn start_due(&mut self, service: &BridgeService) {
        let now = Instant::now();
        for at in 0..self.tasks.len() {
            let task = &mut self.tasks[at];
            if task.due.is_some_and(|due| due <= now) {
                (task.due, task.started) = (None, now);
                let name = task.name;
                service.health.task_is_up(name);
                self.start_one(service, name, None);
            }
        }
    }

    /// Starts a task. `listener` is the admin endpoint's, where there is one already.
    fn start_one(
        &mut self,
        service: &BridgeService,
        name: &'static str,
        listener: Option<TcpListener>,
    ) {
        let stop = self.stop.clone();
        match name {
            "lock" => self.spawn(name, lock::run(service.lock(stop))),
            "credentials" => self.spawn(name, renewal::run(service.renewal(stop))),
            "maintenance" => self.spawn(name, maintenance::run(service.maintenance(stop))),
            "watchdog" => {
                let progress = Arc::clone(&service.progress);
                self.spawn(name, async move { notify::run(&progress, stop).await });
            }
            _ => {
                let Some(address) = service.config.admin_listen else { return };
                let state = service.admin();
                self.group.spawn(name, async move {
                    let listener = match listener {
                        Some(listener) => listener,
                        None => admin::bind(address).await?,
                    };
                    idle(admin::serve(listener, state, stop)).await;
                    Ok(())
                });
            }
        }
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.group.spawn(name, async move {
            task.await;
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
            sources: self.settings.sources.subscribe(),
            material: self.material.clone(),
            health: Arc::clone(&self.health),
            metrics: Arc::clone(&self.metrics),
            stop,
        }
    }

    fn maintenance(&self, stop: CancellationToken) -> MaintenanceParts {
        MaintenanceParts {
            store: Arc::clone(&self.store),
            keep_events: self.settings.keep_events.subscribe(),
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

    fn admin(&self) -> AdminState {
        AdminState::new(
            &self.config,
            self.process.instance,
            Arc::clone(&self.metrics),
            Arc::clone(&self.health),
            Arc::clone(&self.progress),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_keeps_failing_waits_longer() {
        let mut task = Task::started("lock");
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(task.failed("gone", 1.0).0);
            task.started = Instant::now();
        }
        assert!(waits.is_sorted() && waits[0] < waits[5], "{waits:?}");
        assert_eq!(waits[7], REBUILD.max);
        tokio::time::advance(STABLE_AFTER).await;
        assert_eq!(task.failed("gone", 1.0), (REBUILD.min, true), "it had been up");
    }

    #[tokio::test(start_paused = true)]
    async fn equal_failures_in_a_row_are_one() {
        let mut task = Task::started("admin");
        assert!(task.failed("port taken", 1.0).1);
        assert!(!task.failed("port taken", 1.0).1);
        assert!(task.failed("no such address", 1.0).1);
        assert!(task.failed("port taken", 1.0).1);
        tokio::time::advance(STABLE_AFTER).await;
        assert!(task.failed("port taken", 1.0).1);
    }
}
