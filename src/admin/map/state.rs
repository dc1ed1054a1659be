//! The content of the map and its changes. Pure: reads of the database go in, changes come out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::SerializeTuple as _;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use super::plan::{KnownBoard, MapPlan, USUAL_BOARD};
use crate::store::map_reads::{PlacedItem, ReportedBoard, SiteLayout, TagPlace, WholeRead};

/// Sizes of boards grow in steps, so that the plan does not change with every position.
const SIZE_STEP: i32 = 50;
/// Positions beyond this are errors, and no reason for a larger board.
const LARGEST_BOARD: i32 = 5_000;

/// Milliseconds since the Unix epoch.
type UnixMillis = i64;

/// An item on a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemMark {
    /// Serial number of the board.
    pub board_sn: String,
    /// Position on the board, millimetres. `None` if it is not known.
    pub position: Option<(i32, i32)>,
    /// Product that the tag is enrolled to.
    pub product: Option<String>,
    /// Named location.
    pub location: Option<String>,
    /// Time of its newest event.
    pub moved_at: UnixMillis,
    /// Start of its stay on the board.
    pub entered_at: Option<UnixMillis>,
}

/// A board and its health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BoardMark {
    /// Newest status. `None` if it never reported one.
    pub status: Option<String>,
    /// Time of the newest status.
    pub status_at: Option<UnixMillis>,
    /// Firmware version.
    pub fw_version: Option<String>,
    /// Minute of its newest item event, so that not every event is a change of the board.
    pub last_item_at: Option<UnixMillis>,
    /// True if it is silent for longer than is usual for it.
    pub is_silent: bool,
}

/// Changes of the map. [`MapState::apply`] makes them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MapDelta {
    /// The whole plan, if it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Arc<MapPlan>>,
    /// Boards that changed. `None` for those that are gone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub boards: BTreeMap<String, Option<BoardMark>>,
    /// Items that changed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "serialize_items")]
    pub items: BTreeMap<String, ItemMark>,
    /// Tags that are on no board any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
}

impl MapDelta {
    /// Returns true if there is no change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The content of the map.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MapState {
    /// Places of furniture, shelves and boards.
    pub plan: Arc<MapPlan>,
    /// All boards by serial number.
    pub boards: BTreeMap<String, BoardMark>,
    /// Items on boards by uid.
    #[serde(serialize_with = "serialize_items")]
    pub items: BTreeMap<String, ItemMark>,
}

/// Combines reads of the database into the content of the map.
#[derive(Debug, Default)]
pub struct MapAssembly {
    layout: SiteLayout,
    known: BTreeMap<String, KnownBoard>,
}

impl MapAssembly {
    /// Returns the changes from `state` to all that was read.
    pub fn whole(&mut self, state: &MapState, read: WholeRead) -> MapDelta {
        let is_same_layout = self.layout == read.layout;
        self.layout = read.layout;
        let mut items = read.items;
        let read_uids: std::collections::HashSet<_> =
            items.iter().map(|(uid, _)| uid.as_str()).collect();
        let gone = state.items.keys().filter(|uid| !read_uids.contains(uid.as_str()));
        let gone: Vec<TagPlace> = gone.map(|uid| (uid.clone(), None)).collect();
        items.extend(gone);
        self.changes(state, items, read.boards, !is_same_layout)
    }

    /// Returns the changes from `state` by these tags and the present boards.
    pub fn changed(
        &mut self,
        state: &MapState,
        items: Vec<TagPlace>,
        boards: Vec<ReportedBoard>,
    ) -> MapDelta {
        self.changes(state, items, boards, false)
    }

    fn changes(
        &mut self,
        state: &MapState,
        items: Vec<TagPlace>,
        boards: Vec<ReportedBoard>,
        new_layout: bool,
    ) -> MapDelta {
        let mut delta = MapDelta::default();
        let mut is_new_plan = new_layout;
        let mut marks = BTreeMap::new();
        for board in boards {
            is_new_plan |= self.learn_board(&board);
            marks.insert(board.board_sn.clone(), BoardMark::from(board));
        }
        for sn in state.boards.keys().filter(|sn| !marks.contains_key(*sn)) {
            is_new_plan |= self.known.remove(sn).is_some();
            delta.boards.insert(sn.clone(), None);
        }
        for (uid, item) in items {
            let Some(item) = item else {
                if state.items.contains_key(&uid) {
                    delta.gone.push(uid);
                }
                continue;
            };
            is_new_plan |= self.learn_item(&item);
            let mark = ItemMark::from(item);
            if state.items.get(&uid) != Some(&mark) {
                delta.items.insert(uid, mark);
            }
        }
        marks.retain(|sn, mark| state.boards.get(sn) != Some(mark));
        delta.boards.extend(marks.into_iter().map(|(sn, mark)| (sn, Some(mark))));
        if is_new_plan {
            let plan = MapPlan::new(&self.layout, &self.known);
            delta.plan = (*state.plan != plan).then(|| Arc::new(plan));
        }
        delta
    }

