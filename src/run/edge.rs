//! What stands beside the pipeline and outlives it. A task that falls is started again alone: the
//! others, the single-writer lock above all, must not be interrupted by it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Service, TAKE_DOWN};
use crate::admin::{self, AdminState};
use crate::session::renewal::{self, RenewalParts};
use crate::store::lock::{self, LockParts};
use crate::store::maintenance::{self, MaintenanceParts};
use crate::store::schema::SchemaError;
use crate::supervisor::Group;
use crate::watchdog;

/// The tasks.
pub(super) struct Edge {
    group: Group<SchemaError>,
    stop: CancellationToken,
}

/// Each of them. The lock comes first: the session waits for its word.
const TASKS: [&str; 5] = ["lock", "credentials", "maintenance", "admin", "watchdog"];

impl Edge {
    /// Starts them all.
    pub async fn start(service: &Service) -> anyhow::Result<Self> {
        let mut edge = Self { group: Group::default(), stop: CancellationToken::new() };
        for task in TASKS {
            edge.start_one(service, task).await?;
        }
        Ok(edge)
    }

    /// The next of them to end, which none should.
    pub async fn next(&mut self) -> (&'static str, String) {
        match self.group.next().await {
            Some((task, outcome)) => (task, outcome.to_string()),
            None => std::future::pending().await,
        }
    }

    /// Starts a fallen one again.
    pub async fn restart(&mut self, service: &Service, task: &'static str, cause: &str) {
        tracing::error!(task, cause, "a task beside the pipeline ended unasked; starting it again");
        if let Err(error) = self.start_one(service, task).await {
            tracing::error!(task, error = format!("{error:#}"), "it could not be started");
        }
    }

    /// Ends them all. The lock is freed here, after the session has said goodbye.
    pub async fn take_down(&mut self) {
        self.stop.cancel();
        self.group.finish(TAKE_DOWN).await;
    }

    async fn start_one(&mut self, service: &Service, task: &'static str) -> anyhow::Result<()> {
        match task {
            "lock" => self.spawn(task, lock::run(service.lock(self.stop.clone()))),
            "credentials" => self.spawn(task, renewal::run(service.renewal(self.stop.clone()))),
            "maintenance" => {
                self.spawn(task, maintenance::run(service.maintenance(self.stop.clone())));
            }
            "watchdog" => {
                let heartbeat = Arc::clone(&service.heartbeat);
                self.spawn(task, watchdog::run(heartbeat, self.stop.clone()));
            }
            _ => {
                let Some(address) = service.config.admin_listen else { return Ok(()) };
                let listener = admin::bind(address).await?;
                self.spawn(task, admin::serve(listener, service.admin(), self.stop.clone()));
            }
        }
        Ok(())
    }

    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.group.spawn(name, async move {
            task.await;
            Ok(())
        });
    }
}

impl Service {
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
            sources: self.dials.sources.subscribe(),
            material: self.material.clone(),
            health: Arc::clone(&self.health),
            metrics: Arc::clone(&self.metrics),
            stop,
        }
    }

    fn maintenance(&self, stop: CancellationToken) -> MaintenanceParts {
        MaintenanceParts {
            store: Arc::clone(&self.store),
            keep_events: self.dials.keep_events.subscribe(),
            condition: Arc::clone(&self.condition),
            health: Arc::clone(&self.health),
            stop,
        }
    }

    fn admin(&self) -> AdminState {
        AdminState::new(
            &self.config,
            self.process.instance,
            Arc::clone(&self.metrics),
            Arc::clone(&self.health),
            Arc::clone(&self.heartbeat),
        )
    }
}
