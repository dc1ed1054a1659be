//! Deletes rows past their retention. Events go by whole partitions, which costs nothing. Only where
//! there are none are rows deleted, a few at a time. Each step is a transaction of its own, and one
//! that fails keeps none of the others from being taken.

use std::time::Duration;

use time::OffsetDateTime;

use crate::event::EventKind;
use crate::store::Store;
use crate::store::error::{DbError, ErrorClass, StoreError};
use crate::store::kinds;
use crate::store::partitions::{self, ListedPartition, become_maker, default_partition, pause};
use crate::store::query::Db;
use crate::store::rollups::FinalRollups;

/// Retention of dead letters after their replay, and of connections after their end.
const KEPT: time::Duration = time::Duration::days(90);

/// Rows deleted by one statement: a fraction of a second.
const CHUNK: i64 = 10_000;

/// Rows deleted by one statement at least, where a server with a short `statement_timeout` is slow.
const LEAST_CHUNK: i64 = 100;

/// Attempts to drop one partition in the face of its readers, before it is left for the next time.
const ATTEMPTS: u32 = 5;

/// Bounds the work of dropping a partition: removing many files may take long.
const DROP_TIMEOUT: &str = "25s";

/// Deleted rows and failed steps of a retention run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionOutcome {
    /// Partitions of `item_event`.
    pub partitions: u64,
    /// Rows of the default partition, and of the tables without partitions.
    pub events: u64,
    /// Rows of `stay`.
    pub stays: u64,
    /// Rows of `dead_letter`.
    pub dead_letters: u64,
    /// Rows of `connection`.
    pub connections: u64,
    /// Age of the oldest remaining partition beyond its retention. Zero without one, `None` if the
    /// partitions could not be listed.
    pub overdue: Option<Duration>,
    /// Steps that failed, each with its reason.
    pub problems: Vec<String>,
}

impl RetentionOutcome {
    /// Returns true if nothing was deleted.
    pub fn is_empty(&self) -> bool {
        self.partitions + self.events + self.stays + self.dead_letters + self.connections == 0
    }

    /// Counts what a step did. Fails where the server did not answer, so that no other step can
    /// succeed.
    fn count(&mut self, step: &str, result: Result<u64, DbError>) -> Result<u64, DbError> {
        match result {
            Err(error) if error.is_from_server() => {
                self.problems.push(format!("{step}: {error}"));
                Ok(0)
            }
            other => other,
        }
    }
}

const LETTERS: &str = "
    delete from centiloc.dead_letter
     where ctid = any (array(
           select ctid from centiloc.dead_letter where replayed_at < $1 limit $2))";

// The next start needs the newest row of a client id, to know since when it was away.
const CONNECTIONS: &str = "
    delete from centiloc.connection
     where ctid = any (array(
           select c.ctid from centiloc.connection c
            where c.disconnected_at < $1
              and c.id < (select max(n.id) from centiloc.connection n
                           where n.client_id = c.client_id)
            limit $2))";

/// Returns the statement that deletes old events of a table. A momentum that was long past when it came
/// is kept as long as if it had been true.
fn events_sql(table: &str) -> String {
    let kept = not_restored(table);
    format!(
        "delete from centiloc.{table}
          where ctid = any (array(
                select ctid from centiloc.{table}
                 where momentum < $1 and received_at < $1 and {kept} limit $2))"
    )
}

/// Returns the condition that rows of a table were not restored from an archive.
pub(in crate::store) fn not_restored(table: &str) -> String {
    format!(
        "not exists (
             select
               from centiloc.archive_file
              where table_name = '{table}'
                and restored_at is not null
                and momentum >= from_at
                and momentum < until_at)"
    )
}

// A stay that lasts is kept, however long ago it began.
const STAYS: &str = "
    delete from centiloc.stay
     where ctid = any (array(select ctid from centiloc.stay where left_at < $1 limit $2))";