    /// Notes a board and its shelf. Returns true if the plan changes.
    fn learn_board(&mut self, board: &ReportedBoard) -> bool {
        let is_new = !self.known.contains_key(&board.board_sn);
        let known = self.known(&board.board_sn);
        if known.place.is_none() && board.place.is_some() {
            known.place.clone_from(&board.place);
            return true;
        }
        is_new
    }

    /// Notes position and shelf of an item. Returns true if the plan changes.
    fn learn_item(&mut self, item: &PlacedItem) -> bool {
        let is_new = !self.known.contains_key(&item.board_sn);
        let known = self.known(&item.board_sn);
        let before = known.clone();
        if item.place.is_some() {
            known.place.clone_from(&item.place);
        }
        if let Some((x, y)) = item.position {
            known.size = (grown(known.size.0, x), grown(known.size.1, y));
        }
        is_new || before != *known
    }

    fn known(&mut self, sn: &str) -> &mut KnownBoard {
        self.known
            .entry(sn.to_owned())
            .or_insert_with(|| KnownBoard { place: None, size: USUAL_BOARD })
    }
}

/// Returns the size that contains a position.
fn grown(size: i32, position: i32) -> i32 {
    if position <= size || position > LARGEST_BOARD {
        return size;
    }
    (position + SIZE_STEP - 1) / SIZE_STEP * SIZE_STEP
}

impl MapState {
    /// Makes the changes.
    pub fn apply(&mut self, delta: &MapDelta) {
        if let Some(plan) = &delta.plan {
            self.plan = Arc::clone(plan);
        }
        for (sn, mark) in &delta.boards {
            match mark {
                Some(mark) => self.boards.insert(sn.clone(), mark.clone()),
                None => self.boards.remove(sn),
            };
        }
        for uid in &delta.gone {
            self.items.remove(uid);
        }
        for (uid, item) in &delta.items {
            self.items.insert(uid.clone(), item.clone());
        }
    }
}

impl From<PlacedItem> for ItemMark {
    fn from(item: PlacedItem) -> Self {
        Self {
            board_sn: item.board_sn,
            position: item.position,
            product: item.product,
            location: item.location,
            moved_at: millis(item.momentum),
            entered_at: item.entered_at.map(millis),
        }
    }
}

impl From<ReportedBoard> for BoardMark {
    fn from(board: ReportedBoard) -> Self {
        let minute = |at: OffsetDateTime| millis(at).div_euclid(60_000) * 60_000;
        Self {
            status: board.status,
            status_at: board.status_at.map(millis),
            fw_version: board.fw_version,
            last_item_at: board.last_item_at.map(minute),
            is_silent: board.is_silent,
        }
    }
}

/// Returns milliseconds since the Unix epoch.
pub fn millis(at: OffsetDateTime) -> UnixMillis {
    let millis = at.unix_timestamp_nanos().div_euclid(1_000_000);
    // The years that a timestamp can have fit.
    i64::try_from(millis).unwrap_or(0)
}

/// Serializes items as lists, because the names of fields would be most of the bytes.
fn serialize_items<S: Serializer>(
    items: &BTreeMap<String, ItemMark>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().map(|(uid, mark)| ItemLine { uid, mark }))
}

struct ItemLine<'a> {
    uid: &'a str,
    mark: &'a ItemMark,
}

impl Serialize for ItemLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ItemMark { board_sn, position, product, location, moved_at, entered_at } = self.mark;
        let mut line = serializer.serialize_tuple(8)?;
        line.serialize_element(self.uid)?;
        line.serialize_element(board_sn)?;
        line.serialize_element(&position.map(|(x, _)| x))?;
        line.serialize_element(&position.map(|(_, y)| y))?;
        line.serialize_element(product)?;
        line.serialize_element(location)?;
        line.serialize_element(moved_at)?;
        line.serialize_element(entered_at)?;
        line.end()
    }
}
