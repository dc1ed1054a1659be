//! The mark of a clean close, which records the content of the file. A marked file is opened without a
//! full scan. The first change removes the mark, in the same transaction.
//!
//! Later damage by the disk is found on reading: by `SQLite`, by the checksum of a row, or by a missing
//! id, since the ids of a marked file are contiguous.

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::error::SpoolError;
use super::storage::SpoolDepth;

/// Table of the mark, made when it is first needed. Files of earlier versions lack it, and earlier
/// versions ignore it.
const TABLE: &str = "create table if not exists clean (
    one      integer primary key check (one = 1),
    first    integer not null,
    last     integer not null,
    messages integer not null,
    bytes    integer not null
 ) strict";

/// Query of the first and the last id, which are 0 if there is none.
const ENDS: &str = "select coalesce((select id from entry order by id limit 1), 0),
                           coalesce((select id from entry order by id desc limit 1), 0)";

/// The content of a marked file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MarkedContent {
    /// The first id, or 0 if the file is empty.
    pub first: u64,
    /// The last id, or 0 if the file is empty.
    pub last: u64,
    /// The rows in numbers.
    pub depth: SpoolDepth,
}

/// The mark of a file that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseMark {
    /// The file has no mark.
    Absent,
    /// The rows have changed since: an earlier version of this program, which ignores the mark, used
    /// the file.
    Stale,
    /// The file is unchanged since it was closed.
    Valid(MarkedContent),
}

impl CloseMark {
    /// Returns the content of an unchanged file.
    pub fn valid(self) -> Option<MarkedContent> {
        if let Self::Valid(clean) = self { Some(clean) } else { None }
    }
}

/// Reads the mark and compares it with the rows.
pub(super) async fn read(conn: &mut SqliteConnection) -> Result<CloseMark, SpoolError> {
    const KNOWN: &str =
        "select count(*) from sqlite_schema where type = 'table' and name = 'clean'";
    const MARK: &str = "select first, last, messages, bytes from clean";
    let known: i64 = sqlx::query_scalar(KNOWN).fetch_one(&mut *conn).await?;
    if known == 0 {
        return Ok(CloseMark::Absent);
    }
    let row = sqlx::query(MARK).fetch_optional(&mut *conn).await?;
    let Some(row) = row else { return Ok(CloseMark::Absent) };
    let number = |column: usize| -> Result<u64, SpoolError> {
        Ok(row.try_get::<i64, _>(column)?.cast_unsigned())
    };
    let (first, last) = (number(0)?, number(1)?);
    if ends(conn).await? != (first, last) {
        return Ok(CloseMark::Stale);
    }
    let rows = rows_between(first, last);
    let depth = SpoolDepth { rows, messages: number(2)?, bytes: number(3)? };
    Ok(CloseMark::Valid(MarkedContent { first, last, depth }))
}

/// Marks the file, which holds `depth`. A file with missing ids, as a salvage leaves it, is not marked
/// and will be scanned.
pub(super) async fn mark(conn: &mut SqliteConnection, depth: SpoolDepth) -> Result<(), SpoolError> {
    const MARK: &str = "insert or replace into clean (one, first, last, messages, bytes)
                        values (1, ?, ?, ?, ?)";
    let (first, last) = ends(conn).await?;
    if depth.rows != rows_between(first, last) {
        return Ok(());
    }
    sqlx::query(TABLE).execute(&mut *conn).await?;
    let mark = sqlx::query(MARK)
        .bind(first.cast_signed())
        .bind(last.cast_signed())
        .bind(depth.messages.cast_signed())
        .bind(depth.bytes.cast_signed());
    mark.execute(conn).await?;
    Ok(())
}

/// Removes the mark. The file must have the table of marks.
pub(super) async fn clear(conn: &mut SqliteConnection) -> Result<(), SpoolError> {
    sqlx::query("delete from clean").execute(conn).await?;
    Ok(())
}

/// Checks that the ids are contiguous from `expected` on, and that there is at least one.
pub(super) fn without_hole(
    mut expected: u64,
    ids: impl Iterator<Item = u64>,
) -> Result<(), SpoolError> {
    let mut ids = ids.peekable();
    if ids.peek().is_none() {
        return Err(SpoolError::Damaged(format!("ids from {expected} on are missing")));
    }
    for id in ids {
        if id != expected {
            return Err(SpoolError::Damaged(format!("ids {expected} to {} are missing", id - 1)));
        }
        expected += 1;
    }
    Ok(())
}

async fn ends(conn: &mut SqliteConnection) -> Result<(u64, u64), SpoolError> {
    let row = sqlx::query(ENDS).fetch_one(conn).await?;
    Ok((row.try_get::<i64, _>(0)?.cast_unsigned(), row.try_get::<i64, _>(1)?.cast_unsigned()))
}

fn rows_between(first: u64, last: u64) -> u64 {
    if last == 0 { 0 } else { (last + 1).saturating_sub(first) }
}
