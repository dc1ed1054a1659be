//! The database: reachable, fit, prepared, and open to this role.

use std::time::Duration;

use time::OffsetDateTime;

use super::{Report, database_link, from_sentence};
use crate::config::Config;
use crate::credentials::identity::date;
use crate::credentials::preflight::{Check, Status};
use crate::decode::stage::CLOCK_TOLERANCE_SECONDS;
use crate::store::inspect::{
    self, DatabaseInspection, OLDEST_SERVER, PartitionCoverage, RolePrivileges, ServerInfo,
    ServerLocation,
};
use crate::store::schema::{MigrationError, MigrationStatus};

pub(super) const CONNECTION: &str = "database_connection";
pub(super) const ADDRESS: &str = "database_address";
pub(super) const SESSIONS: &str = "database_sessions";
pub(super) const CONNECTIONS: &str = "database_connections";
pub(super) const TLS: &str = "database_tls";
pub(super) const VERSION: &str = "database_version";
pub(super) const ENCODING: &str = "database_encoding";
pub(super) const WRITABLE: &str = "database_writable";
pub(super) const DURABILITY: &str = "database_durability";
pub(super) const SCHEMA: &str = "database_schema";
pub(super) const RIGHTS: &str = "database_rights";
pub(super) const PARTITIONS: &str = "database_partitions";
pub(super) const CLOCK: &str = "database_clock";

/// The lines of a database that answers.
pub(super) const EXPECTED: [&str; 12] = [
    CONNECTION,
    SESSIONS,
    CONNECTIONS,
    TLS,
    VERSION,
    ENCODING,
    WRITABLE,
    DURABILITY,
    CLOCK,
    SCHEMA,
    RIGHTS,
    PARTITIONS,
];

/// What to do where the server's own words have no better advice.
const SEE_LOG: &str = "see the database server's log";

pub(super) async fn report(config: &Config) -> Report {
    let limit = config.mqtt.connect_timeout;
    let mut report = Report::default();
    if tokio::time::timeout(limit, look(config, &mut report.checks)).await.is_err() {
        report.checks.push(silent(config, limit, report.checks.is_empty()));
    }
    report.note_missing(&EXPECTED);
    report
}

fn silent(config: &Config, limit: Duration, unreached: bool) -> Check {
    let place = inspect::place(&config.database).map_or_else(|_| String::new(), |p| words(&p));
    let what = if unreached { "did not accept a connection" } else { "stopped answering" };
    Check::trouble(
        CONNECTION,
        Status::Failed,
        format!("the database {place} {what} within {} s", limit.as_secs_f64()),
        "an answer",
        "check the host and port in database.url, and that no firewall drops the traffic",
    )
}

/// Adds line after line, so that a server that stops answering leaves what it said before.
async fn look(config: &Config, checks: &mut Vec<Check>) {
    let fault = |name, fault: &dyn std::error::Error| {
        from_sentence(name, Status::Failed, &fault.to_string(), "an answer", SEE_LOG)
    };
    if let Ok(looks) = inspect::look_at_addresses(&config.database).await {
        checks.extend(looks.iter().map(database_link::address));
    }
    let mut inspection = match inspect::open(&config.database).await {
        Ok(inspection) => inspection,
        Err(error) => return checks.push(fault(CONNECTION, &error)),
    };
    if let Err(error) = inspection.sessions().await {
        return checks.push(fault(SESSIONS, &error));
    }
    let server = match inspection.server().await {
        Ok(server) => server,
        Err(error) => return checks.push(fault(CONNECTION, &error)),
    };
    let place = inspection.place.clone();
    checks.push(connection(&server, &place));
    checks.push(Check::ok(SESSIONS, "each connection is a session of its own"));
    checks.push(match inspection.limits().await {
        Ok(limits) => database_link::connections(&limits),
        Err(error) => fault(CONNECTIONS, &error),
    });
    checks.extend(of_server(&server, &place));
    checks.push(match inspection.clock_skew().await {
        Ok(ahead) => clock(ahead),
        Err(error) => fault(CLOCK, &error),
    });
    match inspection.rights().await {
        Ok(rights) => look_inside(config, &server, &rights, &mut inspection, checks).await,
        Err(error) => checks.push(fault(RIGHTS, &error)),
    }
}

