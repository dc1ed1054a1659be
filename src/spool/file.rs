//! The file, a `SQLite` database in WAL mode that is synced at every commit. Committed transactions
//! survive a crash, and an open one is rolled back.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row as _, Sqlite};

use super::close_mark::{self, CloseMark};
use super::error::SpoolError;
use super::folder::{renew_log, sync_folder_of};
use super::row::SpoolRow;
use super::sqlite::{all_copied, signed, unsigned};
use super::storage::{LastSeen, LastSeenChange, SpoolChanges, SpoolDepth, StorageFile};

/// Name of the file in `spool.dir`. `SQLite` keeps two more next to it, `-wal` and `-shm`.
pub(super) const NAME: &str = "spool.db";

/// Bytes to which the write-ahead log is cut after it was copied into the file.
const WAL_LIMIT: &str = "16777216";

/// Pages of the write-ahead log from which it is copied into the file: 4 MiB, the default of `SQLite`.
const LOG_PAGES: u64 = 1000;

/// Statement that returns freed pages to the file system while the spool is empty. At most 16 MiB at
/// once, which takes a few milliseconds.
const VACUUM_PAGES: &str = "pragma incremental_vacuum(4096)";

/// Longest wait of one connection for the other. Usually they wait for moments only.
pub(super) const BUSY: Duration = Duration::from_secs(10);

/// Rows of the largest INSERT. The others have the powers of two below it, so that few statements have
/// to be kept prepared.
const LARGEST_INSERT: usize = 512;

/// Version of the tables below.
const VERSION: i64 = 1;

const SCHEMA: [&str; 3] = [
    "create table if not exists entry (
        id          integer primary key,
        received_at integer not null,
        topic       text,
        payload     blob    not null,
        qos         integer not null,
        retain      integer not null,
        checksum    integer not null
     ) strict",
    "create table if not exists life (
        one        integer primary key check (one = 1),
        connection text    not null,
        seen_at    integer not null
     ) strict",
    "pragma user_version = 1",
];

const COLUMNS: &str = "id, received_at, topic, payload, qos, retain, checksum";

static INSERTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let sizes = std::iter::successors(Some(LARGEST_INSERT), |n| (*n > 1).then_some(n / 2));
    let values = |n| vec!["(?, ?, ?, ?, ?, ?, ?)"; n].join(", ");
    sizes.map(|n| format!("insert into entry ({COLUMNS}) values {}", values(n))).collect()
});

/// A connection to the file.
#[derive(Debug)]
pub struct SpoolFile {
    pub(super) conn: SqliteConnection,
    /// The mark of a clean close, until the first change.
    pub(super) mark: CloseMark,
    /// First id of a file whose ids are contiguous. `None` if that is not known.
    pub(super) dense_from: Option<u64>,
}

impl SpoolFile {
    /// Opens the file, or makes it. Its structure is checked, unless it was closed cleanly. No other
    /// process may have it open. From here on the file and its content outlast a power cut.
    pub async fn open(path: &Path) -> Result<Self, SpoolError> {
        renew_log(path).await?;
        let mut file = Self::connect(path, true).await?;
        file.mark = close_mark::read(&mut file.conn).await?;
        if file.mark.valid().is_none() {
            file.check().await?;
        }
        let version: i64 =
            sqlx::query_scalar("pragma user_version").fetch_one(&mut file.conn).await?;
        if version > VERSION {
            return Err(SpoolError::Unavailable(format!(
                "{} was written by a newer version of this program; run that one until it is empty",
                path.display()
            )));
        }
        // Opening an existing file writes nothing, since the disk may be full.
        if version < VERSION {
            for statement in SCHEMA {
                sqlx::raw_sql(statement).execute(&mut file.conn).await?;
            }
        }
        // SQLite does this too after it made the log, but does not report a failure.
        sync_folder_of(path)?;
        Ok(file)
    }

    /// Opens a second connection that reads what this one writes.
    pub async fn reader(&self, path: &Path) -> Result<Self, SpoolError> {
        let mut reader = Self::connect(path, false).await?;
        reader.dense_from = self.mark.valid().map(|clean| clean.first);
        Ok(reader)
    }

    /// Treats a missing id in a file that was closed cleanly as damage from here on.
    pub fn expect_no_hole(&mut self) {
        self.dense_from = self.mark.valid().map(|clean| clean.first);
    }

    /// Opens the file without any check, for another connection or a damaged file.
    pub async fn connect(path: &Path, create: bool) -> Result<Self, SpoolError> {
        let mut options = SqliteConnectOptions::new();
        if create {
            // Made here for its mode: no other user may read the messages.
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
            let length = file.and_then(|file| Ok(file.metadata()?.len()));
            // In a file with content, it would be written again at each opening.
            if length.map_err(|e| SpoolError::io(path, &e))? == 0 {
                options = options.auto_vacuum(SqliteAutoVacuum::Incremental);
            }
        }
        let options = options
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .pragma("journal_size_limit", WAL_LIMIT)
            .disable_statement_logging();
        Ok(Self { conn: options.connect().await?, mark: CloseMark::Absent, dense_from: None })
    }