/// As [`events_sql`]. By key, because the default partition may be partitioned itself.
fn default_sql(table: &str, default: &str) -> String {
    let kept = not_restored(table);
    format!(
        "delete from {default}
          where (momentum, event_id) in (
                select momentum, event_id from {default}
                 where momentum < $1 and received_at < $1 and {kept} limit $2)"
    )
}

/// Describes why events are kept beyond their retention, if they are.
pub(in crate::store) fn held_back(
    cutoff: OffsetDateTime,
    computed: &FinalRollups,
) -> Option<String> {
    // Without a time, which would be another text each day: one is logged once.
    (computed.before < cutoff).then(|| {
        let problem = computed.problem.as_deref().unwrap_or("not computed yet");
        format!("some of these events are kept for now, because of their stays and sums: {problem}")
    })
}

impl Store {
    /// Deletes what is past its time at `now`. `events` is `retention.events`. `None` keeps them.
    /// Fails only if the server does not answer.
    pub async fn delete_expired(
        &self,
        events: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<RetentionOutcome, StoreError> {
        self.delete(events, true, now).await
    }

    /// Does the same as [`Store::delete_expired`], without the events themselves.
    pub async fn delete_expired_except_events(
        &self,
        events: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<RetentionOutcome, StoreError> {
        self.delete(events, false, now).await
    }

    async fn delete(
        &self,
        events: Option<Duration>,
        with_events: bool,
        now: OffsetDateTime,
    ) -> Result<RetentionOutcome, StoreError> {
        let mut deleted =
            RetentionOutcome { overdue: Some(Duration::ZERO), ..RetentionOutcome::default() };
        if let Some(cutoff) = events.and_then(|kept| now.checked_sub(kept.try_into().ok()?)) {
            self.delete_old(cutoff, with_events, &mut deleted).await?;
        }
        let letters = self.delete_rows(LETTERS, now - KEPT).await;
        deleted.dead_letters = deleted.count("dead letters", letters)?;
        let connections = self.delete_rows(CONNECTIONS, now - KEPT).await;
        deleted.connections = deleted.count("connections", connections)?;
        Ok(deleted)
    }

    /// Deletes events and stays before `cutoff`, as far as sums are computed.
    async fn delete_old(
        &self,
        cutoff: OffsetDateTime,
        with_events: bool,
        deleted: &mut RetentionOutcome,
    ) -> Result<(), DbError> {
        let computed = self.keep_rollups_before(cutoff).await?;
        if with_events {
            deleted.problems.extend(held_back(cutoff, &computed));
            for kind in EventKind::ALL {
                self.delete_events(kind, cutoff, computed.before, deleted).await?;
            }
            self.warn_of_pending_archives(deleted).await?;
        }
        let stays = self.delete_stays(cutoff.min(computed.before)).await;
        deleted.stays = deleted.count("stays", stays)?;
        Ok(())
    }

    /// Deletes stays that ended before the first events that are kept: functions read both.
    async fn delete_stays(&self, until: OffsetDateTime) -> Result<u64, DbError> {
        let first = self.first_retained(until).await?;
        self.delete_rows(STAYS, first).await
    }

    /// Reports tables that wait for an archive which is turned off.
    async fn warn_of_pending_archives(
        &self,
        deleted: &mut RetentionOutcome,
    ) -> Result<(), DbError> {
        let pending = match self.pending_archives().await {
            Err(error) if error.is_from_server() => Vec::new(),
            other => other?,
        };
        let held = pending.into_iter().filter_map(|record| record.held_in);
        deleted.problems.extend(held.map(|table| {
            format!(
                "{table} waits to be archived: set retention.archive_dir again, or drop the table"
            )
        }));
        Ok(())
    }

    /// Deletes the events of a kind before `cutoff`, as far as sums are computed.
    async fn delete_events(
        &self,
        kind: EventKind,
        cutoff: OffsetDateTime,
        computed: OffsetDateTime,
        deleted: &mut RetentionOutcome,
    ) -> Result<(), DbError> {
        let (tables, kind) = (kinds::tables(kind), kind.as_str());
        let (step, rows) = if tables.is_partitioned() {
            self.drop_partitions(cutoff, computed, deleted).await?;
            let rows = self.delete_from_default(tables.event_table(), cutoff.min(computed)).await;
            (format!("{kind} events without a partition"), rows)
        } else {
            let rows = self.delete_rows(&events_sql(tables.event_table()), cutoff).await;
            (format!("{kind} events"), rows)
        };
        deleted.events += deleted.count(&step, rows)?;
        Ok(())
    }

    /// Drops the partitions that end at `cutoff` or before, as far as sums are computed.
    async fn drop_partitions(
        &self,
        cutoff: OffsetDateTime,
        computed: OffsetDateTime,
        deleted: &mut RetentionOutcome,
    ) -> Result<(), DbError> {
        let listed = match self.expired_partitions(cutoff).await {
            Err(error) if error.is_from_server() => {
                deleted.overdue = None;
                deleted.problems.push(format!("list of partitions: {error}"));
                return Ok(());
            }
            other => other?,
        };
        // A reader that blocks one also blocks the next: there, one attempt is enough.
        let mut attempts = ATTEMPTS;
        for named in listed {
            if named.range.to <= computed {
                let dropped = self.drop_partition(&named, attempts).await;
                if deleted.count(&named.table, dropped)? == 1 {
                    deleted.partitions += 1;
                    continue;
                }
                attempts = 1;
            }
            let overdue = Duration::try_from(cutoff - named.range.to).unwrap_or_default();
            // A partition that ends at the cutoff is overdue, too.
            deleted.overdue = deleted.overdue.max(Some(overdue.max(Duration::from_millis(1))));
        }
        Ok(())
    }

    /// Returns 1 once it is gone.
    async fn drop_partition(&self, named: &ListedPartition, attempts: u32) -> Result<u64, DbError> {
        let mut attempt = 1;
        loop {
            match self.try_drop(&named.table).await {
                Ok(()) => break,
                Err(error) if error.is_contention() && attempt < attempts => attempt += 1,
                Err(error) => return Err(error),
            }
            pause().await;
        }
        self.partitions.forget();
        let until = named.range.to;
        tracing::info!(partition = named.table, %until, "dropped a partition past its retention");
        Ok(1)
    }

    async fn try_drop(&self, table: &str) -> Result<(), DbError> {
        let timeout = self.connector.answer_within.max(partitions::STEP_ANSWER);
        let mut db = self.acquire().await?.with_timeout(timeout);
        let drop_table = async |db: &mut Db| {
            become_maker(db, DROP_TIMEOUT).await?;
            db.execute(format!("drop table {table}")).await
        };
        let dropped = db.transaction(drop_table).await;
        db.finish(dropped)
    }

    /// Rows without a partition to drop.
    async fn delete_from_default(
        &self,
        table: &str,
        cutoff: OffsetDateTime,
    ) -> Result<u64, DbError> {
        match self.with_db(async |db| default_partition(db).await).await? {
            Some(default) => self.delete_rows(&default_sql(table, &default), cutoff).await,
            None => Ok(0),
        }
    }

    /// Deletes in chunks. In smaller ones where the server takes too long.
    async fn delete_rows(&self, sql: &str, before: OffsetDateTime) -> Result<u64, DbError> {
        let (mut total, mut chunk) = (0, CHUNK);
        loop {
            let mut db = self.acquire().await?;
            let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(before).bind(chunk);
            let result = db.query(|conn| query.execute(conn)).await;
            match db.finish(result) {
                Ok(done) => {
                    total += done.rows_affected();
                    if done.rows_affected() < chunk.unsigned_abs() {
                        return Ok(total);
                    }
                }
                Err(error) if error.class == ErrorClass::Halve && chunk > LEAST_CHUNK => chunk /= 2,
                Err(error) => return Err(error),
            }
        }
    }
}
