//! `item_event` and `item_state`.

use std::cmp::Ordering;
use std::sync::LazyLock;

use sqlx::postgres::PgBindIterExt as _;
use time::OffsetDateTime;
use uuid::Uuid;

use super::columns::{self, EventColumn, event_columns, interval, json};
use super::{EventTables, PgQuery, StateShortening, newest};
use crate::event::{Event, ItemEvent};
use crate::store::batch::rows::EventRow;
use crate::store::text::array_literal;

/// The columns, in the order in which they are sent. Labels are sent as array literals because
/// `unnest` flattens nested arrays.
const COLUMNS: &[EventColumn<ItemEvent>] = event_columns! { ItemEvent;
    Key {
        tenant: "text" = |e| e.tenant.as_str(),
        uid: "text" = |e| e.uid.as_str(),
        board_sn: "text" = |e| e.board_sn.as_deref(),
    }
    State {
        momentum: "timestamptz" = |e| e.momentum,
        event_id: "uuid" = |e| e.event_id,
        received_at: "timestamptz" = |e| e.received_at,
        is_in: "boolean" = |e| e.is_in,
        x_mm: "integer" = |e| e.x_mm,
        y_mm: "integer" = |e| e.y_mm,
        shelf_x_mm: "integer" = |e| e.shelf_x_mm,
        shelf_y_mm: "integer" = |e| e.shelf_y_mm,
        floor_x_mm: "integer" = |e| e.floor_x_mm,
        floor_y_mm: "integer" = |e| e.floor_y_mm,
        floor: "integer" = |e| e.floor,
        nb_hits: "integer" = |e| e.nb_hits,
        hold_time: "interval" = |e| e.hold_time_us.map(interval),
        fill_ratio: "real" = |e| e.fill_ratio,
        product_reference: "text" = |e| e.product_reference.as_deref(),
        shelf_sn: "text" = |e| e.shelf_sn.as_deref(),
        furniture_sn: "text" = |e| e.furniture_sn.as_deref(),
        loc_reference: "text" = |e| e.loc_reference.as_deref(),
        loc_labels: "text" as "::text[]" = |e| e.loc_labels.as_deref().map(array_literal),
        item_labels: "text" as "::text[]" = |e| e.item_labels.as_deref().map(array_literal),
        is_interpolated: "boolean" = |e| e.is_interpolated,
        extra: "text" as "::jsonb" = |e| e.extra.as_ref().map(json),
    }
    Event {
        payload: "bytea" = |e| e.payload.as_deref(),
    }
};

/// True where an event replaces the state.
const NEWER: &str =
    "(s.momentum > {+5} or (excluded.momentum, excluded.event_id) > (s.momentum, s.event_id))";

/// True where an arrival replaces the newest one of the state.
const NEWER_IN: &str = "(excluded.last_in_at is not null and s.last_in_at is null \
     or s.last_in_at > {+5} \
     or (excluded.last_in_at, excluded.last_in_id) > (s.last_in_at, s.last_in_id))";

static WRITE: LazyLock<String> = LazyLock::new(|| {
    let template = include_str!("../sql/items.sql").replace("{newer_in}", NEWER_IN);
    columns::fill(&template, COLUMNS, NEWER)
});

static REMAKE: LazyLock<String> =
    LazyLock::new(|| columns::fill(include_str!("../sql/erased_item_states.sql"), COLUMNS, NEWER));

/// The tables of item events.
pub(super) struct ItemTables;

impl EventTables for ItemTables {
    fn order(&self, a: &Event, b: &Event) -> Ordering {
        item_of(a).map(key_and_age).cmp(&item_of(b).map(key_and_age))
    }

    fn statement(&self, rows: &[EventRow<'_>], latest: OffsetDateTime) -> PgQuery {
        let events: Vec<&ItemEvent> = rows.iter().filter_map(|row| item_of(row.event)).collect();
        let changes = fold(&events, latest);
        let sql = sqlx::AssertSqlSafe(WRITE.as_str());
        columns::bind(sqlx::query(sql), COLUMNS, &events)
            .bind(changes.iter().map(|c| c.map(|c| c.first_seen_at)).bind_iter())
            .bind(changes.iter().map(|c| c.and_then(|c| c.entered_at)).bind_iter())
            .bind(changes.iter().map(|c| c.and_then(|c| c.last_in).map(|(at, _)| at)).bind_iter())
            .bind(changes.iter().map(|c| c.and_then(|c| c.last_in).map(|(_, id)| id)).bind_iter())
            .bind(latest)
    }

    fn event_table(&self) -> &'static str {
        "item_event"
    }

    fn state_table(&self) -> &'static str {
        "item_state"
    }

    fn key(&self) -> Vec<&'static str> {
        columns::key_of(COLUMNS)
    }

    fn has_column(&self, name: &str) -> bool {
        COLUMNS.iter().any(|column| column.name == name)
    }

    fn is_partitioned(&self) -> bool {
        true
    }

    fn remake_states(&self) -> &'static str {
        &REMAKE
    }

    fn shortening(&self) -> Option<StateShortening> {
        Some(StateShortening {
            condition: "momentum >= $1
                        and (first_seen_at < $1 or entered_at < $1 or last_in_at < $1)",
            sql: include_str!("../sql/shortened_item_states.sql"),
        })
    }
}

