//! What the service manager is told, and the heartbeat that `/livez` looks at.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Heartbeat;

/// Beats this often; systemd's watchdog may ask for more.
const BEAT: Duration = Duration::from_secs(1);

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

/// Beats until told to stop. Fails where the service manager cannot be notified.
pub async fn run(heartbeat: Arc<Heartbeat>, stop: CancellationToken) -> io::Result<()> {
    // Zero turns it off.
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let period = watchdog.map_or(BEAT, |limit| BEAT.min(limit / 3));
    let mut interval = tokio::time::interval(period);
    loop {
        tokio::select! {
            _ = interval.tick() => heartbeat.beat(),
            () = stop.cancelled() => return Ok(()),
        }
        if watchdog.is_some() {
            sd_notify::notify(&[NotifyState::Watchdog])?;
        }
    }
}

fn tell(state: &[NotifyState]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}
