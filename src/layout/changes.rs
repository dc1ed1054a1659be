//! The differences between two layouts.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{LayoutBoard, LayoutFurniture, LayoutLocation, LayoutShelf, SiteLayout};

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the meaning")]
pub enum LayoutAction {
    Added,
    Changed,
    Removed,
}

/// The kind of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the meaning")]
pub enum LayoutKind {
    Furniture,
    Shelf,
    Board,
    Location,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayoutChange {
    /// What became of it.
    pub action: LayoutAction,
    /// Its kind.
    pub kind: LayoutKind,
    /// Serial number or reference.
    pub name: String,
    /// Shelf of a board or location: the later one of a board that moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shelf_sn: Option<String>,
    /// Columns that differ in a changed row.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// A row of the layout with its key.
#[expect(clippy::unnecessary_literal_bound, reason = "rows of two kinds have a place")]
trait LayoutRow: Serialize + PartialEq {
    const KIND: LayoutKind;
    fn name(&self) -> &str;
    fn shelf_sn(&self) -> Option<&str> {
        None
    }
    /// Distinguishes rows of one name.
    fn place(&self) -> &str {
        ""
    }
}

impl LayoutRow for LayoutFurniture {
    const KIND: LayoutKind = LayoutKind::Furniture;
    fn name(&self) -> &str {
        &self.furniture_sn
    }
}

impl LayoutRow for LayoutShelf {
    const KIND: LayoutKind = LayoutKind::Shelf;
    fn name(&self) -> &str {
        &self.shelf_sn
    }
}

impl LayoutRow for LayoutBoard {
    const KIND: LayoutKind = LayoutKind::Board;
    fn name(&self) -> &str {
        &self.board_sn
    }
    fn shelf_sn(&self) -> Option<&str> {
        Some(&self.shelf_sn)
    }
}

impl LayoutRow for LayoutLocation {
    const KIND: LayoutKind = LayoutKind::Location;
    fn name(&self) -> &str {
        &self.loc_reference
    }
    fn shelf_sn(&self) -> Option<&str> {
        Some(&self.shelf_sn)
    }
    fn place(&self) -> &str {
        &self.shelf_sn
    }
}

/// Returns the rows that differ, by kind and name.
pub fn compare(before: &SiteLayout, after: &SiteLayout) -> Vec<LayoutChange> {
    let mut changes = compare_rows(&before.furniture, &after.furniture);
    changes.extend(compare_rows(&before.shelves, &after.shelves));
    changes.extend(compare_rows(&before.boards, &after.boards));
    changes.extend(compare_rows(&before.locations, &after.locations));
    changes
}

fn compare_rows<R: LayoutRow>(before: &[R], after: &[R]) -> Vec<LayoutChange> {
    let mut rows: BTreeMap<_, (Option<&R>, Option<&R>)> = BTreeMap::new();
    for row in before {
        rows.entry((row.name(), row.place())).or_default().0 = Some(row);
    }
    for row in after {
        rows.entry((row.name(), row.place())).or_default().1 = Some(row);
    }
    let differing = rows.into_values().filter(|(before, after)| before != after);
    differing.filter_map(|(before, after)| change(before, after)).collect()
}

fn change<R: LayoutRow>(before: Option<&R>, after: Option<&R>) -> Option<LayoutChange> {
    let (action, columns) = match (before, after) {
        (None, Some(_)) => (LayoutAction::Added, Vec::new()),
        (Some(_), None) => (LayoutAction::Removed, Vec::new()),
        (before, after) => (LayoutAction::Changed, differing_columns(before?, after?)),
    };
    let row = after.or(before)?;
    let shelf_sn = row.shelf_sn().map(str::to_owned);
    Some(LayoutChange { action, kind: R::KIND, name: row.name().to_owned(), shelf_sn, columns })
}

fn differing_columns<R: Serialize>(before: &R, after: &R) -> Vec<String> {
    // Without a value for a row that is no JSON, which a layout cannot have, no column is named.
    let [Ok(Value::Object(before)), Ok(Value::Object(after))] =
        [before, after].map(serde_json::to_value)
    else {
        return Vec::new();
    };
    let differing = before.iter().filter(|(column, value)| after.get(*column) != Some(*value));
    differing.map(|(column, _)| column.clone()).collect()
}
