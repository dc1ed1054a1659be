//! What a batch changes in `item_state` and `board_state`: one row a key, the newest by
//! (momentum, event id). Two rows of one key in one upsert would be an error (21000).

use time::OffsetDateTime;

use crate::event::{BoardEvent, ItemEvent};

/// What an item event changes in `item_state`, beside its own columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct ItemChange {
    /// Least momentum of the tag on the board within the batch.
    pub first_seen_at: OffsetDateTime,
    /// First arrival after the last leave within the batch; `None` when the newest is a leave.
    /// Equal to `first_seen_at` if no leave came before, as far as momenta tell.
    pub entered_at: Option<OffsetDateTime>,
}

/// The order in which item rows are sent: by key of `item_state`, then oldest first. Every writer
/// locks rows in this order, so that two of them do not deadlock.
pub(in crate::store) fn item_order(
    e: &ItemEvent,
) -> (&str, &str, &str, OffsetDateTime, uuid::Uuid) {
    (&e.tenant, &e.uid, e.board_sn.as_deref().unwrap_or(""), e.momentum, e.event_id)
}

/// The order in which board rows are sent; see [`item_order`].
pub(in crate::store) fn board_order(e: &BoardEvent) -> (&str, &str, OffsetDateTime, uuid::Uuid) {
    (&e.tenant, &e.board_sn, e.momentum, e.event_id)
}

/// For each event, in [`item_order`], what it changes; `None` where a newer one of its key follows,
/// the same one precedes, or its momentum is after `latest`, the latest plausible one.
pub(in crate::store) fn fold_items(
    sorted: &[&ItemEvent],
    latest: OffsetDateTime,
) -> Vec<Option<ItemChange>> {
    let same_key = |a: &ItemEvent, b: &ItemEvent| {
        a.uid == b.uid
            && a.tenant == b.tenant
            && a.board_sn.as_deref().unwrap_or("") == b.board_sn.as_deref().unwrap_or("")
    };
    debug_assert!(sorted.is_sorted_by(|a, b| item_order(a) <= item_order(b)));
    let mut changes = vec![None; sorted.len()];
    let mut start = 0;
    for group in sorted.chunk_by(|a, b| same_key(a, b)) {
        let plausible = &group[..group.partition_point(|e| e.momentum <= latest)];
        if let Some(newest) = newest(plausible, |e| e.event_id) {
            changes[start + newest] = Some(fold_one_item(plausible));
        }
        start += group.len();
    }
    changes
}

/// For each event, in [`board_order`], whether it is the newest of its board up to `latest`, the
/// latest plausible momentum.
pub(in crate::store) fn fold_boards(sorted: &[&BoardEvent], latest: OffsetDateTime) -> Vec<bool> {
    let mut is_newest = vec![false; sorted.len()];
    let mut start = 0;
    for group in sorted.chunk_by(|a, b| a.board_sn == b.board_sn && a.tenant == b.tenant) {
        let plausible = &group[..group.partition_point(|e| e.momentum <= latest)];
        if let Some(newest) = newest(plausible, |e| e.event_id) {
            is_newest[start + newest] = true;
        }
        start += group.len();
    }
    is_newest
}

/// The place of the newest event of a group; of several forms of it, the first that came, which is
/// also the one that `on conflict do nothing` keeps.
fn newest<E>(group: &[&E], id: impl Fn(&E) -> uuid::Uuid) -> Option<usize> {
    let newest = id(group.last()?);
    group.iter().position(|e| id(e) == newest)
}

fn fold_one_item(group: &[&ItemEvent]) -> ItemChange {
    let mut entered_at = None;
    for event in group {
        if event.is_in {
            entered_at.get_or_insert(event.momentum);
        } else {
            entered_at = None;
        }
    }
    ItemChange { first_seen_at: group[0].momentum, entered_at }
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
        fn one_row_a_key_and_it_is_the_newest_with_the_least_momentum(
            events in events(), latest in 0i64..14
        ) {
            let mut sorted: Vec<&ItemEvent> = events.iter().collect();
            sorted.sort_by(|a, b| item_order(a).cmp(&item_order(b)));
            let latest = at(latest);
            let changes = fold_items(&sorted, latest);

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
            }
        }
    }

    #[test]
    fn of_two_forms_of_one_event_the_first_is_kept() {
        let first = item("U", "A", 5, true);
        let mut second = first.clone();
        second.product_reference = Some("other form".into());
        let changes = fold_items(&[&first, &second], at(9));
        assert!(changes[0].is_some() && changes[1].is_none());
    }
}
