//! The statements. Where rows are deleted, the same statement enters their number in `erasure`.

use sha2::{Digest, Sha256};

use super::statement::{SqlParameter, SqlStatement};
use super::{EraseMode, ErasedCounts};
use crate::erase::TraceSelector;
use crate::event::EventKind;
use crate::store::kinds;

/// Rows deleted by one statement: some ten milliseconds.
pub(super) const ROWS: usize = 5_000;

/// Rows counted by one statement.
const COUNTED_ROWS: usize = 50_000;

/// Blocks read by one statement where no index leads to the rows: 8 MiB.
pub(super) const BLOCKS: i64 = 1_024;

/// A column of `erasure` that counts rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuditColumn {
    Events(EventKind),
    States(EventKind),
    DeadLetters,
}

impl AuditColumn {
    /// Returns the name, which is that of the table in the plural.
    pub fn name(self) -> String {
        let table = match self {
            Self::Events(kind) => kinds::tables(kind).event_table(),
            Self::States(kind) => kinds::tables(kind).state_table(),
            Self::DeadLetters => "dead_letter",
        };
        format!("{table}s")
    }

    pub fn of(self, counts: &mut ErasedCounts) -> &mut u64 {
        match self {
            Self::Events(kind) => &mut counts.events[kind],
            Self::States(kind) => &mut counts.states[kind],
            Self::DeadLetters => &mut counts.dead_letters,
        }
    }

    /// A further part of a WITH clause that has a part `gone`.
    pub fn audit(self, erasure: i64) -> String {
        let name = self.name();
        format!(
            "audit as (update centiloc.erasure
                          set {name} = {name} + (select count(*) from gone) where id = {erasure})"
        )
    }
}

/// Returns the column of a table of events or states that the selector is about.
fn column(selector: &TraceSelector) -> &'static str {
    match selector {
        TraceSelector::Uid(_) => "uid",
        TraceSelector::Board(_) => "board_sn",
        TraceSelector::Before(_) => "momentum",
    }
}

/// Returns true if the tables of a kind may hold rows of the trace.
pub(super) fn concerns(selector: &TraceSelector, kind: EventKind) -> bool {
    kinds::tables(kind).has_column(column(selector))
}

/// The condition on rows of a table, with the value as `$1`.
pub(super) fn condition(selector: &TraceSelector) -> String {
    let operator = if matches!(selector, TraceSelector::Before(_)) { "<" } else { "=" };
    format!("{} {operator} $1", column(selector))
}

pub(super) fn value(selector: &TraceSelector) -> SqlParameter {
    match selector {
        TraceSelector::Uid(text) | TraceSelector::Board(text) => SqlParameter::Text(text.clone()),
        TraceSelector::Before(time) => SqlParameter::Time(*time),
    }
}

pub(super) fn begin(selector: &TraceSelector) -> SqlStatement {
    let (mut salt, mut digest, mut board, mut before) = (None, None, None, None);
    match selector {
        TraceSelector::Uid(uid) => {
            let random: [u8; 16] = rand::random();
            let hash = Sha256::new().chain_update(random).chain_update(uid).finalize();
            (salt, digest) = (Some(random.to_vec()), Some(hash.to_vec()));
        }
        TraceSelector::Board(sn) => board = Some(sn.clone()),
        TraceSelector::Before(time) => before = Some(*time),
    }
    SqlStatement::new(
        "insert into centiloc.erasure (selector, uid_salt, uid_digest, board_sn, before)
         values ($1, $2, $3, $4, $5)
         returning id",
    )
    .bind(SqlParameter::Text(selector.kind().to_owned()))
    .bind(SqlParameter::Bytes(salt))
    .bind(SqlParameter::Bytes(digest))
    .bind(SqlParameter::OptionalText(board))
    .bind(SqlParameter::OptionalTime(before))
}

pub(super) fn spooled(messages: u64, erasure: i64) -> SqlStatement {
    let messages = i64::try_from(messages).unwrap_or(i64::MAX);
    SqlStatement::new("update centiloc.erasure set spooled = spooled + $1 where id = $2")
        .bind(SqlParameter::Number(messages))
        .bind(SqlParameter::Number(erasure))
}

pub(super) fn finish(erasure: i64) -> SqlStatement {
    SqlStatement::new("update centiloc.erasure set finished_at = clock_timestamp() where id = $1")
        .bind(SqlParameter::Number(erasure))
}

/// Start of the next statement in a table of events: after this momentum and event.
#[derive(Debug, Clone)]
pub(super) struct ScanPosition {
    pub momentum: String,
    pub event_id: uuid::Uuid,
}

impl ScanPosition {
    pub fn start() -> Self {
        Self { momentum: "-infinity".to_owned(), event_id: uuid::Uuid::nil() }
    }
}

/// The next rows of a table in order of momentum, which an index gives. One row where there are any:
/// the last one's place, and how many there are.
pub(super) fn next_rows(
    table: &str,
    selector: &TraceSelector,
    place: &ScanPosition,
    mode: EraseMode,
    (column, erasure): (AuditColumn, i64),
) -> SqlStatement {
    let condition = condition(selector);
    let (limit, delete) = match mode {
        EraseMode::Count => (COUNTED_ROWS, String::new()),
        EraseMode::Erase => {
            let audit = column.audit(erasure);
            let delete = format!(
                ", gone as (delete from {table} where ctid = any (array(select row_at from found))
                            returning momentum), {audit}"
            );
            (ROWS, delete)
        }
    };
    let counted = if mode == EraseMode::Count { "found" } else { "gone" };
    SqlStatement::new(format!(
        "with found as (
             select ctid as row_at, momentum, event_id
               from {table}
              where {condition} and (momentum, event_id) > ($2::text::timestamptz, $3::uuid)
              order by momentum, event_id
              limit {limit}){delete}
         select momentum::text as momentum, event_id, (select count(*) from {counted}) as rows
           from found
          order by found.momentum desc, event_id desc
          limit 1"
    ))
    .bind(value(selector))
    .bind(SqlParameter::Text(place.momentum.clone()))
    .bind(SqlParameter::Id(place.event_id))
}

/// The rows in a range of blocks of a table.
pub(super) fn rows_in_blocks(
    table: &str,
    selector: &TraceSelector,
    from: i64,
    mode: EraseMode,
    (column, erasure): (AuditColumn, i64),
) -> SqlStatement {
    let (condition, to) = (condition(selector), from + BLOCKS);
    let rows = format!(
        "from {table}
         where ctid >= '({from},0)'::tid and ctid < '({to},0)'::tid and {condition}"
    );
    let sql = match mode {
        EraseMode::Count => format!("select count(*) as rows {rows}"),
        EraseMode::Erase => format!(
            "with gone as (delete {rows} returning momentum), {}
             select count(*) as rows from gone",
            column.audit(erasure)
        ),
    };
    SqlStatement::new(sql).bind(value(selector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_row_never_holds_the_uid() {
        let text = format!("{:?}", begin(&TraceSelector::Uid("E004015012345678".into())));
        assert!(!text.contains("E004"), "{text}");
        let again = format!("{:?}", begin(&TraceSelector::Uid("E004015012345678".into())));
        assert_ne!(text, again, "two runs cannot be linked without the uid");
    }
}