fn item_of(event: &Event) -> Option<&ItemEvent> {
    if let Event::Item(item) = event { Some(item) } else { None }
}

/// The key of an event's state, its age, and its id.
type KeyAndAge<'e> = (&'e str, &'e str, &'e str, OffsetDateTime, Uuid);

fn key_and_age(e: &ItemEvent) -> KeyAndAge<'_> {
    (&e.tenant, &e.uid, e.board_sn.as_deref().unwrap_or(""), e.momentum, e.event_id)
}

/// The change of an item event to `item_state`, in addition to its own columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ItemChange {
    /// Least momentum of the tag on the board within the batch.
    first_seen_at: OffsetDateTime,
    /// First arrival after the last leave within the batch. `None` when the newest is a leave.
    /// Equal to `first_seen_at` if no leave came before, as far as momenta show.
    entered_at: Option<OffsetDateTime>,
    /// Newest arrival of the tag on the board within the batch.
    last_in: Option<(OffsetDateTime, Uuid)>,
}

/// Returns the change of each event, in the order of rows: `None` where a newer one of its key
/// follows, the same one precedes, or its momentum is after `latest`. Two rows of one key in one
/// upsert would be an error (21000).
fn fold(sorted: &[&ItemEvent], latest: OffsetDateTime) -> Vec<Option<ItemChange>> {
    let same_key = |a: &ItemEvent, b: &ItemEvent| {
        a.uid == b.uid
            && a.tenant == b.tenant
            && a.board_sn.as_deref().unwrap_or("") == b.board_sn.as_deref().unwrap_or("")
    };
    debug_assert!(sorted.is_sorted_by(|a, b| key_and_age(a) <= key_and_age(b)));
    let mut changes = vec![None; sorted.len()];
    let mut start = 0;
    for group in sorted.chunk_by(|a, b| same_key(a, b)) {
        let plausible = &group[..group.partition_point(|e| e.momentum <= latest)];
        if let Some(newest) = newest(plausible, |e| e.event_id) {
            changes[start + newest] = Some(fold_one(plausible));
        }
        start += group.len();
    }
    changes
}

fn fold_one(group: &[&ItemEvent]) -> ItemChange {
    let (mut entered_at, mut last_in) = (None, None);
    for event in group {
        if event.is_in {
            entered_at.get_or_insert(event.momentum);
            last_in = Some((event.momentum, event.event_id));
        } else {
            entered_at = None;
        }
    }
    ItemChange { first_seen_at: group[0].momentum, entered_at, last_in }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::store::testing::{at, item};

    fn events() -> impl Strategy<Value = Vec<ItemEvent>> {
        let one = (0u8..3, 0u8..3, 0i64..12, any::<bool>()).prop_map(|(uid, board, at, is_in)| {
            let board = ["", "A", "B"][usize::from(board)];
            item(&format!("U{uid}"), board, at, is_in)
        });
        prop::collection::vec(one, 0..40)
    }

    proptest! {
        #[test]
        fn each_key_keeps_newest_row_and_least_momentum(
            events in events(), latest in 0i64..14
        ) {
            let mut sorted: Vec<&ItemEvent> = events.iter().collect();
            sorted.sort_by(|a, b| key_and_age(a).cmp(&key_and_age(b)));
            let latest = at(latest);
            let changes = fold(&sorted, latest);

            let mut model: HashMap<(String, Option<String>), Vec<&ItemEvent>> = HashMap::new();
            for event in events.iter().filter(|e| e.momentum <= latest) {
                model.entry((event.uid.clone(), event.board_sn.clone())).or_default().push(event);
            }
            prop_assert_eq!(changes.iter().flatten().count(), model.len());
            for (event, change) in sorted.iter().zip(&changes) {
                let Some(change) = change else { continue };
                let group = &model[&(event.uid.clone(), event.board_sn.clone())];
                let key = |e: &ItemEvent| (e.momentum, e.event_id);
                prop_assert!(group.iter().all(|e| key(e) <= key(event)));
                prop_assert_eq!(change.first_seen_at, group.iter().map(|e| e.momentum).min().unwrap());
                let last_out = group.iter().filter(|e| !e.is_in).map(|e| key(e)).max();
                let entered = group.iter().filter(|e| e.is_in)
                    .filter(|e| last_out.is_none_or(|out| key(e) > out))
                    .map(|e| e.momentum).min();
                prop_assert_eq!(change.entered_at, entered);
                prop_assert_eq!(change.entered_at.is_some(), event.is_in);
                let last_in = group.iter().filter(|e| e.is_in).map(|e| key(e)).max();
                prop_assert_eq!(change.last_in, last_in);
            }
        }
    }

    #[test]
    fn first_form_of_an_event_is_kept() {
        let first = item("U", "A", 5, true);
        let mut second = first.clone();
        second.product_reference = Some("other form".into());
        let changes = fold(&[&first, &second], at(9));
        assert!(changes[0].is_some() && changes[1].is_none());
    }
}