async fn look_inside(
    config: &Config,
    server: &ServerInfo,
    rights: &RolePrivileges,
    inspection: &mut DatabaseInspection,
    checks: &mut Vec<Check>,
) {
    if rights.schema_exists && !rights.use_schema {
        // Every look into the schema would be refused for the same reason.
        checks.push(no_usage(server));
        return;
    }
    let steps = inspection.schema().await;
    checks.push(schema(&steps, config.database.migrate));
    let Ok(steps) = steps else { return };
    let pending = steps.iter().any(|step| step.applied_at.is_none());
    checks.push(role(server, rights, pending, config.database.migrate));
    let coverage = match (pending, OffsetDateTime::now_utc()) {
        (true, _) => Ok(None),
        (false, now) => inspection.coverage(now).await.map(Some),
    };
    checks.push(match coverage {
        Ok(Some(coverage)) => partitions(&coverage, rights),
        Ok(None) => Check::ok(PARTITIONS, "made by the migrations and the service"),
        Err(error) => {
            let sentence = error.to_string();
            from_sentence(PARTITIONS, Status::Warning, &sentence, "an answer", SEE_LOG)
        }
    });
}

fn words(place: &ServerLocation) -> String {
    match place {
        ServerLocation::Socket => "on the unix socket".to_owned(),
        ServerLocation::Loopback(address) | ServerLocation::Remote(address) => {
            format!("at {address}")
        }
    }
}

fn connection(server: &ServerInfo, place: &ServerLocation) -> Check {
    let ServerInfo { database, role, .. } = server;
    Check::ok(CONNECTION, format!("database {database:?} {} as role {role:?}", words(place)))
}

pub(super) fn of_server(server: &ServerInfo, place: &ServerLocation) -> Vec<Check> {
    vec![
        tls(server, place),
        version(server),
        encoding(server),
        writable(server),
        durability(server),
    ]
}

fn tls(server: &ServerInfo, place: &ServerLocation) -> Check {
    match (&server.tls, place) {
        (Some((version, cipher)), _) => Check::ok(TLS, format!("{version}, {cipher}")),
        (None, ServerLocation::Socket) => Check::ok(TLS, "not needed on a unix socket"),
        (None, ServerLocation::Loopback(_)) => {
            Check::ok(TLS, "not in use, and not needed on this machine")
        }
        (None, ServerLocation::Remote(address)) => Check::trouble(
            TLS,
            Status::Warning,
            format!("events and credentials travel readable to {address}"),
            "TLS",
            "turn ssl on at the server and add sslmode=verify-full to database.url",
        ),
    }
}

fn version(server: &ServerInfo) -> Check {
    let found = format!("PostgreSQL {}", server.version);
    if server.version_number >= OLDEST_SERVER {
        return Check::ok(VERSION, found);
    }
    let expected = format!("PostgreSQL {} or newer", OLDEST_SERVER / 10_000);
    Check::trouble(VERSION, Status::Failed, found, expected, "upgrade the server, or use another")
}

fn encoding(server: &ServerInfo) -> Check {
    if server.encoding == "UTF8" {
        return Check::ok(ENCODING, "UTF8");
    }
    Check::trouble(
        ENCODING,
        Status::Failed,
        format!("the database's encoding is {}, which cannot hold every text", server.encoding),
        "UTF8",
        "make the database anew: create database … encoding 'UTF8' template template0",
    )
}

fn writable(server: &ServerInfo) -> Check {
    let found = if server.in_recovery {
        "the server is a standby, which takes no writes"
    } else if server.read_only {
        "transactions are read-only (default_transaction_read_only)"
    } else {
        return Check::ok(WRITABLE, "the server takes writes");
    };
    Check::trouble(
        WRITABLE,
        Status::Failed,
        found,
        "a server that takes writes",
        "name the primary in database.url, or lift default_transaction_read_only",
    )
}

fn durability(server: &ServerInfo) -> Check {
    if server.fsync {
        return Check::ok(DURABILITY, "what is committed is on disk (fsync is on)");
    }
    Check::trouble(
        DURABILITY,
        Status::Warning,
        "fsync is off: a crash of the server loses events that were acknowledged to the broker",
        "fsync = on",
        "set fsync = on in postgresql.conf and reload the server",
    )
}

pub(super) fn clock(ahead: f64) -> Check {
    let (much, way) = (ahead.abs(), if ahead < 0.0 { "behind" } else { "ahead of" });
    let found = format!("this machine's clock is {much:.1} s {way} the database's");
    if much <= CLOCK_TOLERANCE_SECONDS {
        return Check::ok(CLOCK, found);
    }
    let expected = format!("a difference of at most {CLOCK_TOLERANCE_SECONDS} s");
    let cure = "set the wrong one of the two, and let both be kept by NTP";
    Check::trouble(CLOCK, Status::Warning, found, expected, cure)
}

