//! Takes expired rows out of their tables, each span in turn, and has them written.

use std::path::Path;
use std::time::Duration;

use time::OffsetDateTime;

use super::{ArchiveError, ArchiveOutcome, ArchiveRecord};
use crate::archive;
use crate::event::EventKind;
use crate::files;
use crate::store::Store;
use crate::store::error::{DbError, StoreError};
use crate::store::kinds;
use crate::store::maintenance::{held_back, not_restored};
use crate::store::partitions::span::PartitionRange;
use crate::store::partitions::{
    self, ListedPartition, become_maker, default_partition, free_name, pause,
};
use crate::store::query::Db;

/// Attempts to detach one partition in the face of its readers, before it is left for the next time.
const ATTEMPTS: u32 = 5;

/// Bounds the work of detaching a partition.
const DETACH_TIMEOUT: &str = "25s";

/// Rows moved by one transaction: a fraction of a second.
const CHUNK: i64 = 10_000;

const RECORD: &str = "
    insert into centiloc.archive_file (table_name, from_at, until_at, held_in)
    values ($1, $2, $3, $4)";

impl Store {
    /// Archives the events that are older than `kept` at `now`, and drops them. What cannot be written
    /// is kept. Fails only if the database does not answer.
    pub async fn archive_expired(
        &self,
        kept: Duration,
        folder: &Path,
        now: OffsetDateTime,
    ) -> Result<ArchiveOutcome, StoreError> {
        let mut outcome = ArchiveOutcome::default();
        let cutoff = kept.try_into().ok().and_then(|kept| now.checked_sub(kept));
        let Some(cutoff) = cutoff else { return Ok(outcome) };
        let computed = self.keep_rollups_before(cutoff).await?;
        outcome.problems.extend(held_back(cutoff, &computed));
        let written = self.archive_all(folder, cutoff, computed.before, &mut outcome).await;
        match written {
            Ok(()) => Ok(outcome),
            Err(ArchiveError::File(error)) => {
                outcome.problems.push(error.to_string());
                Ok(outcome)
            }
            Err(ArchiveError::Database(error)) if error.is_from_server() => {
                outcome.problems.push(error.to_string());
                Ok(outcome)
            }
            Err(ArchiveError::Database(error)) => Err(error.into()),
        }
    }

