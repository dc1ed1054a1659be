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
mod protobuf;
mod spool;
#[cfg(test)]
mod tests;

use serde::Serialize;
use time::OffsetDateTime;

pub use configuration::refused;

use crate::config::{Config, Loaded};
use crate::credentials::preflight::tls_files;
pub use crate::credentials::preflight::{Check, Status};

/// Every name a line can have, in the order of the lines; people script against them.
pub const NAMES: [&str; 36] = [
    "configuration",
    "client_id",
    "payloads",
    "secret_file_mode",
    "client_certificate",
    "private_key",
    "key_file_mode",
    "key_fits_certificate",
    "certificate_tenant",
    "certificate_validity",
    "certificate_version",
    "certificate_chain",
    "trust_anchor",
    "protobuf_schema",
    "spool",
    "system_clock",
    "admin_listen",
    broker::NAME,
    broker::TCP,
    broker::PROXY,
    broker::TLS,
    broker::LOGIN,
    broker::SUBSCRIPTION,
    database::CONNECTION,
    database::ADDRESS,
    database::SESSIONS,
    database::CONNECTIONS,
    database::TLS,
    database::VERSION,
    database::ENCODING,
    database::WRITABLE,
    database::DURABILITY,
    database::SCHEMA,
    database::RIGHTS,
    database::PARTITIONS,
    database::CLOCK,
];

/// A line that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    /// The line's name.
    pub name: &'static str,
    /// Why not.
    pub because: String,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The lines.
    pub checks: Vec<Check>,
    /// The lines that are missing.
    pub not_checked: Vec<NotChecked>,
}

impl Report {
    /// How many lines came out so.
    pub fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.count(Status::Failed) == 0
    }

    /// Adds what another part found.
    pub fn append(&mut self, mut other: Self) {
        self.checks.append(&mut other.checks);
        self.not_checked.append(&mut other.not_checked);
    }

    /// Notes which of the `expected` lines are missing, and the line that ended the series.
    fn note_missing(&mut self, expected: &[&'static str]) {
        let is_there = |name: &str| self.checks.iter().any(|check| check.name == name);
        let failed = self.checks.iter().rfind(|check| check.status == Status::Failed);
        let because = match failed {
            Some(check) => format!("{} failed", check.name),
            None => "nothing was found out about it".to_owned(),
        };
        let missing = expected.iter().filter(|name| !is_there(name));
        let missing: Vec<_> =
            missing.map(|name| NotChecked { name, because: because.clone() }).collect();
        self.not_checked.extend(missing);
    }
}

/// What can be known on this machine.
pub async fn local(loaded: &Loaded, now: OffsetDateTime) -> Report {
    let config = &loaded.config;
    let mut checks = configuration::accepted(loaded);
    match &config.mqtt.tls {
        Some(tls) => checks.extend(tls_files(&config.tenant, tls, now)),
        None => checks.push(Check::ok("client_certificate", "none: mqtt.tls.enabled is false")),
    }
    checks.extend(protobuf::checks(config));
    checks.push(spool::check(config));
    checks.push(clock::check(now));
    checks.push(admin::check(config).await);
    Report { checks, not_checked: Vec::new() }
}

/// What broker and database say, each bounded by `mqtt.connect_timeout` a step.
pub async fn online(config: &Config) -> Report {
    let (mut report, database) = tokio::join!(broker::report(config), database::report(config));
    report.append(database);
    report
}

/// What [`online`] would have told.
pub fn offline(config: &Config) -> Report {
    let because = "--offline";
    let names = broker::expected(config).into_iter().chain(database::EXPECTED);
    let not_checked = names.map(|name| NotChecked { name, because: because.to_owned() }).collect();
    Report { checks: Vec::new(), not_checked }
}

/// A line from a sentence of the form "cause; cure", with a cure in any case.
fn from_sentence(
    name: &'static str,
    status: Status,
    sentence: &str,
    expected: &str,
    else_do: &str,
) -> Check {
    let mut check = Check::from_sentence(name, status, sentence, expected);
    if check.what_to_do.is_empty() {
        let imperative = [": check ", ": ask ", ": give "];
        let at = imperative.iter().filter_map(|start| check.found.find(start)).min();
        match at {
            Some(at) => {
                check.what_to_do = check.found[at + 2..].to_owned();
                check.found.truncate(at);
            }
            None => else_do.clone_into(&mut check.what_to_do),
        }
    }
    check
}
