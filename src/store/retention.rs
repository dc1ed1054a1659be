//! Deletes what is no longer kept. Events go by whole partitions, which costs nothing; only where
//! there are none are rows deleted, a few at a time.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use super::Store;
use super::fault::{Fault, StoreError};
use super::partitions::{self, LOCK, run};
use super::span::Range;
use super::write::bounded;

/// How long dead letters are kept after they were replayed, and connections after they ended.
const KEPT: time::Duration = time::Duration::days(90);

/// Rows deleted by one statement: a fraction of a second, well within any statement time limit.
const CHUNK: i64 = 10_000;

/// Dropping a partition waits this long for its readers; then it is left for the next time.
const LOCK_TIMEOUT: &str = "5s";

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Partitions of `item_event`.
    pub partitions: u64,
    /// Rows of the default partition, and of `board_event`.
    pub events: u64,
    /// Rows of `dead_letter`.
    pub dead_letters: u64,
    /// Rows of `connection`.
    pub connections: u64,
}

impl Store {
    /// Deletes what is past its time at `now`. `events` is `retention.events`; `None` keeps them.
    pub async fn delete_expired(
        &self,
        events: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<Deleted, StoreError> {
        let mut conn = self.acquire().await?;
        let result = self.delete_on(&mut conn, events, now).await;
        if result.is_err() {
            conn.close_on_drop();
        }
        Ok(result?)
    }

    async fn delete_on(
        &self,
        conn: &mut PgConnection,
        events: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<Deleted, Fault> {
        const LETTERS: &str = "
            delete from centiloc.dead_letter
             where ctid = any (array(
                   select ctid from centiloc.dead_letter where replayed_at < $1 limit $2))";
        // The newest of a client id tells the next start since when it was away.
        const CONNECTIONS: &str = "
            delete from centiloc.connection
             where ctid = any (array(
                   select c.ctid from centiloc.connection c
                    where c.disconnected_at < $1
                      and c.id < (select max(n.id) from centiloc.connection n
                                   where n.client_id = c.client_id)
                    limit $2))";
        let limit = self.link.answer_within;
        let mut deleted = Deleted::default();
        if let Some(cutoff) = events.and_then(|kept| now.checked_sub(kept.try_into().ok()?)) {
            deleted.partitions = self.drop_partitions(conn, cutoff).await?;
            deleted.events = delete_events(conn, limit, cutoff).await?;
        }
        deleted.dead_letters = delete(conn, limit, LETTERS, now - KEPT).await?;
        deleted.connections = delete(conn, limit, CONNECTIONS, now - KEPT).await?;
        Ok(deleted)
    }

    /// Drops the partitions that end at `cutoff` or before.
    async fn drop_partitions(
        &self,
        conn: &mut PgConnection,
        cutoff: OffsetDateTime,
    ) -> Result<u64, Fault> {
        let limit = self.link.answer_within;
        let mut dropped = 0;
        for named in partitions::list_named(conn, limit).await? {
            if named.range.to > cutoff {
                continue;
            }
            drop_partition(conn, limit, &named.table, named.range).await?;
            self.partitions.forget();
            dropped += 1;
        }
        Ok(dropped)
    }
}

async fn drop_partition(
    conn: &mut PgConnection,
    limit: Duration,
    table: &str,
    range: Range,
) -> Result<(), Fault> {
    let sql = format!(
        "begin; set local lock_timeout = '{LOCK_TIMEOUT}'; {LOCK}; drop table {table}; commit"
    );
    run(conn, limit, sql).await?;
    tracing::info!(partition = table, until = %range.to, "dropped a partition past its retention");
    Ok(())
}

/// Rows without a partition to drop. A momentum that was long past when it came is kept as long
/// as if it had been true.
async fn delete_events(
    conn: &mut PgConnection,
    limit: Duration,
    cutoff: OffsetDateTime,
) -> Result<u64, Fault> {
    const ITEMS: &str = "
        delete from centiloc.item_event_default
         where ctid = any (array(
               select ctid from centiloc.item_event_default
                where momentum < $1 and received_at < $1 limit $2))";
    const BOARDS: &str = "
        delete from centiloc.board_event
         where ctid = any (array(
               select ctid from centiloc.board_event
                where momentum < $1 and received_at < $1 limit $2))";
    let items = delete(conn, limit, ITEMS, cutoff).await?;
    Ok(items + delete(conn, limit, BOARDS, cutoff).await?)
}

async fn delete(
    conn: &mut PgConnection,
    limit: Duration,
    sql: &'static str,
    before: OffsetDateTime,
) -> Result<u64, Fault> {
    let mut total = 0;
    loop {
        let query = sqlx::query(sql).bind(before).bind(CHUNK);
        let deleted = bounded(limit, query.execute(&mut *conn)).await?.rows_affected();
        total += deleted;
        if deleted < CHUNK.unsigned_abs() {
            return Ok(total);
        }
    }
}
