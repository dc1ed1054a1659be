//! Checks of the database server: connection, session, version, settings and clock.

use std::time::Duration;

use super::database_link;
use super::line::{CheckLine, CheckStatus};
use super::names;
use super::report::CheckReport;
use super::schema::{self, SEE_LOG};
use crate::config::Config;
use crate::decode::stage::CLOCK_TOLERANCE_SECONDS;
use crate::store::inspect::{self, OLDEST_SERVER, ServerInfo, ServerLocation};

/// Names of the lines of a database that answers.
pub(super) const EXPECTED: [&str; 12] = [
    names::DATABASE_CONNECTION,
    names::DATABASE_SESSIONS,
    names::DATABASE_CONNECTIONS,
    names::DATABASE_TLS,
    names::DATABASE_VERSION,
    names::DATABASE_ENCODING,
    names::DATABASE_WRITABLE,
    names::DATABASE_DURABILITY,
    names::DATABASE_CLOCK,
    names::DATABASE_SCHEMA,
    names::DATABASE_RIGHTS,
    names::DATABASE_PARTITIONS,
];

pub(super) async fn report(config: &Config) -> CheckReport {
    let limit = config.mqtt.connect_timeout;
    let mut report = CheckReport::default();
    if tokio::time::timeout(limit, run(config, &mut report.checks)).await.is_err() {
        report.checks.push(unanswered(config, limit, report.checks.is_empty()));
    }
    report.note_missing(&EXPECTED);
    report
}

fn unanswered(config: &Config, limit: Duration, unreached: bool) -> CheckLine {
    let place =
        inspect::place(&config.database).map_or_else(|_| String::new(), |p| describe_place(&p));
    let what = if unreached { "did not accept a connection" } else { "stopped answering" };
    CheckLine::problem(
        names::DATABASE_CONNECTION,
        CheckStatus::Failed,
        format!("the database {place} {what} within {} s", limit.as_secs_f64()),
        "an answer",
        "check the host and port in database.url, and that no firewall drops the traffic",
    )
}

/// Adds each line when it is known, so that a server that stops answering leaves the earlier lines.
async fn run(config: &Config, checks: &mut Vec<CheckLine>) {
    let fault = |name, fault: &dyn std::error::Error| {
        CheckLine::from_sentence_or(
            name,
            CheckStatus::Failed,
            &fault.to_string(),
            "an answer",
            SEE_LOG,
        )
    };
    if let Ok(looks) = inspect::look_at_addresses(&config.database).await {
        checks.extend(looks.iter().map(database_link::address));
    }
    let mut inspection = match inspect::open(&config.database).await {
        Ok(inspection) => inspection,
        Err(error) => return checks.push(fault(names::DATABASE_CONNECTION, &error)),
    };
    if let Err(error) = inspection.sessions().await {
        return checks.push(fault(names::DATABASE_SESSIONS, &error));
    }
    let server = match inspection.server().await {
        Ok(server) => server,
        Err(error) => return checks.push(fault(names::DATABASE_CONNECTION, &error)),
    };
    let place = inspection.place.clone();
    checks.push(connection(&server, &place));
    checks.push(CheckLine::ok(names::DATABASE_SESSIONS, "each connection has its own session"));
    checks.push(match inspection.limits().await {
        Ok(limits) => database_link::connections(&limits),
        Err(error) => fault(names::DATABASE_CONNECTIONS, &error),
    });
    checks.extend(of_server(&server, &place));
    checks.push(match inspection.clock_skew().await {
        Ok(ahead) => clock(ahead),
        Err(error) => fault(names::DATABASE_CLOCK, &error),
    });
    match inspection.rights().await {
        Ok(rights) => schema::check(config, &server, &rights, &mut inspection, checks).await,
        Err(error) => checks.push(fault(names::DATABASE_RIGHTS, &error)),
    }
}

fn describe_place(place: &ServerLocation) -> String {
    match place {
        ServerLocation::Socket => "on the unix socket".to_owned(),
        ServerLocation::Loopback(address) | ServerLocation::Remote(address) => {
            format!("at {address}")
        }
    }
}

