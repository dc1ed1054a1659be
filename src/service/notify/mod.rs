//! Reports the life of the service to the service manager: ready, reloading, stopping, and its watchdog.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use self::socket::notify;
use crate::progress::{self, ProgressRegistry};

mod socket;

/// Looks this often; systemd's watchdog may ask for more.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// True while the service manager is to learn that the service is ready and could not be notified.
static READY_IS_DUE: AtomicBool = AtomicBool::new(false);

/// Tells the service manager that the service runs. Broker, database and admin port may be
/// unavailable: that is not a failed start. [`run`] repeats it where it could not be sent.
pub fn ready() {
    READY_IS_DUE.store(!notify(&[NotifyState::Ready]), Ordering::Relaxed);
}

/// Tells the service manager that a reload has begun; [`ready`] tells that it is over.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => _ = notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the time since boot could not be read"),
    }
}

/// Tells the service manager that the drain has begun.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds systemd's watchdog while no stage and no background task is stuck, until `stop`.
pub async fn run(tasks: &ProgressRegistry, stop: CancellationToken) {
    // Zero turns it off.
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
            "a task makes no progress: /livez answers 503, and systemd's watchdog is not fed"
        );
    } else {
        tracing::info!("all tasks make progress again");
    }
}
