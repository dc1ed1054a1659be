//! The tables of events.
//!
//! Rows are found by index, in a partitioned table partition by partition. There no index leads to the
//! events of a board: the blocks are read in order, each once. A partition that lies before the date as a
//! whole is dropped, unless it is in use or the role does not own it.

use std::collections::BTreeSet;

use sqlx::Row as _;

use super::sql::{self, AuditColumn, BLOCKS, ScanPosition};
use super::statement::{SqlParameter, SqlStatement};
use super::{EraseMode, ErasedCounts, Eraser, count, no_row};
use crate::erase::TraceSelector;
use crate::event::EventKind;
use crate::store::StoreError;
use crate::store::error::DbError;
use crate::store::kinds;
use crate::store::partitions::LOCK;

/// Inserts wait behind a DROP that waits for readers: not for long.
const DROP_LOCK_TIMEOUT: &str = "set local lock_timeout = '100ms'";

/// Tries to drop a partition, before its rows are deleted instead.
const DROP_TRIES: u32 = 20;

// No backslash: they mean something else where standard_conforming_strings is off.
const LEAVES: &str = "
    select c.oid::regclass::text as name, c.relkind = 'f' as is_foreign,
           coalesce((regexp_match(pg_get_expr(c.relpartbound, c.oid),
                                  ' TO [(]''([^'']+)''[)]$'))[1]::timestamptz <= $1, false) as is_past
      from pg_partition_tree($2::text::regclass) t
      join pg_class c on c.oid = t.relid
     where t.isleaf
     order by c.oid";

/// A partition.
#[derive(Debug, Clone)]
struct LeafPartition {
    /// The kind of its events.
    kind: EventKind,
    /// As SQL names it.
    table: String,
    is_foreign: bool,
    /// It lies before the date as a whole.
    is_past: bool,
}

