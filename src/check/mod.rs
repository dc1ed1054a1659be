//! Checks of configuration, files, broker and database before the service starts. Each line has the
//! value found, the value expected and the remedy. Checks change nothing, and do not affect the live
//! session.
//!
//! The checks of this machine come first ([`local`]). Broker and database are checked at the same
//! time ([`online`]), so that one that hangs does not hide the other.

mod admin;
mod archive;
mod broker;
mod clock;
mod configuration;
mod database;
mod database_link;
mod line;
mod names;
mod protobuf;
mod report;
mod schema;
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

/// Runs the checks that need neither broker nor database.
pub async fn local(loaded: &LoadedConfig, now: OffsetDateTime) -> CheckReport {
    let config = &loaded.config;
    let mut checks = configuration::accepted(loaded);
    match &config.mqtt.tls {
        Some(tls) => checks.extend(tls_files::checks(&config.tenant, tls, now)),
        None => {
            checks
                .push(CheckLine::ok(names::CLIENT_CERTIFICATE, "none: mqtt.tls.enabled is false"));
        }
    }
    checks.extend(protobuf::checks(config));
    checks.push(spool::check(config));
    checks.push(archive::check(config));
    checks.push(clock::check(now));
    checks.push(admin::check(config).await);
    CheckReport { checks, not_checked: Vec::new() }
}

/// Runs the checks of broker and database. `mqtt.connect_timeout` limits each of their steps.
pub async fn online(config: &Config) -> CheckReport {
    let (mut report, database) = tokio::join!(broker::report(config), database::report(config));
    report.append(database);
    report
}

/// Returns the report that replaces the one of [`online`] where it is skipped.
pub fn offline(config: &Config) -> CheckReport {
    let because = "--offline";
    let names = broker::expected(config).into_iter().chain(database::EXPECTED);
    let not_checked = names.map(|name| NotChecked { name, because: because.to_owned() }).collect();
    CheckReport { checks: Vec::new(), not_checked }
}
