//! Schema migrations: append-only, applied under a lock, so that any number of processes may start
//! at once. Where nothing is pending, reading is enough: `run` needs no right to change the schema.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Row as _, SqlSafeStr};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::Store;
use super::error::{DbError, StoreError};
use super::pg_timestamp::time_of;
use super::query::Db;
use crate::progress::during;

/// All migrations of the folder `migrations`, by version: number, description and text. Only ever
/// appended to: the database remembers their checksums.
const MIGRATIONS: &[(i64, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

const TABLE: &str = "centiloc._sqlx_migrations";

/// A migration may rewrite years of events. Past this it is the connection that is dead.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// One migration, as `migrate --status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i64,
    /// Description, from its file name.
    pub description: &'static str,
    /// Time of its application. `None` while it is pending.
    pub applied_at: Option<OffsetDateTime>,
}

/// Reason why the schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrationError {
    /// Exit code 78.
    #[error(
        "the database schema has version {found}, newer than version {known} of this program; \
         install the newer centiloc-bridge, or name another database in database.url"
    )]
    Newer {
        /// In the database.
        found: i64,
        /// Highest of this program.
        known: i64,
    },
    /// Exit code 78.
    #[error(
        "migration {version} in the database differs from the one of this program; \
         was it edited after it was applied?"
    )]
    Changed {
        /// Version of the migration.
        version: i64,
    },
    /// Migrations are pending and may not be applied.
    #[error(
        "{pending} migrations are pending and database.migrate is false; \
         run `centiloc-bridge migrate`"
    )]
    Behind {
        /// Number of pending migrations.
        pending: usize,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbError> for MigrationError {
    fn from(error: DbError) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Returns all migrations, applied or pending. Changes nothing.
    pub async fn schema_status(&self) -> Result<Vec<MigrationStatus>, MigrationError> {
        let mut writer = self.writer.take().await?;
        let steps = status(writer.db()).await?;
        writer.finish(Ok(steps)).map_err(MigrationError::from)
    }

    /// Applies what is pending. Returns what was applied, as far as this process did it. Needs no
    /// connection in addition to the one that the stream is written over afterwards.
    pub async fn migrate(&self) -> Result<Vec<MigrationStatus>, MigrationError> {
        self.migrate_reporting(&mut |_| ()).await
    }

    /// Does the same as [`Store::migrate`], and calls `begins` before each migration.
    pub async fn migrate_reporting(
        &self,
        begins: &mut (dyn FnMut(&MigrationStatus) + Send),
    ) -> Result<Vec<MigrationStatus>, MigrationError> {
        let mut writer = self.writer.take().await?;
        let db = writer.db();
        let before = status(db).await?;
        if before.iter().all(|s| s.applied_at.is_some()) {
            writer.finish(Ok(()))?;
            return Ok(Vec::new());
        }
        let creates_schema = !has_schema(db).await?;
        db.execute("set statement_timeout = 0").await?;
        for pending in before.iter().filter(|step| step.applied_at.is_none()) {
            begins(pending);
            let mut migrator = migrator_to(pending.version);
            if creates_schema {
                migrator.create_schema("centiloc");
            }
            // Another process may have applied later ones meanwhile.
            migrator.set_ignore_missing(pending.version < latest_version());
            let migrate = timeout(MIGRATION_TIMEOUT, migrator.run_direct(None, db.conn(), false));
            // On a failure the connection is dropped, which gives back the lock.
            during(MIGRATION_TIMEOUT, migrate)
                .await
                .map_err(|_| DbError::timed_out(MIGRATION_TIMEOUT))?
                .map_err(migration_error)?;
        }
        self.connector.set_up(db).await?;
        let after = status(db).await?;
        writer.finish(Ok(()))?;
        let applied =
            |version| before.iter().any(|s| s.version == version && s.applied_at.is_none());
        Ok(after.into_iter().filter(|s| applied(s.version)).collect())
    }

    /// Makes sure that the schema is the one this program knows. With `migrate`, applies what is
    /// pending.
    pub async fn prepare_schema(&self, migrate: bool) -> Result<(), MigrationError> {
        if migrate {
            for step in self.migrate().await? {
                tracing::info!(
                    version = step.version,
                    description = step.description,
                    "applied a migration"
                );
            }
        } else {
            let steps = self.schema_status().await?;
            let pending = steps.iter().filter(|s| s.applied_at.is_none()).count();
            if pending > 0 {
                return Err(MigrationError::Behind { pending });
            }
        }
        self.prepared.send_replace(true);
        Ok(())
    }

    /// Waits until [`Store::prepare_schema`] has succeeded.
    pub async fn until_prepared(&self) {
        // Never closed: the sender is borrowed with self.
        let _ = self.prepared.subscribe().wait_for(|prepared| *prepared).await;
    }
}

fn latest_version() -> i64 {
    MIGRATIONS[MIGRATIONS.len() - 1].0
}

/// Returns a migrator up to a version.
fn migrator_to(last: i64) -> Migrator {
    let known = MIGRATIONS.iter().filter(|(version, ..)| *version <= last);
    let migrations = known.map(|(version, description, sql)| {
        let kind = MigrationType::Simple;
        Migration::new(*version, (*description).into(), kind, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

pub(super) async fn status(db: &mut Db) -> Result<Vec<MigrationStatus>, MigrationError> {
    let applied = applied(db).await?;
    let known = latest_version();
    if let Some(found) = applied.iter().map(|a| a.version).max().filter(|v| *v > known) {
        return Err(MigrationError::Newer { found, known });
    }
    let migrator = migrator_to(known);
    let mut steps = Vec::with_capacity(MIGRATIONS.len());
    for (migration, (version, description, _)) in migrator.iter().zip(MIGRATIONS.iter().copied()) {
        let applied = applied.iter().find(|a| a.version == version);
        if applied.is_some_and(|a| a.checksum != *migration.checksum) {
            return Err(MigrationError::Changed { version });
        }
        steps.push(MigrationStatus { version, description, applied_at: applied.map(|a| a.at) });
    }
    Ok(steps)
}

struct AppliedMigration {
    version: i64,
    at: OffsetDateTime,
    checksum: Vec<u8>,
}

async fn applied(db: &mut Db) -> Result<Vec<AppliedMigration>, DbError> {
    const EXISTS: &str = "select to_regclass('centiloc._sqlx_migrations') is not null";
    const LIST: &str = "
        select version, installed_on, checksum
          from centiloc._sqlx_migrations
         order by version";
    let exists: bool = db.query(|conn| sqlx::query_scalar(EXISTS).fetch_one(conn)).await?;
    if !exists {
        return Ok(Vec::new());
    }
    let rows = db.query(|conn| sqlx::query(LIST).fetch_all(conn)).await?;
    rows.iter()
        .map(|row| {
            Ok(AppliedMigration {
                version: row.try_get("version")?,
                at: time_of(row, "installed_on")?,
                checksum: row.try_get("checksum")?,
            })
        })
        .collect()
}

async fn has_schema(db: &mut Db) -> Result<bool, DbError> {
    const SQL: &str = "select to_regnamespace('centiloc') is not null";
    db.query(|conn| sqlx::query_scalar(SQL).fetch_one(conn)).await
}

fn migration_error(error: MigrateError) -> MigrationError {
    let known = latest_version();
    match error {
        // Another process, of a newer program, was faster.
        MigrateError::VersionMissing(found) => MigrationError::Newer { found, known },
        MigrateError::VersionMismatch(version) => MigrationError::Changed { version },
        MigrateError::Execute(error) => DbError::from(error).into(),
        MigrateError::ExecuteMigration(error, version) => {
            let error = DbError::from(error);
            let text = format!("could not apply migration {version}: {}", error.text);
            DbError { text, ..error }.into()
        }
        other => DbError::stop(format!("could not migrate the database: {other}")).into(),
    }
}
