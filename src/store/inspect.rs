//! Inspects a database without changing it: for `check`, before the service starts.

use sqlx::Row as _;
use time::OffsetDateTime;

use super::connection::connector::Connector;
pub use super::connection::connector::ServerLocation;
pub use super::connection::route::AddressProbe;
use super::connection::session_proof::prove_sessions;
use super::error::DbError;
use super::kinds;
use super::partitions::{default_partition, list};
use super::query::Db;
use super::schema::{self, MigrationError, MigrationStatus};
use crate::config;
use crate::event::EventKind;

/// The oldest server whose functions the schema uses (`date_bin` came with 14), as
/// `server_version_num` counts.
pub const OLDEST_SERVER: i32 = 140_000;

/// Rows of the default partition are counted up to here: it matters whether there are any.
pub const COUNTED: i64 = 1000;

/// A table, and privileges on it.
type TablePrivileges = (String, &'static [&'static str]);

/// Privileges that writing needs in addition to those on the tables of each kind of event, by table.
const TO_WRITE: [(&str, &[&str]); 16] = [
    ("dead_letter", &["select", "insert", "update"]),
    ("connection", &["select", "insert", "update"]),
    ("journal_position", &["select", "insert", "update"]),
    ("stay", &["select", "insert", "update", "delete"]),
    ("stay_pending", &["select", "insert", "delete"]),
    ("recent_change", &["select", "insert", "delete"]),
    ("item_board", &["select", "insert", "update", "delete"]),
    ("board_activity", &["select", "insert", "update"]),
    ("known_value", &["select", "insert", "update"]),
    ("board_hour", &["select", "insert", "delete"]),
    ("location_hour", &["select", "insert", "delete"]),
    ("product_day", &["select", "insert", "delete"]),
    ("rollup_pending", &["select", "insert", "delete"]),
    ("rollup_floor", &["select", "update"]),
    ("board_usual_interval", &["select", "insert", "update"]),
    ("gap", &["select", "insert"]),
];

/// The same for deleting rows whose time is over.
const TO_DELETE: [(&str, &[&str]); 2] = [("dead_letter", &["delete"]), ("connection", &["delete"])];

/// An open connection for inspection.
#[derive(Debug)]
pub struct DatabaseInspection {
    connector: Connector,
    db: Db,
    /// Location of the server.
    pub place: ServerLocation,
}

/// Properties of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// `current_database()`.
    pub database: String,
    /// `current_user`.
    pub role: String,
    /// `server_version`, as text.
    pub version: String,
    /// `server_version_num`.
    pub version_number: i32,
    /// Encoding of the database.
    pub encoding: String,
    /// A standby.
    pub in_recovery: bool,
    /// `transaction_read_only`.
    pub read_only: bool,
    /// True if a COMMIT reaches the disk.
    pub fsync: bool,
    /// TLS version and cipher. `None` is a connection in the clear.
    pub tls: Option<(String, String)>,
}

/// Privileges of the role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "rights are granted independently")]
pub struct RolePrivileges {
    /// Schema `centiloc` exists.
    pub schema_exists: bool,
    /// CREATE on the database: may make the schema.
    pub create_schema: bool,
    /// USAGE on the schema.
    pub use_schema: bool,
    /// CREATE on the schema and owner of it: may migrate further.
    pub migrate: bool,
    /// May make partitions: CREATE on the schema, and owner of `item_event`.
    pub make_partitions: bool,
    /// Privileges that writing events needs and the role has not, such as "insert on gap".
    pub missing_to_write: Vec<String>,
    /// The same for deleting what is past its time.
    pub missing_to_delete: Vec<String>,
}

/// Limits on connections. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The number that the service uses.
    pub needed: u32,
    /// Of the role.
    pub role: Option<u32>,
    /// Of the database.
    pub database: Option<u32>,
    /// Of the server, but for those reserved for superusers.
    pub server: u32,
    /// Connections of all clients at present.
    pub in_use: u32,
}

/// The partitions of `item_event`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionCoverage {
    /// Until when partitions reach from now on without a hole. `None` if none covers now.
    pub until: Option<OffsetDateTime>,
    /// Rows in the default partition, counted up to a thousand.
    pub in_default: i64,
}

