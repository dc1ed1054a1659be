//! The statements. Where rows are deleted, the same statement enters their number in `erasure`.

use sha2::{Digest, Sha256};

use super::statement::{Parameter, Statement};
use super::{Counts, Mode};
use crate::erase::Selector;

/// Rows deleted by one statement: some ten milliseconds.
pub(super) const ROWS: usize = 5_000;

/// Rows counted by one statement.
const COUNTED_ROWS: usize = 50_000;

/// Blocks read by one statement where no index leads to the rows: 8 MiB.
pub(super) const BLOCKS: i64 = 1_024;

/// A column of `erasure` that counts rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    ItemEvents,
    BoardEvents,
    ItemStates,
    BoardStates,
    DeadLetters,
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::ItemEvents => "item_events",
            Self::BoardEvents => "board_events",
            Self::ItemStates => "item_states",
            Self::BoardStates => "board_states",
            Self::DeadLetters => "dead_letters",
        }
    }

    pub fn of(self, counts: &mut Counts) -> &mut u64 {
        match self {
            Self::ItemEvents => &mut counts.item_events,
            Self::BoardEvents => &mut counts.board_events,
            Self::ItemStates => &mut counts.item_states,
            Self::BoardStates => &mut counts.board_states,
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

/// The condition on rows of a table of events, with the value as `$1`.
pub(super) fn condition(selector: &Selector) -> &'static str {
    match selector {
        Selector::Uid(_) => "uid = $1",
        Selector::Board(_) => "board_sn = $1",
        Selector::Before(_) => "momentum < $1",
    }
}

pub(super) fn value(selector: &Selector) -> Parameter {
    match selector {
        Selector::Uid(text) | Selector::Board(text) => Parameter::Text(text.clone()),
        Selector::Before(time) => Parameter::Time(*time),
    }
}

pub(super) fn begin(selector: &Selector) -> Statement {
    let (mut salt, mut digest, mut board, mut before) = (None, None, None, None);
    match selector {
        Selector::Uid(uid) => {
            let random: [u8; 16] = rand::random();
            let hash = Sha256::new().chain_update(random).chain_update(uid).finalize();
            (salt, digest) = (Some(random.to_vec()), Some(hash.to_vec()));
        }
        Selector::Board(sn) => board = Some(sn.clone()),
        Selector::Before(time) => before = Some(*time),
    }
    Statement::new(
        "insert into centiloc.erasure (selector, uid_salt, uid_digest, board_sn, before)
         values ($1, $2, $3, $4, $5)
         returning id",
    )
    .bind(Parameter::Text(selector.kind().to_owned()))
    .bind(Parameter::Bytes(salt))
    .bind(Parameter::Bytes(digest))
    .bind(Parameter::OptionalText(board))
    .bind(Parameter::OptionalTime(before))
}

pub(super) fn spooled(messages: u64, erasure: i64) -> Statement {
    let messages = i64::try_from(messages).unwrap_or(i64::MAX);
    Statement::new("update centiloc.erasure set spooled = spooled + $1 where id = $2")
        .bind(Parameter::Number(messages))
        .bind(Parameter::Number(erasure))
}

pub(super) fn finish(erasure: i64) -> Statement {
    Statement::new("update centiloc.erasure set finished_at = clock_timestamp() where id = $1")
        .bind(Parameter::Number(erasure))
}

/// Where the next statement goes on in a table of events: behind this momentum and event.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub momentum: String,
    pub event_id: uuid::Uuid,
}

impl Place {
    pub fn start() -> Self {
        Self { momentum: "-infinity".to_owned(), event_id: uuid::Uuid::nil() }
    }
}

/// The next rows of a table in order of momentum, which an index gives. One row where there are any:
/// the last one's place, and how many there are.
pub(super) fn next_rows(
    table: &str,
    selector: &Selector,
    place: &Place,
    mode: Mode,
    (column, erasure): (Column, i64),
) -> Statement {
    let condition = condition(selector);
    let (limit, delete) = match mode {
        Mode::Count => (COUNTED_ROWS, String::new()),
        Mode::Erase => {
            let audit = column.audit(erasure);
            let delete = format!(
                ", gone as (delete from {table} where ctid = any (array(select row_at from found))
                            returning momentum), {audit}"
            );
            (ROWS, delete)
        }
    };
    let counted = if mode == Mode::Count { "found" } else { "gone" };
    Statement::new(format!(
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
    .bind(Parameter::Text(place.momentum.clone()))
    .bind(Parameter::Id(place.event_id))
}

/// The rows in a range of blocks of a table.
pub(super) fn rows_in_blocks(
    table: &str,
    selector: &Selector,
    from: i64,
    mode: Mode,
    (column, erasure): (Column, i64),
) -> Statement {
    let (condition, to) = (condition(selector), from + BLOCKS);
    let rows = format!(
        "from {table}
         where ctid >= '({from},0)'::tid and ctid < '({to},0)'::tid and {condition}"
    );
    let sql = match mode {
        Mode::Count => format!("select count(*) as rows {rows}"),
        Mode::Erase => format!(
            "with gone as (delete {rows} returning momentum), {}
             select count(*) as rows from gone",
            column.audit(erasure)
        ),
    };
    Statement::new(sql).bind(value(selector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_row_never_holds_the_uid() {
        let text = format!("{:?}", begin(&Selector::Uid("E004015012345678".into())));
        assert!(!text.contains("E004"), "{text}");
        let again = format!("{:?}", begin(&Selector::Uid("E004015012345678".into())));
        assert_ne!(text, again, "two runs cannot be linked without the uid");
    }
}