fn connection(server: &ServerInfo, place: &ServerLocation) -> CheckLine {
    let ServerInfo { database, role, .. } = server;
    CheckLine::ok(
        names::DATABASE_CONNECTION,
        format!("database {database:?} {} as role {role:?}", describe_place(place)),
    )
}

pub(super) fn of_server(server: &ServerInfo, place: &ServerLocation) -> Vec<CheckLine> {
    vec![
        tls(server, place),
        version(server),
        encoding(server),
        writable(server),
        durability(server),
    ]
}

fn tls(server: &ServerInfo, place: &ServerLocation) -> CheckLine {
    match (&server.tls, place) {
        (Some((version, cipher)), _) => {
            CheckLine::ok(names::DATABASE_TLS, format!("{version}, {cipher}"))
        }
        (None, ServerLocation::Socket) => {
            CheckLine::ok(names::DATABASE_TLS, "not needed on a unix socket")
        }
        (None, ServerLocation::Loopback(_)) => {
            CheckLine::ok(names::DATABASE_TLS, "not in use, and not needed on this machine")
        }
        (None, ServerLocation::Remote(address)) => CheckLine::problem(
            names::DATABASE_TLS,
            CheckStatus::Warning,
            format!("events and credentials travel readable to {address}"),
            "TLS",
            "turn ssl on at the server and add sslmode=verify-full to database.url",
        ),
    }
}

fn version(server: &ServerInfo) -> CheckLine {
    let found = format!("PostgreSQL {}", server.version);
    if server.version_number >= OLDEST_SERVER {
        return CheckLine::ok(names::DATABASE_VERSION, found);
    }
    let expected = format!("PostgreSQL {} or newer", OLDEST_SERVER / 10_000);
    CheckLine::problem(
        names::DATABASE_VERSION,
        CheckStatus::Failed,
        found,
        expected,
        "upgrade the server, or use another",
    )
}

fn encoding(server: &ServerInfo) -> CheckLine {
    if server.encoding == "UTF8" {
        return CheckLine::ok(names::DATABASE_ENCODING, "UTF8");
    }
    CheckLine::problem(
        names::DATABASE_ENCODING,
        CheckStatus::Failed,
        format!("the database's encoding is {}, which cannot hold every text", server.encoding),
        "UTF8",
        "create the database again: create database … encoding 'UTF8' template template0",
    )
}

fn writable(server: &ServerInfo) -> CheckLine {
    let found = if server.in_recovery {
        "the server is a standby, which takes no writes"
    } else if server.read_only {
        "transactions are read-only (default_transaction_read_only)"
    } else {
        return CheckLine::ok(names::DATABASE_WRITABLE, "the server takes writes");
    };
    CheckLine::problem(
        names::DATABASE_WRITABLE,
        CheckStatus::Failed,
        found,
        "a server that takes writes",
        "name the primary in database.url, or turn default_transaction_read_only off",
    )
}

fn durability(server: &ServerInfo) -> CheckLine {
    if server.fsync {
        return CheckLine::ok(
            names::DATABASE_DURABILITY,
            "what is committed is on disk (fsync is on)",
        );
    }
    CheckLine::problem(
        names::DATABASE_DURABILITY,
        CheckStatus::Warning,
        "fsync is off: a crash of the server loses events that were acknowledged to the broker",
        "fsync = on",
        "set fsync = on in postgresql.conf and reload the server",
    )
}

pub(super) fn clock(ahead: f64) -> CheckLine {
    let (much, way) = (ahead.abs(), if ahead < 0.0 { "behind" } else { "ahead of" });
    let found = format!("this machine's clock is {much:.1} s {way} the database's");
    if much <= CLOCK_TOLERANCE_SECONDS {
        return CheckLine::ok(names::DATABASE_CLOCK, found);
    }
    let expected = format!("a difference of at most {CLOCK_TOLERANCE_SECONDS} s");
    let hint = "set the clock that is wrong, and keep both synchronised by NTP";
    CheckLine::problem(names::DATABASE_CLOCK, CheckStatus::Warning, found, expected, hint)
}
