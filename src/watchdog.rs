//! What the service manager is told.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::progress::{self, Registry};

/// Looks this often; systemd's watchdog may ask for more.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells the service manager that configuration and ports are good. Broker and database may be
/// away: that is not a failed start.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells the service manager that a reload has begun; [`ready`] tells that it is over.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the time since boot could not be read"),
    }
}

/// Tells the service manager that the drain has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds systemd's watchdog while no stage and no background task is stuck, until told to stop. Fails
/// where the service manager cannot be notified.
pub async fn run(tasks: &Registry, stop: CancellationToken) -> io::Result<()> {
    // Zero turns it off.
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let period = watchdog.map_or(LOOK_EVERY, |limit| LOOK_EVERY.min(limit / 3));
    let mut interval = tokio::time::interval(period);
    let mut reported = None;
    loop {
        progress::tick();
        tokio::select! {
            _ = interval.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        let stuck = tasks.stuck().first().map(|stuck| stuck.task);
        if reported != stuck {
            report(stuck);
            reported = stuck;
        }
        if watchdog.is_some() && stuck.is_none() {
            sd_notify::notify(&[NotifyState::Watchdog])?;
        }
    }
}

fn report(stuck: Option<&'static str>) {
    if let Some(task) = stuck {
        tracing::error!(
            task,
            "a task makes no progress: /livez answers 503, and systemd's watchdog is not fed"
        );
    } else {
        tracing::info!("all tasks make progress again");
    }
}

fn tell(state: &[NotifyState]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}