    async fn check(&mut self) -> Result<(), SpoolError> {
        let found: String =
            sqlx::query_scalar("pragma quick_check(1)").fetch_one(&mut self.conn).await?;
        if found == "ok" { Ok(()) } else { Err(SpoolError::Damaged(found)) }
    }

    async fn write_all(&mut self, changes: &SpoolChanges<'_>) -> Result<(), SpoolError> {
        if self.mark != CloseMark::Absent {
            close_mark::clear(&mut self.conn).await?;
        }
        if let Some(id) = changes.delete_through {
            let query = sqlx::query("delete from entry where id <= ?").bind(signed(id));
            query.execute(&mut self.conn).await?;
        }
        let mut rest = changes.append;
        for (index, sql) in INSERTS.iter().enumerate() {
            let size = LARGEST_INSERT >> index;
            while rest.len() >= size {
                let (rows, later) = rest.split_at(size);
                self.insert(sql, rows).await?;
                rest = later;
            }
        }
        match &changes.last_seen {
            LastSeenChange::None => {}
            LastSeenChange::Cleared => self.run("delete from life").await?,
            LastSeenChange::Set(seen) => {
                const SQL: &str =
                    "insert or replace into life (one, connection, seen_at) values (1, ?, ?)";
                let query = sqlx::query(SQL).bind(seen.connection.as_str()).bind(seen.seen_at);
                query.execute(&mut self.conn).await?;
            }
        }
        Ok(())
    }

    async fn insert(
        &mut self,
        sql: &'static str,
        rows: &[(u64, SpoolRow<'_>)],
    ) -> Result<(), SpoolError> {
        let mut query = sqlx::query::<Sqlite>(sql);
        for (id, row) in rows {
            query = query
                .bind(signed(*id))
                .bind(row.received_at)
                .bind(row.topic.as_deref())
                .bind(&*row.payload)
                .bind(row.qos)
                .bind(row.retain)
                .bind(row.checksum());
        }
        query.execute(&mut self.conn).await?;
        Ok(())
    }

    /// Returns one row, if it exists.
    pub async fn read_one(&mut self, id: u64) -> Result<Option<SpoolRow<'static>>, SpoolError> {
        static ONE: LazyLock<String> =
            LazyLock::new(|| format!("select {COLUMNS} from entry where id = ?"));
        let query = sqlx::query(ONE.as_str()).bind(signed(id));
        let row = query.fetch_optional(&mut self.conn).await?;
        row.map(|row| checked(&row).map(|(_, row)| row)).transpose()
    }

    /// Returns the next id after this one. A search with `>` would begin at this id, whose page may
    /// be damaged.
    pub async fn id_after(&mut self, id: u64) -> Result<Option<u64>, SpoolError> {
        const SQL: &str = "select id from entry where id >= ? order by id limit 1";
        let row = sqlx::query(SQL).bind(signed(id + 1)).fetch_optional(&mut self.conn).await?;
        row.map(|row| unsigned(&row, 0)).transpose()
    }

    /// Returns the last id, or 0 if the file is empty.
    pub async fn last_id(&mut self) -> Result<u64, SpoolError> {
        let row =
            sqlx::query("select coalesce(max(id), 0) from entry").fetch_one(&mut self.conn).await?;
        unsigned(&row, 0)
    }

    /// Leaves copying the log into the file to [`Self::limit_log`] from here on. This is required while
    /// another connection reads: `SQLite` would copy a part of the log during a read without a sync, not
    /// copy that part again after a later sync failed, and drop the log.
    pub async fn keep_log(&mut self) -> Result<(), SpoolError> {
        self.run("pragma wal_autocheckpoint = 0").await
    }

    /// Runs a checkpoint. Returns the pages in the log, and the number of them copied into the file.
    async fn checkpoint(&mut self, sql: &'static str) -> Result<(u64, u64), SpoolError> {
        let row = sqlx::query(sql).fetch_one(&mut self.conn).await?;
        Ok((unsigned(&row, 1)?, unsigned(&row, 2)?))
    }

    /// Moves all of the write-ahead log into the file, which then is complete without it. Closing the
    /// file does the same, but does not report a failure.
    pub async fn settle(&mut self) -> Result<(), SpoolError> {
        let row = sqlx::query("pragma wal_checkpoint(truncate)").fetch_one(&mut self.conn).await?;
        if unsigned(&row, 0)? == 0 { Ok(()) } else { Err(SpoolError::NoSpace) }
    }

    /// Runs one statement without a result.
    pub async fn run(&mut self, sql: &'static str) -> Result<(), SpoolError> {
        sqlx::query(sql).execute(&mut self.conn).await?;
        Ok(())
    }
}

impl StorageFile for SpoolFile {
    async fn depth(&mut self) -> Result<(SpoolDepth, u64), SpoolError> {
        const SQL: &str = "
            select count(*), count(topic), coalesce(sum(case when n > 4096 then (n + 4095) / 4096 * 4096 else n end), 0),
                   coalesce(max(id), 0)
              from (select id, topic, length(payload) + coalesce(length(cast(topic as blob)), 0) + 64 as n
                      from entry)";
        if let Some(clean) = self.mark.valid() {
            return Ok((clean.depth, clean.last));
        }
        let row = sqlx::query(SQL).fetch_one(&mut self.conn).await?;
        let (rows, messages, bytes) = (unsigned(&row, 0)?, unsigned(&row, 1)?, unsigned(&row, 2)?);
        Ok((SpoolDepth { rows, messages, bytes }, unsigned(&row, 3)?))
    }