    async fn archive_all(
        &self,
        folder: &Path,
        cutoff: OffsetDateTime,
        computed: OffsetDateTime,
        outcome: &mut ArchiveOutcome,
    ) -> Result<(), ArchiveError> {
        let overdue = |until| Duration::try_from(cutoff - until).unwrap_or_default();
        // A full disk must not take further rows out of their tables.
        let pending = self.pending_archives().await?;
        let partitions = self.expired_partitions(cutoff).await?;
        let oldest = pending.iter().map(|record| record.until_at);
        let oldest = oldest.chain(partitions.iter().map(|named| named.range.to)).min();
        outcome.overdue = oldest.map_or(Duration::ZERO, overdue);
        for record in pending {
            self.write_and_drop(folder, &record, outcome).await?;
        }
        let mut attempts = ATTEMPTS;
        let mut blocked = None;
        for named in partitions {
            if named.range.to > computed {
                blocked = blocked.or(Some(named.range.to));
                continue;
            }
            check_folder(folder).await?;
            match self.detach(&named, attempts).await {
                Ok(record) => self.write_and_drop(folder, &record, outcome).await?,
                // A reader that blocks one also blocks the next: there, one attempt is enough.
                Err(error) if error.is_from_server() => {
                    outcome.problems.push(format!("{}: {error}", named.table));
                    attempts = 1;
                    blocked = blocked.or(Some(named.range.to));
                }
                Err(error) => return Err(error.into()),
            }
        }
        outcome.overdue = blocked.map_or(Duration::ZERO, overdue);
        // Rows without a partition go by spans too, so that there is not a file every hour.
        let end = cutoff.min(computed);
        let end = PartitionRange::around(end, self.partitions.span()).map_or(end, |span| span.from);
        for kind in EventKind::ALL {
            self.archive_rows(folder, kind, end, outcome).await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn pending_archives(&self) -> Result<Vec<ArchiveRecord>, DbError> {
        const PENDING: &str = "
            select * from centiloc.archive_file where held_in is not null order by from_at, id";
        let pending = sqlx::query_as(PENDING);
        self.with_db(async |db| db.query(|conn| pending.fetch_all(conn)).await).await
    }

    /// Lists the partitions that end at `cutoff` or before, the oldest first, without restored ones.
    pub(in crate::store) async fn expired_partitions(
        &self,
        cutoff: OffsetDateTime,
    ) -> Result<Vec<ListedPartition>, DbError> {
        let (mut listed, held) = self
            .with_db(async |db| Ok((partitions::list(db).await?, restored_ranges(db).await?)))
            .await?;
        listed.retain(|named| {
            named.range.to <= cutoff && !held.iter().any(|range| range.overlaps(&named.range))
        });
        listed.sort_by_key(|named| named.range);
        Ok(listed)
    }

    /// Returns the start of the events that are kept if those before `until` are not, or of those that
    /// could not be dropped yet.
    pub(in crate::store) async fn first_retained(
        &self,
        until: OffsetDateTime,
    ) -> Result<OffsetDateTime, DbError> {
        let (listed, restored) = self
            .with_db(async |db| Ok((partitions::list(db).await?, restored_ranges(db).await?)))
            .await?;
        let span = PartitionRange::around(until, self.partitions.span());
        let partitions = listed.into_iter().map(|named| named.range);
        let partitions =
            partitions.filter(|range| !restored.iter().any(|other| other.overlaps(range)));
        let pending = self.pending_archives().await?.into_iter().map(|record| record.from_at);
        let starts = partitions.map(|range| range.from).chain(pending);
        Ok(starts.chain(span.map(|span| span.from)).fold(until, OffsetDateTime::min))
    }

    /// Detaches a partition and records it, in one transaction.
    async fn detach(
        &self,
        named: &ListedPartition,
        attempts: u32,
    ) -> Result<ArchiveRecord, DbError> {
        let mut attempt = 1;
        loop {
            let detached = self.try_detach(named).await;
            self.partitions.forget();
            match detached {
                Err(error) if error.is_contention() && attempt < attempts => attempt += 1,
                done => return done,
            }
            pause().await;
        }
    }

    async fn try_detach(&self, named: &ListedPartition) -> Result<ArchiveRecord, DbError> {
        let table = EventKind::Item;
        let table_name = kinds::tables(table).event_table();
        let (range, held) = (named.range, &named.table);
        // A partition that someone began to detach concurrently is in no query any more.
        let last = if named.routable { "" } else { " finalize" };
        let timeout = self.connector.answer_within.max(partitions::STEP_ANSWER);
        let mut db = self.acquire().await?.with_timeout(timeout);
        let record = db
            .transaction(async |db| {
                become_maker(db, DETACH_TIMEOUT).await?;
                let alter = "alter table centiloc.item_event detach partition";
                db.execute(format!("{alter} {held}{last}")).await?;
                record_table(db, table_name, range, held).await
            })
            .await;
        db.finish(record)
    }

    /// Archives the rows of a kind before `end` that are in no partition.
    async fn archive_rows(
        &self,
        folder: &Path,
        kind: EventKind,
        end: OffsetDateTime,
        outcome: &mut ArchiveOutcome,
    ) -> Result<(), ArchiveError> {
        let tables = kinds::tables(kind);
        let table = tables.event_table();
        let source = if tables.is_partitioned() {
            let Some(default) = self.with_db(async |db| default_partition(db).await).await? else {
                return Ok(());
            };
            default
        } else {
            format!("centiloc.{table}")
        };
        let Some(from) = self.oldest_row(&source, table, end).await? else { return Ok(()) };
        check_folder(folder).await?;
        let range = PartitionRange { from, to: end };
        let record = self.with_db(async |db| take_rows(db, table, &source, range).await).await?;
        while self.with_db(async |db| move_rows(db, &record, &source).await).await? > 0 {}
        self.write_and_drop(folder, &record, outcome).await
    }

    async fn oldest_row(
        &self,
        source: &str,
        table: &str,
        end: OffsetDateTime,
    ) -> Result<Option<OffsetDateTime>, DbError> {
        let kept = not_restored(table);
        let sql = format!(
            "select min(momentum) as oldest from {source}
              where momentum < $1 and received_at < $1 and {kept}"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(end);
        let row = self.with_db(async |db| db.query(|conn| query.fetch_one(conn)).await).await?;
        crate::store::pg_timestamp::optional_time_of(&row, "oldest")
    }
}

async fn check_folder(folder: &Path) -> Result<(), ArchiveError> {
    let folder = folder.to_owned();
    let (path, work) = (folder.clone(), move || archive::check_folder(&folder));
    let checked = files::apart(work).await;
    checked
        .map_err(|error| archive::ArchiveFileError::of_thread(&path, &error))?
        .map_err(Into::into)
}

/// Makes the table for the rows of a range, and records it.
async fn take_rows(
    db: &mut Db,
    table: &str,
    source: &str,
    range: PartitionRange,
) -> Result<ArchiveRecord, DbError> {
    db.transaction(async |db| {
        become_maker(db, DETACH_TIMEOUT).await?;
        let held = free_name(db, &format!("{table}_to_archive")).await?;
        db.execute(format!("create table {held} (like {source} including all)")).await?;
        record_table(db, table, range, &held).await
    })
    .await
}

/// Moves some of the rows. Returns how many.
async fn move_rows(db: &mut Db, record: &ArchiveRecord, source: &str) -> Result<u64, DbError> {
    // Unwrap safety: the table was recorded just before.
    let held = record.held_in.as_deref().expect("a table that holds the rows");
    let columns = partitions::columns_of(db, source).await?;
    let kept = not_restored(&record.table_name);
    let sql = format!(
        "with moved as (
             delete from {source}
              where (momentum, event_id) in (
                    select momentum, event_id from {source}
                     where momentum < $1 and received_at < $1 and {kept} limit $2)
             returning {columns})
         insert into {held} ({columns}) select {columns} from moved"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(record.until_at).bind(CHUNK);
    Ok(db.query(|conn| query.execute(conn)).await?.rows_affected())
}

async fn record_table(
    db: &mut Db,
    table: &str,
    range: PartitionRange,
    held: &str,
) -> Result<ArchiveRecord, DbError> {
    let sql = format!("{RECORD} returning *");
    let query = sqlx::query_as(sqlx::AssertSqlSafe(sql));
    let query = query.bind(table).bind(range.from).bind(range.to).bind(held);
    db.query(|conn| query.fetch_one(conn)).await
}

/// Returns the ranges of `item_event` that were restored and are not released.
async fn restored_ranges(db: &mut Db) -> Result<Vec<PartitionRange>, DbError> {
    const SQL: &str = "
        select from_at, until_at
          from centiloc.archive_file
         where restored_at is not null and table_name = 'item_event'";
    let rows = db.query(|conn| sqlx::query(SQL).fetch_all(conn)).await?;
    let time = crate::store::pg_timestamp::time_of;
    let range =
        |row| Ok(PartitionRange { from: time(row, "from_at")?, to: time(row, "until_at")? });
    rows.iter().map(range).collect()
}