impl Eraser<'_> {
    /// Removes the events, and calls `progress` now and then.
    pub async fn events(
        &mut self,
        progress: &mut (dyn FnMut(&ErasedCounts) + Send),
    ) -> Result<(), StoreError> {
        let selector = self.selector;
        for kind in EventKind::ALL.into_iter().filter(|kind| sql::concerns(selector, *kind)) {
            let tables = kinds::tables(kind);
            if tables.is_partitioned() {
                self.partitions(kind, progress).await?;
            } else {
                let table = format!("centiloc.{}", tables.event_table());
                self.in_order(&table, AuditColumn::Events(kind), progress).await?;
            }
        }
        Ok(())
    }

    async fn partitions(
        &mut self,
        kind: EventKind,
        progress: &mut (dyn FnMut(&ErasedCounts) + Send),
    ) -> Result<(), DbError> {
        // One that is made meanwhile may have taken rows of the default partition.
        let mut seen = BTreeSet::new();
        loop {
            let leaves = self.leaves(kind).await?;
            let new: Vec<LeafPartition> =
                leaves.into_iter().filter(|leaf| seen.insert(leaf.table.clone())).collect();
            if new.is_empty() {
                return Ok(());
            }
            for leaf in new.iter().filter(|leaf| !leaf.is_foreign) {
                let done = self.leaf(leaf, progress).await;
                if !gone_meanwhile(&done) {
                    done?;
                }
            }
        }
    }

    /// Partitions that lie on another server, in words.
    pub async fn foreign_partitions(&mut self) -> Result<Vec<String>, StoreError> {
        let mut words = Vec::new();
        for kind in EventKind::ALL.into_iter().filter(|kind| kinds::tables(*kind).is_partitioned())
        {
            let foreign = self.leaves(kind).await?.into_iter().filter(|leaf| leaf.is_foreign);
            words.extend(foreign.map(|leaf| {
                format!("the partition {} is a foreign table: remove its rows there", leaf.table)
            }));
        }
        Ok(words)
    }

    /// Lists the partitions of a kind.
    async fn leaves(&mut self, kind: EventKind) -> Result<Vec<LeafPartition>, DbError> {
        let cutoff = match self.selector {
            TraceSelector::Before(cutoff) => Some(*cutoff),
            _ => None,
        };
        let table = format!("centiloc.{}", kinds::tables(kind).event_table());
        let list = SqlStatement::new(LEAVES).bind(SqlParameter::OptionalTime(cutoff));
        let list = list.bind(SqlParameter::Text(table));
        let rows = self.run(&[list]).await?;
        let leaf = |row: &sqlx::postgres::PgRow| -> Result<LeafPartition, DbError> {
            Ok(LeafPartition {
                kind,
                table: row.try_get("name")?,
                is_foreign: row.try_get("is_foreign")?,
                is_past: row.try_get("is_past")?,
            })
        };
        rows.iter().map(leaf).collect()
    }

    async fn leaf(
        &mut self,
        leaf: &LeafPartition,
        progress: &mut (dyn FnMut(&ErasedCounts) + Send),
    ) -> Result<(), DbError> {
        if let TraceSelector::Board(_) = self.selector {
            return self.in_blocks(leaf, progress).await;
        }
        if leaf.is_past && self.mode == EraseMode::Erase && self.drop_partition(leaf).await? {
            progress(&self.counts);
            return Ok(());
        }
        self.in_order(&leaf.table, AuditColumn::Events(leaf.kind), progress).await
    }

    /// Removes rows in order of momentum, until none is found: retention may have rewritten one, for
    /// its payload, in the moment in which it was to be deleted.
    async fn in_order(
        &mut self,
        table: &str,
        column: AuditColumn,
        progress: &mut (dyn FnMut(&ErasedCounts) + Send),
    ) -> Result<(), DbError> {
        loop {
            let before = self.counts;
            self.pass_in_order(table, column, progress).await?;
            if self.mode == EraseMode::Count || self.counts == before {
                return Ok(());
            }
        }
    }

    async fn pass_in_order(
        &mut self,
        table: &str,
        column: AuditColumn,
        progress: &mut (dyn FnMut(&ErasedCounts) + Send),
    ) -> Result<(), DbError> {
        let (mut place, mode, audit) = (ScanPosition::start(), self.mode, (column, self.erasure));
        loop {
            let next = sql::next_rows(table, self.selector, &place, mode, audit);
            let Some(row) = self.run(&[next]).await?.pop() else { return Ok(()) };
            place = ScanPosition {
                momentum: row.try_get("momentum")?,
                event_id: row.try_get("event_id")?,
            };
            *column.of(&mut self.counts) += count(&row, "rows")?;
            progress(&self.counts);
        }
    }

    /// Removes rows in order of blocks.
    async fn in_blocks(
        &mut self,
        leaf: &LeafPartition,
        progress: &mut (dyn FnMut(&ErasedCounts) + Send),
    ) -> Result<(), DbError> {
        const SIZE: &str = "
            select pg_relation_size($1::text::regclass)
                   / current_setting('block_size')::bigint + 1 as rows";
        let (table, column, mode) = (&leaf.table, AuditColumn::Events(leaf.kind), self.mode);
        let size = SqlStatement::new(SIZE).bind(SqlParameter::Text(table.clone()));
        let blocks: i64 = self.run(&[size]).await?.pop().ok_or_else(no_row)?.try_get("rows")?;
        let mut from = 0;
        while from < blocks {
            let audit = (column, self.erasure);
            let some = sql::rows_in_blocks(table, self.selector, from, mode, audit);
            let row = self.run(&[some]).await?.pop().ok_or_else(no_row)?;
            *column.of(&mut self.counts) += count(&row, "rows")?;
            progress(&self.counts);
            from += BLOCKS;
        }
        Ok(())
    }

    /// Drops a partition and enters how many rows it had. False if that is not possible.
    async fn drop_partition(&mut self, leaf: &LeafPartition) -> Result<bool, DbError> {
        let (table, column) = (&leaf.table, AuditColumn::Events(leaf.kind));
        let rows = self.rows_of(table, column).await?;
        let name = column.name();
        let audit = format!("update centiloc.erasure set {name} = {name} + $1 where id = $2");
        let number = i64::try_from(rows).unwrap_or(i64::MAX);
        let statements = [
            SqlStatement::new(DROP_LOCK_TIMEOUT),
            SqlStatement::new(LOCK),
            SqlStatement::new(format!("drop table {table}")),
            SqlStatement::new(audit)
                .bind(SqlParameter::Number(number))
                .bind(SqlParameter::Number(self.erasure)),
        ];
        for _ in 0..DROP_TRIES {
            match self.try_once(&statements).await {
                Ok(_) => {
                    *column.of(&mut self.counts) += rows;
                    self.store.partitions.forget();
                    return Ok(true);
                }
                // A reader is in the way.
                Err(error) if error.sqlstate.as_deref() == Some("55P03") => {
                    tokio::time::sleep(super::FIRST_WAIT).await;
                }
                // Not its owner, or a view depends on it.
                Err(error) if error.is_refusal() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn rows_of(&mut self, table: &str, column: AuditColumn) -> Result<u64, DbError> {
        let (mut place, mut rows) = (ScanPosition::start(), 0);
        let audit = (column, self.erasure);
        loop {
            let next = sql::next_rows(table, self.selector, &place, EraseMode::Count, audit);
            let Some(row) = self.run(&[next]).await?.pop() else { return Ok(rows) };
            place = ScanPosition {
                momentum: row.try_get("momentum")?,
                event_id: row.try_get("event_id")?,
            };
            rows += count(&row, "rows")?;
        }
    }
}

/// Retention of a running service dropped the partition since it was listed.
fn gone_meanwhile(done: &Result<(), DbError>) -> bool {
    done.as_ref().is_err_and(|error| error.sqlstate.as_deref() == Some("42P01"))
}
