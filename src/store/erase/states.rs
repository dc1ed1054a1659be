//! The tables of states, after the events. A state is made of events: where the selector takes
//! all of them the row goes. Where it takes the oldest, the row begins with the first that is left.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::sql::{self, AuditColumn};
use super::statement::{SqlParameter, SqlStatement};
use super::{EraseMode, Eraser, count, no_row};
use crate::erase::TraceSelector;
use crate::event::EventKind;
use crate::store::StoreError;
use crate::store::error::DbError;
use crate::store::kinds::{self, StateShortening};

/// Rows of one transaction. Few, because the writer of a running service waits for them.
const ROWS: usize = 200;

/// The table of states of a kind.
#[derive(Debug, Clone)]
struct StateTable {
    kind: EventKind,
    /// The columns of its key.
    key: Vec<&'static str>,
}

/// Keys of states, in order: the values of each column of the key.
#[derive(Debug)]
struct StateKeys(Vec<Vec<String>>);

impl StateKeys {
    fn of(rows: &[PgRow], table: &StateTable) -> Result<Self, DbError> {
        let column = |name: &&str| {
            rows.iter().map(|row| row.try_get(*name)).collect::<Result<Vec<String>, _>>()
        };
        Ok(Self(table.key.iter().map(column).collect::<Result<_, _>>()?))
    }

    fn bind(&self, statement: SqlStatement) -> SqlStatement {
        self.0.iter().fold(statement, |s, column| s.bind(SqlParameter::Texts(column.clone())))
    }

    /// `None` if there are none.
    fn last(&self) -> Option<Vec<String>> {
        self.0.iter().map(|column| column.last().cloned()).collect()
    }
}

impl StateTable {
    fn of(kind: EventKind) -> Self {
        Self { kind, key: kinds::tables(kind).key() }
    }

    fn name(&self) -> &'static str {
        kinds::tables(self.kind).state_table()
    }

    /// The next keys in order that fulfil a condition on the selector's value.
    fn page(
        &self,
        condition: &str,
        selector: &TraceSelector,
        after: Option<&[String]>,
    ) -> SqlStatement {
        let (name, key) = (self.name(), self.key.join(", "));
        let after = after.unwrap_or_default();
        let place: Vec<String> = (0..after.len()).map(|n| format!("${}", n + 2)).collect();
        let behind = match &place[..] {
            [] => String::new(),
            place => format!("and ({key}) > ({})", place.join(", ")),
        };
        let page = SqlStatement::new(format!(
            "select {key} from centiloc.{name} where {condition} {behind} order by {key} limit {ROWS}"
        ));
        let page = page.bind(sql::value(selector));
        after.iter().fold(page, |page, value| page.bind(SqlParameter::Text(value.clone())))
    }

    /// A FROM clause with the keys as `k`, and the condition that joins them with `s`.
    fn join(&self) -> (String, String) {
        let arrays: Vec<String> = (1..=self.key.len()).map(|n| format!("${n}::text[]")).collect();
        let pairs: Vec<String> = self.key.iter().map(|key| format!("s.{key} = k.{key}")).collect();
        let keys = format!("unnest({}) as k ({})", arrays.join(", "), self.key.join(", "));
        (keys, pairs.join(" and "))
    }
}

impl Eraser<'_> {
    /// Removes the states, and corrects what is left of them.
    pub async fn states(&mut self) -> Result<(), StoreError> {
        let selector = self.selector;
        for kind in EventKind::ALL.into_iter().filter(|kind| sql::concerns(selector, *kind)) {
            self.states_of(&StateTable::of(kind)).await?;
        }
        if let (TraceSelector::Before(cutoff), EraseMode::Erase) = (self.selector, self.mode) {
            for kind in EventKind::ALL {
                if let Some(shortening) = kinds::tables(kind).shortening() {
                    self.shorten(&StateTable::of(kind), &shortening, *cutoff).await?;
                }
            }
        }
        Ok(())
    }

    async fn states_of(&mut self, table: &StateTable) -> Result<(), DbError> {
        let condition = sql::condition(self.selector);
        let mut after: Option<Vec<String>> = None;
        loop {
            let page = table.page(&condition, self.selector, after.as_deref());
            let rows = self.run(&[page]).await?;
            let keys = StateKeys::of(&rows, table)?;
            after = keys.last();
            if after.is_none() {
                return Ok(());
            }
            let number = match self.mode {
                EraseMode::Count => rows.len() as u64,
                EraseMode::Erase => self.delete_states(table, &keys).await?,
            };
            *AuditColumn::States(table.kind).of(&mut self.counts) += number;
        }
    }

    /// Deletes states. Where an event arrived since the events were removed, its state is made again in
    /// the same transaction: until then the writer of a running service waits for the row.
    async fn delete_states(
        &mut self,
        table: &StateTable,
        keys: &StateKeys,
    ) -> Result<u64, DbError> {
        let (from, joined) = table.join();
        let audit = AuditColumn::States(table.kind).audit(self.erasure);
        let unless_newer = match self.selector {
            TraceSelector::Before(_) => format!("and s.momentum < ${}", table.key.len() + 1),
            TraceSelector::Uid(_) | TraceSelector::Board(_) => String::new(),
        };
        let delete = keys.bind(SqlStatement::new(format!(
            "with gone as (delete from centiloc.{} s using {from} where {joined} {unless_newer}
                           returning s.momentum), {audit}
             select count(*) as rows from gone",
            table.name()
        )));
        if let TraceSelector::Before(_) = self.selector {
            let deleted = self.run(&[delete.bind(sql::value(self.selector))]).await?.pop();
            return count(&deleted.ok_or_else(no_row)?, "rows");
        }
        let remake = keys.bind(SqlStatement::new(kinds::tables(table.kind).remake_states()));
        let kept = self.run(&[delete, remake]).await?.len() as u64;
        Ok((keys.0[0].len() as u64).saturating_sub(kept))
    }

    /// Corrects states that began before the date.
    async fn shorten(
        &mut self,
        table: &StateTable,
        shortening: &StateShortening,
        cutoff: OffsetDateTime,
    ) -> Result<(), DbError> {
        let mut after: Option<Vec<String>> = None;
        loop {
            let page = table.page(shortening.condition, self.selector, after.as_deref());
            let keys = StateKeys::of(&self.run(&[page]).await?, table)?;
            after = keys.last();
            if after.is_none() {
                return Ok(());
            }
            let update = keys.bind(SqlStatement::new(shortening.sql));
            self.run(&[update.bind(SqlParameter::Time(cutoff))]).await?;
        }
    }
}
