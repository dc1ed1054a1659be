//! Check of the folder of the spool: one is configured, and it is writable.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::config::Config;
use crate::credentials::files::{NewFile, PRIVATE};

/// Checks the folder. A spool that is off is a warning, because the effect shows only in an outage.
pub(super) fn check(config: &Config) -> CheckLine {
    let Some(spool) = &config.spool else { return off(config.mqtt.queue_grace) };
    let dir = &spool.dir;
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(dir);
    match write_to(there) {
        Ok(()) if there == dir => {
            CheckLine::ok(names::SPOOL, format!("{} is writable", dir.display()))
        }
        Ok(()) => CheckLine::ok(
            names::SPOOL,
            format!("{} will be created: {} is writable", dir.display(), there.display()),
        ),
        Err(error) => CheckLine::problem(
            names::SPOOL,
            CheckStatus::Failed,
            format!("spool.dir {}: {} is not writable: {error}", dir.display(), there.display()),
            "a folder that this user may write to",
            "create it, make the user the service runs as its owner, and run check as that user",
        ),
    }
}

fn off(queue_grace: Duration) -> CheckLine {
    let found = format!(
        "off: only the broker queues events while the database is unavailable, and its queue holds about \
         1,000 messages; an outage of more than {} (mqtt.queue_grace), such as a restart of \
         PostgreSQL, is recorded as a possible loss",
        humantime::format_duration(queue_grace)
    );
    CheckLine::problem(
        names::SPOOL,
        CheckStatus::Warning,
        found,
        "spool.dir, a folder on a local disk",
        "set spool.dir; nothing needs to be done for the systemd unit and the container image, which \
         set STATE_DIRECTORY, unless the configuration sets spool.dir = \"\"",
    )
}

/// Creates a file and removes it again.
fn write_to(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        return Err(io::Error::other("it is not a folder"));
    }
    let name = format!(".check-{:016x}", rand::random::<u64>());
    NewFile::create(&folder.join(name), PRIVATE)?.write(b"check")
}