fn no_usage(server: &ServerInfo) -> Check {
    let role = &server.role;
    Check::trouble(
        RIGHTS,
        Status::Failed,
        format!("the role {role:?} may not use schema centiloc"),
        "the schema's owner, or a role that was granted its use",
        format!(
            "as the schema's owner: grant usage on schema centiloc to \"{role}\"; \
             {}",
            grant_tables(role)
        ),
    )
}

fn grant_tables(role: &str) -> String {
    format!("grant select, insert, update, delete on all tables in schema centiloc to \"{role}\"")
}

fn schema(steps: &Result<Vec<MigrationStatus>, MigrationError>, migrate: bool) -> Check {
    let expected = "the schema of this program";
    let steps = match steps {
        Ok(steps) => steps,
        Err(error) => {
            let sentence = error.to_string();
            let cure = "restore the schema from a backup, or use an empty database";
            return from_sentence(SCHEMA, Status::Failed, &sentence, expected, cure);
        }
    };
    let pending = steps.iter().filter(|step| step.applied_at.is_none()).count();
    let all = steps.len();
    match (pending, migrate) {
        (0, _) => Check::ok(SCHEMA, format!("all {all} migrations are applied")),
        (_, true) => {
            Check::ok(SCHEMA, format!("{pending} of {all} migrations will be applied by run"))
        }
        (_, false) => Check::trouble(
            SCHEMA,
            Status::Failed,
            format!("{pending} of {all} migrations are pending, and database.migrate is false"),
            expected,
            "run centiloc-bridge migrate, under a role that owns the schema",
        ),
    }
}

fn role(server: &ServerInfo, rights: &RolePrivileges, pending: bool, migrate: bool) -> Check {
    let role = &server.role;
    if pending && migrate {
        return for_migrations(server, rights);
    }
    if !rights.missing_to_write.is_empty() {
        return Check::trouble(
            RIGHTS,
            Status::Failed,
            format!("the role {role:?} lacks {}", rights.missing_to_write.join(", ")),
            "the right to write events",
            format!("as the schema's owner: {}", grant_tables(role)),
        );
    }
    if !rights.missing_to_delete.is_empty() {
        return Check::trouble(
            RIGHTS,
            Status::Warning,
            format!("the role {role:?} lacks {}", rights.missing_to_delete.join(", ")),
            "the right to delete what is past its retention",
            format!("as the schema's owner: {}", grant_tables(role)),
        );
    }
    Check::ok(RIGHTS, format!("the role {role:?} may write events"))
}

fn for_migrations(server: &ServerInfo, rights: &RolePrivileges) -> Check {
    let ServerInfo { role, database, .. } = server;
    let (may, cure) = if rights.schema_exists {
        (rights.migrate, format!("alter schema centiloc owner to \"{role}\""))
    } else {
        let cure = format!("grant create on database \"{database}\" to \"{role}\"");
        (rights.create_schema, cure)
    };
    if may {
        return Check::ok(RIGHTS, format!("the role {role:?} may apply the migrations"));
    }
    Check::trouble(
        RIGHTS,
        Status::Failed,
        format!("the role {role:?} may not make what the migrations make in schema centiloc"),
        "a role that may create the schema, or owns it",
        format!("as an administrator of the database: {cure}"),
    )
}

pub(super) fn partitions(coverage: &PartitionCoverage, rights: &RolePrivileges) -> Check {
    let until = coverage.until;
    if coverage.in_default > 0 {
        return Check::trouble(
            PARTITIONS,
            Status::Warning,
            format!(
                "{} events lie in item_event_default, whose momentum fits no partition",
                at_most(coverage.in_default)
            ),
            "none",
            "look at their momentum; with assumed protobuf numbers, set decode.proto_file",
        );
    }
    match (until, rights.make_partitions) {
        (Some(until), true) => Check::ok(PARTITIONS, format!("made ahead until {}", date(until))),
        (None, true) => Check::ok(PARTITIONS, "none for now yet; the service makes them"),
        (until, false) => Check::trouble(
            PARTITIONS,
            Status::Warning,
            match until {
                Some(until) => {
                    format!("they end on {}, and the role may make no more", date(until))
                }
                None => "there is none for now, and the role may make none".to_owned(),
            },
            "a role that owns item_event and may create in schema centiloc",
            "make the role the owner of the tables; until then events go to item_event_default",
        ),
    }
}

/// The count is cut off.
fn at_most(count: i64) -> String {
    if count >= inspect::COUNTED { format!("{count} or more") } else { count.to_string() }
}
