//! Checks of the database: connection, server, schema, and the rights of the role.

use super::line::{CheckLine, CheckStatus};
use super::names;
use super::report::CheckReport;
use std::time::Duration;

use time::OffsetDateTime;

use super::database_link;
use crate::config::Config;
use crate::credentials::identity::date;
use crate::decode::stage::CLOCK_TOLERANCE_SECONDS;
use crate::store::inspect::{self, Coverage, Inspection, OLDEST_SERVER, Place, Rights, Server};
use crate::store::schema::{SchemaError, Step};

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

/// The remedy where the error of the server has none.
const SEE_LOG: &str = "see the database server's log";

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
    checks.push(CheckLine::ok(names::DATABASE_SESSIONS, "each connection is a session of its own"));
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
        Ok(rights) => check_schema(config, &server, &rights, &mut inspection, checks).await,
        Err(error) => checks.push(fault(names::DATABASE_RIGHTS, &error)),
    }
}

async fn check_schema(
    config: &Config,
    server: &Server,
    rights: &Rights,
    inspection: &mut Inspection,
    checks: &mut Vec<CheckLine>,
) {
    if rights.schema_exists && !rights.use_schema {
        // Every query in the schema would be refused for the same reason.
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
        Ok(None) => {
            CheckLine::ok(names::DATABASE_PARTITIONS, "created by the migrations and the service")
        }
        Err(error) => {
            let sentence = error.to_string();
            CheckLine::from_sentence_or(
                names::DATABASE_PARTITIONS,
                CheckStatus::Warning,
                &sentence,
                "an answer",
                SEE_LOG,
            )
        }
    });
}

fn describe_place(place: &Place) -> String {
    match place {
        Place::Socket => "on the unix socket".to_owned(),
        Place::Loopback(address) | Place::Remote(address) => format!("at {address}"),
    }
}

fn connection(server: &Server, place: &Place) -> CheckLine {
    let Server { database, role, .. } = server;
    CheckLine::ok(
        names::DATABASE_CONNECTION,
        format!("database {database:?} {} as role {role:?}", describe_place(place)),
    )
}

pub(super) fn of_server(server: &Server, place: &Place) -> Vec<CheckLine> {
    vec![
        tls(server, place),
        version(server),
        encoding(server),
        writable(server),
        durability(server),
    ]
}

fn tls(server: &Server, place: &Place) -> CheckLine {
    match (&server.tls, place) {
        (Some((version, cipher)), _) => {
            CheckLine::ok(names::DATABASE_TLS, format!("{version}, {cipher}"))
        }
        (None, Place::Socket) => CheckLine::ok(names::DATABASE_TLS, "not needed on a unix socket"),
        (None, Place::Loopback(_)) => {
            CheckLine::ok(names::DATABASE_TLS, "not in use, and not needed on this machine")
        }
        (None, Place::Remote(address)) => CheckLine::problem(
            names::DATABASE_TLS,
            CheckStatus::Warning,
            format!("events and credentials travel readable to {address}"),
            "TLS",
            "turn ssl on at the server and add sslmode=verify-full to database.url",
        ),
    }
}