    async fn oldest(&mut self) -> Result<Option<i64>, SpoolError> {
        const SQL: &str = "select received_at from entry order by id limit 1";
        Ok(sqlx::query_scalar(SQL).fetch_optional(&mut self.conn).await?)
    }

    async fn newest(&mut self) -> Result<Option<i64>, SpoolError> {
        const SQL: &str = "select received_at from entry order by id desc limit 1";
        Ok(sqlx::query_scalar(SQL).fetch_optional(&mut self.conn).await?)
    }

    async fn last_seen(&mut self) -> Result<Option<LastSeen>, SpoolError> {
        const SQL: &str = "select connection, seen_at from life";
        let row = sqlx::query(SQL).fetch_optional(&mut self.conn).await?;
        row.map(|row| {
            Ok(LastSeen {
                connection: row.try_get("connection")?,
                seen_at: row.try_get("seen_at")?,
            })
        })
        .transpose()
    }

    async fn write(&mut self, changes: &SpoolChanges<'_>) -> Result<(), SpoolError> {
        self.run("begin immediate").await?;
        let written = self.write_all(changes).await;
        match written {
            Ok(()) => {
                self.run("commit").await?;
                self.mark = CloseMark::Absent;
                Ok(())
            }
            Err(error) => {
                // Fails if SQLite has rolled back already.
                let _ = self.run("rollback").await;
                Err(error)
            }
        }
    }

    async fn read(
        &mut self,
        after: u64,
        rows: i64,
        bytes: usize,
    ) -> Result<Vec<(u64, SpoolRow<'static>)>, SpoolError> {
        const LENGTHS: &str =
            "select id, length(payload) from entry where id >= ? order by id limit ?";
        static ROWS: LazyLock<String> = LazyLock::new(|| {
            format!("select {COLUMNS} from entry where id >= ? and id <= ? order by id")
        });
        let lengths = sqlx::query(LENGTHS).bind(signed(after + 1)).bind(rows);
        let (mut last, mut total) = (after, 0);
        for row in lengths.fetch_all(&mut self.conn).await? {
            if total >= bytes {
                break;
            }
            last = unsigned(&row, 0)?;
            total += usize::try_from(unsigned(&row, 1)?).unwrap_or(usize::MAX);
        }
        let query = sqlx::query(ROWS.as_str()).bind(signed(after + 1)).bind(signed(last));
        let found = query.fetch_all(&mut self.conn).await?;
        let rows = found.iter().map(checked).collect::<Result<Vec<_>, _>>()?;
        if let Some(first) = self.dense_from {
            close_mark::without_hole(first.max(after + 1), rows.iter().map(|(id, _)| *id))?;
        }
        Ok(rows)
    }

    async fn limit_log(&mut self) -> Result<(), SpoolError> {
        let (pages, copied) = self.checkpoint("pragma wal_checkpoint(noop)").await?;
        if pages.saturating_sub(copied) < LOG_PAGES {
            return Ok(());
        }
        match self.checkpoint("pragma wal_checkpoint(restart)").await {
            // Nothing is lost, since the log is synced. The next commit tries again.
            Err(SpoolError::NoSpace) => Ok(()),
            other => other.and_then(|(pages, copied)| all_copied(pages, copied)),
        }
    }

    async fn touch(&mut self) -> Result<(), SpoolError> {
        self.run("pragma user_version = 1").await
    }

    async fn shrink(&mut self) -> Result<(), SpoolError> {
        self.run(VACUUM_PAGES).await
    }

    async fn close(self) -> Result<(), SpoolError> {
        Ok(self.conn.close().await?)
    }

    async fn close_in_order(mut self, depth: SpoolDepth) -> Result<(), SpoolError> {
        if let Err(error) = close_mark::mark(&mut self.conn, depth).await {
            tracing::debug!(%error, "could not mark the spool as closed; the next start scans it");
        }
        self.close().await
    }
}

/// Returns a row after comparing it with its checksum.
fn checked(row: &SqliteRow) -> Result<(u64, SpoolRow<'static>), SpoolError> {
    let id = unsigned(row, 0)?;
    let topic: Option<String> = row.try_get(2)?;
    let payload: Vec<u8> = row.try_get(3)?;
    let read = SpoolRow {
        received_at: row.try_get(1)?,
        topic: topic.map(Into::into),
        payload: payload.into(),
        qos: row.try_get(4)?,
        retain: row.try_get(5)?,
    };
    if read.checksum() == row.try_get::<i64, _>(6)? {
        return Ok((id, read));
    }
    Err(SpoolError::Damaged(format!("row {id} does not match its checksum")))
}

/// Returns the path of the file in a folder.
pub(super) fn path_in(dir: &Path) -> PathBuf {
    dir.join(NAME)
}
