//! Ends the durable session of a client for good. The pipeline of the service first stores the
//! messages that the broker and the spool still hold. Then the session is removed from the broker.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::background::BackgroundTasks;
use super::pipeline::Pipeline;
use super::{BridgeService, DRAIN_POLL_INTERVAL};
use crate::config::Config;
use crate::service::leadership::Leadership;
use crate::service::signals::StopSignals;
use crate::session::credentials::CredentialState;
use crate::session::end_session::end_session;
use crate::spool;

/// Longest wait for the single-writer lock. A database that takes longer counts as unavailable.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Attempts to end the session at the broker.
const TRIES: u32 = 5;
/// Wait between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The result of a successful retirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredSession {
    /// Messages that the broker delivered.
    pub received: u64,
}

/// Retires `mqtt.client_id` within `limit`. Until it succeeds, the session stays at the broker with all
/// its messages.
pub async fn retire(mut config: Config, limit: Duration) -> anyhow::Result<RetiredSession> {
    let mut signals = StopSignals::listen()?;
    // Another service on this machine may use the port.
    config.admin_listen = None;
    let mut service = BridgeService::new(config)?;
    let empty = watch::Sender::new(false);
    service.retire = Some(empty.clone());
    let mut background = BackgroundTasks::start(&service).await;
    let outcome = tokio::select! {
        outcome = timeout(limit, service.retire_session(&mut background, &empty)) => {
            outcome.unwrap_or_else(|_| Err(service.timeout_error(limit)))
        }
        stop = signals.stop() => Err(anyhow!("interrupted by {}", stop.name())),
    };
    background.take_down().await;
    outcome
}

impl BridgeService {
    async fn retire_session(
        &self,
        background: &mut BackgroundTasks,
        empty: &watch::Sender<bool>,
    ) -> anyhow::Result<RetiredSession> {
        tokio::select! {
            locked = timeout(LOCK_TIMEOUT, self.take_lock()) => {
                locked.unwrap_or_else(|_| Err(self.database_error()))?;
            }
            () = background.keep_running(self) => {}
        }
        let mut pipeline = self.start_pipeline();
        tokio::select! {
            () = self.wait_until_drained(empty) => {}
            failed = pipeline.group.next() => match failed {
                Some((stage, outcome)) => bail!("the pipeline stage {stage} failed: {outcome}"),
                None => bail!("the pipeline ended"),
            },
            holder = self.wait_for_lock_loss() => bail!("{holder} took over the client id"),
            () = background.keep_running(self) => {}
        }
        self.finish(pipeline).await?;
        let client_id = &self.config.mqtt.client_id;
        // Recorded before the session ends: from here on it holds no message that could be lost.
        self.store.retire(client_id).await.context("could not record the retirement")?;
        self.end_session().await?;
        let counts = self.process.accounting.counts();
        Ok(RetiredSession { received: counts.received })
    }

    /// Waits until this process holds the single-writer lock.
    async fn take_lock(&self) -> anyhow::Result<()> {
        let mut leadership = self.leadership.subscribe();
        loop {
            match &*leadership.borrow_and_update() {
                Leadership::Held => return Ok(()),
                Leadership::HeldByOther(holder) => bail!(
                    "{holder} holds the client id {:?}: stop and disable that service first, and any \
                     standby on another machine, which would take over; then run this command again",
                    self.config.mqtt.client_id
                ),
                Leadership::Refused(problem) => bail!("{problem}"),
                Leadership::Pending | Leadership::Unknown => {}
            }
            leadership.changed().await?;
        }
    }

    /// Waits until another process holds the lock.
    async fn wait_for_lock_loss(&self) -> String {
        let mut leadership = self.leadership.subscribe();
        match leadership.wait_for(|now| now.holder().is_some()).await {
            Ok(now) => now.holder().map(ToString::to_string).unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until neither the broker nor the spool holds messages for this client.
    async fn wait_until_drained(&self, empty: &watch::Sender<bool>) {
        loop {
            let received_all = *empty.borrow() && self.process.accounting.counts().in_pipeline == 0;
            if received_all && self.spool_is_empty().await {
                return;
            }
            sleep(DRAIN_POLL_INTERVAL).await;
        }
    }

    /// Returns true if the database has every row of the spool, that of this run or of an earlier one.
    async fn spool_is_empty(&self) -> bool {
        let dir = match &self.config.spool {
            Some(spool) => Some(spool.dir.clone()),
            None => match self.store.spool_dir(&self.config.mqtt.client_id).await {
                Ok(dir) => dir.map(PathBuf::from),
                Err(_) => return false,
            },
        };
        let Some(dir) = dir.filter(|dir| spool::erase::exists(dir)) else { return true };
        let later = OffsetDateTime::now_utc() + time::Duration::days(1);
        spool::erase::received_before(&dir, later).await == Ok(0)
    }

    /// Shuts the pipeline down in order.
    async fn finish(&self, mut pipeline: Pipeline) -> anyhow::Result<()> {
        pipeline.stop.cancel();
        let (failed, in_time) = pipeline.group.finish(self.config.shutdown_grace).await;
        let left = self.process.accounting.counts().in_pipeline;
        ensure!(
            in_time && failed.is_empty() && left == 0,
            "{left} messages arrived at the last moment and were not stored; they stay with the broker"
        );
        Ok(())
    }

    async fn end_session(&self) -> anyhow::Result<()> {
        let mut problem = String::new();
        for _ in 0..TRIES {
            let material = self.material.borrow().clone();
            let ended = match &material {
                CredentialState::Ready(credentials) => {
                    end_session(&self.config.tenant, &self.config.mqtt, credentials)
                        .await
                        .map_err(|failure| failure.message)
                }
                CredentialState::Unusable(problem) => Err(problem.clone()),
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(now) => problem = now,
            }
            sleep(RETRY_INTERVAL).await;
        }
        bail!(
            "everything is stored, and the session is empty and unsubscribed, but it stays at the \
             broker until it expires: {problem}"
        )
    }

    fn database_error(&self) -> anyhow::Error {
        let problem = self.health.read(|s| s.database.problem.clone());
        let problem = problem.unwrap_or_else(|| "it does not answer".to_owned());
        anyhow!(
            "could not store the messages that the broker holds: the database is unavailable: {problem}"
        )
    }

    fn timeout_error(&self, limit: Duration) -> anyhow::Error {
        let (session, database) =
            self.health.read(|s| (s.session.problem.clone(), s.database.problem.clone()));
        let limit = humantime::format_duration(limit);
        match session.or(database) {
            Some(problem) => anyhow!("not finished within {limit}: {problem}"),
            None => anyhow!("not finished within {limit}; allow more time with --timeout"),
        }
    }
}
