//! Checks of the database's schema: its migrations, partitions, and the rights of the role.

use time::OffsetDateTime;

use super::line::{CheckLine, CheckStatus};
use super::names;
use crate::config::Config;
use crate::credentials::identity::date;
use crate::store::inspect::{
    self, DatabaseInspection, PartitionCoverage, RolePrivileges, ServerInfo,
};
use crate::store::schema::{MigrationError, MigrationStatus};

/// The remedy where the error of the server has none.
pub(super) const SEE_LOG: &str = "see the database server's log";

/// Adds the lines of the schema, in the order in which they depend on each other.
pub(super) async fn check(
    config: &Config,
    server: &ServerInfo,
    rights: &RolePrivileges,
    inspection: &mut DatabaseInspection,
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

fn no_usage(server: &ServerInfo) -> CheckLine {
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

fn schema(steps: &Result<Vec<MigrationStatus>, MigrationError>, migrate: bool) -> CheckLine {
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

fn role(server: &ServerInfo, rights: &RolePrivileges, pending: bool, migrate: bool) -> CheckLine {
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

fn for_migrations(server: &ServerInfo, rights: &RolePrivileges) -> CheckLine {
    let ServerInfo { role, database, .. } = server;
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

pub(super) fn partitions(coverage: &PartitionCoverage, rights: &RolePrivileges) -> CheckLine {
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
