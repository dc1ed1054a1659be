//! The tables of a kind whose state is the newest event of its key, as it is.

use std::cmp::Ordering;
use std::marker::PhantomData;
use std::sync::LazyLock;

use time::OffsetDateTime;

use super::columns::{self, EventColumn};
use super::{EventTables, PgQuery, newest};
use crate::event::Event;
use crate::store::batch::rows::EventRow;

/// An event whose kind has such tables.
pub(super) trait NewestEvent: Sized + 'static {
    /// Name of the table of events.
    const EVENT_TABLE: &'static str;
    /// Name of the table of states.
    const STATE_TABLE: &'static str;
    /// The columns, in the order in which they are sent.
    const COLUMNS: &'static [EventColumn<Self>];

    /// Returns the event if it is of this kind.
    fn of(event: &Event) -> Option<&Self>;

    /// Returns the key of its state: the values of the columns of the key, in their order.
    fn key(&self) -> impl Ord;
}

/// True where an event replaces the state.
const NEWER: &str =
    "s.momentum > {+2} or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id)";

/// The tables of a kind of [`NewestEvent`]. They have no partitions.
pub(super) struct NewestTables<E> {
    write: LazyLock<String>,
    remake: LazyLock<String>,
    event: PhantomData<fn(E)>,
}

impl<E: NewestEvent> NewestTables<E> {
    pub(super) const fn new() -> Self {
        Self {
            write: LazyLock::new(|| fill::<E>(include_str!("../sql/newest.sql"))),
            remake: LazyLock::new(|| fill::<E>(include_str!("../sql/erased_newest_states.sql"))),
            event: PhantomData,
        }
    }
}

impl<E: NewestEvent> EventTables for NewestTables<E> {
    fn order(&self, a: &Event, b: &Event) -> Ordering {
        let age = |event: &Event| (event.momentum(), event.event_id());
        E::of(a).map(E::key).cmp(&E::of(b).map(E::key)).then_with(|| age(a).cmp(&age(b)))
    }

    fn statement(&'static self, rows: &[EventRow<'_>], latest: OffsetDateTime) -> PgQuery {
        let events: Vec<&E> = rows.iter().filter_map(|row| E::of(row.event)).collect();
        let sql = sqlx::AssertSqlSafe(self.write.as_str());
        let query = columns::bind(sqlx::query(sql), E::COLUMNS, &events);
        query.bind(fold::<E>(rows, latest)).bind(latest)
    }

    fn event_table(&self) -> &'static str {
        E::EVENT_TABLE
    }

    fn state_table(&self) -> &'static str {
        E::STATE_TABLE
    }

    fn key(&self) -> Vec<&'static str> {
        columns::key_of(E::COLUMNS)
    }

    fn has_column(&self, name: &str) -> bool {
        E::COLUMNS.iter().any(|column| column.name == name)
    }

    fn is_partitioned(&self) -> bool {
        false
    }

    fn remake_states(&'static self) -> &'static str {
        &self.remake
    }
}

fn fill<E: NewestEvent>(template: &str) -> String {
    let named =
        template.replace("{event_table}", E::EVENT_TABLE).replace("{state_table}", E::STATE_TABLE);
    columns::fill(&named, E::COLUMNS, NEWER)
}

/// Returns for each event, in the order of rows, whether it is the newest of its key up to
/// `latest`.
fn fold<E: NewestEvent>(sorted: &[EventRow<'_>], latest: OffsetDateTime) -> Vec<bool> {
    let same_key = |a: &EventRow<'_>, b: &EventRow<'_>| {
        E::of(a.event).map(E::key) == E::of(b.event).map(E::key)
    };
    let mut is_newest = vec![false; sorted.len()];
    let mut start = 0;
    for group in sorted.chunk_by(same_key) {
        let plausible = &group[..group.partition_point(|row| row.event.momentum() <= latest)];
        if let Some(newest) = newest(plausible, |row| row.event.event_id()) {
            is_newest[start + newest] = true;
        }
        start += group.len();
    }
    is_newest
}