fn version(server: &Server) -> CheckLine {
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

fn encoding(server: &Server) -> CheckLine {
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

fn writable(server: &Server) -> CheckLine {
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
        "name the primary in database.url, or lift default_transaction_read_only",
    )
}

fn durability(server: &Server) -> CheckLine {
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

fn no_usage(server: &Server) -> CheckLine {
    let role = &server.role;
    CheckLine::problem(
        names::DATABASE_RIGHTS,
        CheckStatus::Failed,
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

fn schema(steps: &Result<Vec<Step>, SchemaError>, migrate: bool) -> CheckLine {
    let expected = "the schema of this program";
    let steps = match steps {
        Ok(steps) => steps,
        Err(error) => {
            let sentence = error.to_string();
            let hint = "restore the schema from a backup, or use an empty database";
            return CheckLine::from_sentence_or(
                names::DATABASE_SCHEMA,
                CheckStatus::Failed,
                &sentence,
                expected,
                hint,
            );
        }
    };
    let pending = steps.iter().filter(|step| step.applied_at.is_none()).count();
    let all = steps.len();
    match (pending, migrate) {
        (0, _) => {
            CheckLine::ok(names::DATABASE_SCHEMA, format!("all {all} migrations are applied"))
        }
        (_, true) => CheckLine::ok(
            names::DATABASE_SCHEMA,
            format!("{pending} of {all} migrations will be applied by run"),
        ),
        (_, false) => CheckLine::problem(
            names::DATABASE_SCHEMA,
            CheckStatus::Failed,
            format!("{pending} of {all} migrations are pending, and database.migrate is false"),
            expected,
            "run centiloc-bridge migrate, under a role that owns the schema",
        ),
    }
}

fn role(server: &Server, rights: &Rights, pending: bool, migrate: bool) -> CheckLine {
    let role = &server.role;
    if pending && migrate {
        return for_migrations(server, rights);
    }
    if !rights.missing_to_write.is_empty() {
        return CheckLine::problem(
            names::DATABASE_RIGHTS,
            CheckStatus::Failed,
            format!("the role {role:?} lacks {}", rights.missing_to_write.join(", ")),
            "the right to write events",
            format!("as the schema's owner: {}", grant_tables(role)),
        );
    }
    if !rights.missing_to_delete.is_empty() {
        return CheckLine::problem(
            names::DATABASE_RIGHTS,
            CheckStatus::Warning,
            format!("the role {role:?} lacks {}", rights.missing_to_delete.join(", ")),
            "the right to delete what is past its retention",
            format!("as the schema's owner: {}", grant_tables(role)),
        );
    }
    CheckLine::ok(names::DATABASE_RIGHTS, format!("the role {role:?} may write events"))
}

fn for_migrations(server: &Server, rights: &Rights) -> CheckLine {
    let Server { role, database, .. } = server;
    let (may, hint) = if rights.schema_exists {
        (rights.migrate, format!("alter schema centiloc owner to \"{role}\""))
    } else {
        let hint = format!("grant create on database \"{database}\" to \"{role}\"");
        (rights.create_schema, hint)
    };
    if may {
        return CheckLine::ok(
            names::DATABASE_RIGHTS,
            format!("the role {role:?} may apply the migrations"),
        );
    }
    CheckLine::problem(
        names::DATABASE_RIGHTS,
        CheckStatus::Failed,
        format!("the role {role:?} may not create what the migrations create in schema centiloc"),
        "a role that may create the schema, or owns it",
        format!("as an administrator of the database: {hint}"),
    )
}

pub(super) fn partitions(coverage: &Coverage, rights: &Rights) -> CheckLine {
    let until = coverage.until;
    if coverage.in_default > 0 {
        return CheckLine::problem(
            names::DATABASE_PARTITIONS,
            CheckStatus::Warning,
            format!(
                "{} events are in item_event_default, because their momentum fits no partition",
                limited_count(coverage.in_default)
            ),
            "none",
            "check their momentum; with assumed protobuf numbers, set decode.proto_file",
        );
    }
    match (until, rights.make_partitions) {
        (Some(until), true) => CheckLine::ok(
            names::DATABASE_PARTITIONS,
            format!("created ahead until {}", date(until)),
        ),
        (None, true) => {
            CheckLine::ok(names::DATABASE_PARTITIONS, "none for now yet; the service creates them")
        }
        (until, false) => CheckLine::problem(
            names::DATABASE_PARTITIONS,
            CheckStatus::Warning,
            match until {
                Some(until) => {
                    format!("they end on {}, and the role may not create more", date(until))
                }
                None => "there is none for now, and the role may not create one".to_owned(),
            },
            "a role that owns item_event and may create in schema centiloc",
            "make the role the owner of the tables; until then events go to item_event_default",
        ),
    }
}

/// Formats the count, which is limited to [`inspect::COUNTED`].
fn limited_count(count: i64) -> String {
    if count >= inspect::COUNTED { format!("{count} or more") } else { count.to_string() }
}
