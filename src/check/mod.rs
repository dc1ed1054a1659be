//! Everything an operator wants to know before starting the service: what was found, what was
//! expected, what to do. Nothing is changed anywhere, and the live session is left alone.
//!
//! What can be known on this machine comes first ([`local`]); broker and database are asked at the
//! same time ([`online`]), so that one that hangs does not hide the other.

mod admin;
mod broker;
mod clock;
mod configuration;
mod database;
mod database_link;
mod line;
mod names;
mod protobuf;
mod report;
mod spool;
#[cfg(test)]
mod tests;
mod tls_files;

use time::OffsetDateTime;

pub use configuration::refused;
pub use line::{CheckLine, CheckStatus};
pub use names::NAMES;
pub use report::{CheckReport, NotChecked};

use crate::config::{Config, LoadedConfig};

/// What can be known on this machine.
pub async fn local(loaded: &LoadedConfig, now: OffsetDateTime) -> CheckReport {
    let config = &loaded.config;
    let mut checks = configuration::accepted(loaded);
    match &config.mqtt.tls {
        Some(tls) => checks.extend(tls_files::checks(&config.tenant, tls, now)),
        None => {
            checks.push(CheckLine::ok(names::CLIENT_CERTIFICATE, "none: mqtt.tls.enabled is false"))
        }
    }
    checks.extend(protobuf::checks(config));
    checks.push(spool::check(config));
    checks.push(clock::check(now));
    checks.push(admin::check(config).await);
    CheckReport { checks, not_checked: Vec::new() }
}

/// What broker and database say, each bounded by `mqtt.connect_timeout` a step.
pub async fn online(config: &Config) -> CheckReport {
    let (mut report, database) = tokio::join!(broker::report(config), database::report(config));
    report.append(database);
    report
}

/// What [`online`] would have told.
pub fn offline(config: &Config) -> CheckReport {
    let because = "--offline";
    let names = broker::expected(config).into_iter().chain(database::EXPECTED);
    let not_checked = names.map(|name| NotChecked { name, because: because.to_owned() }).collect();
    CheckReport { checks: Vec::new(), not_checked }
}
