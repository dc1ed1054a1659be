//! Reports the state of the service to the service manager (ready, reloading, stopping) and feeds its
//! watchdog.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use self::socket::notify;
use crate::progress::{self, ProgressRegistry};

mod socket;

/// Longest time between two checks of the tasks. A short watchdog limit asks for more frequent ones.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// True after a failed notification of readiness, until one succeeds.
static READY_IS_DUE: AtomicBool = AtomicBool::new(false);

/// Notifies the service manager that the service is ready. Broker, database and admin port may be
/// unavailable: that is not a failed start. [`run`] repeats a notification that could not be sent.
pub fn ready() {
    READY_IS_DUE.store(!notify(&[NotifyState::Ready]), Ordering::Relaxed);
}

/// Notifies the service manager that a reload has begun. [`ready`] notifies it of the end.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => _ = notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "could not read the time since boot"),
    }
}

/// Notifies the service manager that the drain has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds systemd's watchdog while no stage and no background task is stuck, until `stop`.
pub async fn run(tasks: &ProgressRegistry, stop: CancellationToken) {
    // A limit of zero turns the watchdog off.
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let period = watchdog.map_or(POLL_INTERVAL, |limit| POLL_INTERVAL.min(limit / 3));
    let mut interval = tokio::time::interval(period);
    let mut reported = None;
    loop {
        progress::tick();
        tokio::select! {
            _ = interval.tick() => {}
            () = stop.cancelled() => return,
        }
        let stuck = tasks.stuck().first().map(|stuck| stuck.task);
        if reported != stuck {
            report(stuck);
            reported = stuck;
        }
        if READY_IS_DUE.load(Ordering::Relaxed) {
            ready();
        }
        if watchdog.is_some() && stuck.is_none() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

fn report(stuck: Option<&'static str>) {
    if let Some(task) = stuck {
        tracing::error!(
            task,
            "a task makes no progress: /livez answers 503, and the systemd watchdog is not fed"
        );
    } else {
        tracing::info!("all tasks make progress again");
    }
}