/// Connects, under the same settings as the service.
pub async fn open(config: &config::DatabaseConfig) -> Result<DatabaseInspection, DbError> {
    let connector = Connector::new(config)?;
    let db = connector.open().await?;
    Ok(DatabaseInspection { place: connector.place(), connector, db })
}

/// Tries every address of the configured servers by TCP, where there are several.
pub async fn look_at_addresses(
    config: &config::DatabaseConfig,
) -> Result<Vec<AddressProbe>, DbError> {
    Ok(Connector::new(config)?.look_at_addresses().await)
}

/// Returns the location of the configured server, without connecting.
pub fn place(config: &config::DatabaseConfig) -> Result<ServerLocation, DbError> {
    Ok(Connector::new(config)?.place())
}

/// Returns the privileges without which events cannot be written.
fn to_write() -> Vec<TablePrivileges> {
    let of_kind = |kind| -> [TablePrivileges; 2] {
        let tables = kinds::tables(kind);
        [
            (tables.event_table().to_owned(), &["select", "insert"]),
            (tables.state_table().to_owned(), &["select", "insert", "update"]),
        ]
    };
    let others = TO_WRITE.map(|(table, privileges)| (table.to_owned(), privileges));
    EventKind::ALL.into_iter().flat_map(of_kind).chain(others).collect()
}

/// Returns the privileges without which nothing is deleted when its time is over.
fn to_delete() -> Vec<TablePrivileges> {
    let of_kind = |kind| -> Vec<TablePrivileges> {
        let (tables, table) = (kinds::tables(kind), kinds::tables(kind).event_table());
        if tables.is_partitioned() {
            let default = format!("{table}_default");
            vec![(table.to_owned(), &["update"]), (default, &["select", "delete"])]
        } else {
            vec![(table.to_owned(), &["delete", "update"])]
        }
    };
    let others = TO_DELETE.map(|(table, privileges)| (table.to_owned(), privileges));
    EventKind::ALL.into_iter().flat_map(of_kind).chain(others).collect()
}

impl DatabaseInspection {
    /// Reads the properties of the server.
    pub async fn server(&mut self) -> Result<ServerInfo, DbError> {
        const SQL: &str = "
            select current_database()::text as database, current_user::text as role,
                   current_setting('server_version') as version,
                   current_setting('server_version_num')::integer as version_number,
                   current_setting('server_encoding') as encoding,
                   pg_is_in_recovery() as in_recovery,
                   current_setting('transaction_read_only')::boolean as read_only,
                   current_setting('fsync')::boolean as fsync,
                   s.version as tls_version, s.cipher as tls_cipher
              from (select) one
              left join pg_stat_ssl s on s.pid = pg_backend_pid() and s.ssl";
        let row = self.db.query(|conn| sqlx::query(SQL).fetch_one(conn)).await?;
        let tls: (Option<String>, Option<String>) =
            (row.try_get("tls_version")?, row.try_get("tls_cipher")?);
        Ok(ServerInfo {
            database: row.try_get("database")?,
            role: row.try_get("role")?,
            version: row.try_get("version")?,
            version_number: row.try_get("version_number")?,
            encoding: row.try_get("encoding")?,
            in_recovery: row.try_get("in_recovery")?,
            read_only: row.try_get("read_only")?,
            fsync: row.try_get("fsync")?,
            tls: tls.0.map(|version| (version, tls.1.unwrap_or_default())),
        })
    }

    /// Reads the limits on connections.
    pub async fn limits(&mut self) -> Result<ConnectionLimits, DbError> {
        const SQL: &str = "
            select (select case when rolsuper then -1 else rolconnlimit end
                      from pg_catalog.pg_roles where rolname = current_user) as role,
                   (select datconnlimit from pg_catalog.pg_database
                     where datname = current_database()) as database,
                   current_setting('max_connections')::integer
                       - current_setting('superuser_reserved_connections')::integer as server,
                   (select count(*)::integer from pg_catalog.pg_stat_activity
                     where backend_type = 'client backend') as in_use";
        let row = self.db.query(|conn| sqlx::query(SQL).fetch_one(conn)).await?;
        let number = |name| Ok::<_, DbError>(u32::try_from(row.try_get::<i32, _>(name)?).ok());
        Ok(ConnectionLimits {
            needed: self.connector.needed(),
            role: number("role")?,
            database: number("database")?,
            server: number("server")?.unwrap_or_default(),
            in_use: number("in_use")?.unwrap_or_default(),
        })
    }

    /// Proves that each connection is a session of its own, which a pooler may not grant.
    pub async fn sessions(&mut self) -> Result<(), DbError> {
        let mut other = self.connector.open().await?;
        prove_sessions(&mut self.db, &mut other).await
    }

    /// Returns all migrations, applied or pending.
    pub async fn schema(&mut self) -> Result<Vec<MigrationStatus>, MigrationError> {
        schema::status(&mut self.db).await
    }

    /// Reads the privileges of the role. Queries only the catalogues, so that it needs none itself.
    pub async fn rights(&mut self) -> Result<RolePrivileges, DbError> {
        const SQL: &str = "
            select n.oid is not null as schema_exists,
                   has_database_privilege(current_database(), 'create') as create_schema,
                   coalesce(has_schema_privilege(n.oid, 'usage'), false) as use_schema,
                   coalesce(has_schema_privilege(n.oid, 'create'), false) as create_in_schema,
                   coalesce(pg_has_role(n.nspowner, 'usage'), false) as owns_schema,
                   coalesce(pg_has_role(t.relowner, 'usage'), false) as owns_items
              from (select) one
              left join pg_namespace n on n.nspname = 'centiloc'
              left join pg_class t on t.relnamespace = n.oid and t.relname = 'item_event'";
        let row = self.db.query(|conn| sqlx::query(SQL).fetch_one(conn)).await?;
        let flag = |name: &str| row.try_get::<bool, _>(name);
        let create_in_schema = flag("create_in_schema")?;
        Ok(RolePrivileges {
            schema_exists: flag("schema_exists")?,
            create_schema: flag("create_schema")?,
            use_schema: flag("use_schema")?,
            migrate: create_in_schema && flag("owns_schema")?,
            make_partitions: create_in_schema && flag("owns_items")?,
            missing_to_write: self.missing(&to_write()).await?,
            missing_to_delete: self.missing(&to_delete()).await?,
        })
    }

    /// Returns the privileges that the role does not have, on tables that exist.
    async fn missing(&mut self, wanted: &[TablePrivileges]) -> Result<Vec<String>, DbError> {
        const SQL: &str = "
            select format('%s on %s', w.privilege, w.relation)
              from unnest($1::text[], $2::text[]) with ordinality w (relation, privilege, place)
              join pg_class c on c.relname = w.relation
              join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'centiloc'
             where not has_table_privilege(c.oid, w.privilege)
             order by w.place";
        let (relations, privileges): (Vec<&str>, Vec<&str>) = wanted
            .iter()
            .flat_map(|(table, privileges)| privileges.iter().map(|p| (table.as_str(), *p)))
            .unzip();
        let query = sqlx::query_scalar(SQL).bind(relations).bind(privileges);
        self.db.query(|conn| query.fetch_all(conn)).await
    }

    /// Returns how far partitions reach. Requires the schema.
    pub async fn coverage(&mut self, now: OffsetDateTime) -> Result<PartitionCoverage, DbError> {
        let mut ranges: Vec<_> = list(&mut self.db).await?;
        ranges.retain(|named| named.routable);
        ranges.sort_by_key(|named| named.range);
        let mut until = None;
        for named in &ranges {
            if named.range.contains(until.unwrap_or(now)) {
                until = Some(named.range.to);
            }
        }
        let in_default = self.count_default().await?;
        Ok(PartitionCoverage { until, in_default })
    }

    async fn count_default(&mut self) -> Result<i64, DbError> {
        let Some(table) = default_partition(&mut self.db).await? else {
            return Ok(0);
        };
        let sql = format!("select count(*) from (select from {table} limit $1) counted");
        let count = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(COUNTED);
        self.db.query(|conn| count.fetch_one(conn)).await
    }

    /// Measures how far this host's clock is ahead of the database's, seconds.
    pub async fn clock_skew(&mut self) -> Result<f64, DbError> {
        super::clocks::skew(&mut self.db).await
    }
}
