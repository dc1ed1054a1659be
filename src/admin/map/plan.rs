//! The plan of the map: furniture, shelves and boards as rectangles that do not overlap.
//!
//! Inside a shelf of the imported layout, boards and locations are where the layout has them. Shelves
//! of one furniture are drawn below each other, the highest on top, because seen from above they would
//! cover each other. Furniture is drawn in rows, in the order of its corners on the floor. Boards that
//! are in no layout are drawn side by side on the shelf that their items name.
//!
//! All lengths are in millimetres. The y axis of the plan points down, that of shelves and boards up.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::store::map_reads::{LayoutBoard, LayoutShelf, ShelfPlace, SiteLayout};

/// Width and depth of a board that is in no layout. Larger if items were seen beyond.
pub const USUAL_BOARD: (i32, i32) = (400, 300);

/// Space between boards that are drawn side by side.
const BOARD_GAP: f64 = 20.0;
/// Space around the shelves of a furniture.
const PADDING: f64 = 60.0;
/// Height of the line above a furniture with its name.
const FURNITURE_TITLE: f64 = 240.0;
/// Height of the line above a shelf with its name.
const SHELF_TITLE: f64 = 80.0;
/// Height of the line above the furniture of a storey.
const STOREY_TITLE: f64 = 260.0;
/// Space between pieces of furniture.
const FURNITURE_GAP: f64 = 160.0;
/// Most boards side by side that are on no known shelf.
const BOARDS_A_ROW: usize = 8;
/// Width of the plan in relation to its height.
const ASPECT: f64 = 1.6;
/// Lengths of a layout beyond this are errors, which would make everything else invisible.
const LONGEST: f64 = 100_000.0;

/// A rectangle. `x` and `y` are its upper left corner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PlanRect {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

impl PlanRect {
    /// Returns true if the two have an area in common.
    #[cfg(test)]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.x < other.x + other.w
            && other.x < self.x + self.w
            && self.y < other.y + other.h
            && other.y < self.y + self.h
    }

    /// Returns true if `other` lies within.
    #[cfg(test)]
    pub fn contains(&self, other: &Self) -> bool {
        self.x <= other.x
            && self.y <= other.y
            && other.x + other.w <= self.x + self.w
            && other.y + other.h <= self.y + self.h
    }
}

/// A rectangle with a title.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TitledRect {
    /// Title for people.
    pub title: String,
    /// Its place.
    #[serde(flatten)]
    pub rect: PlanRect,
}

/// A board on the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanBoard {
    /// Serial number.
    pub sn: String,
    /// Corner with the least x and y of the board, on the plan.
    pub x: f64,
    /// See `x`.
    pub y: f64,
    /// Width.
    pub w: f64,
    /// Depth.
    pub h: f64,
    /// Rotation around the corner, degrees, counter-clockwise.
    pub r: f64,
    /// Shelf in words.
    pub shelf: String,
    /// Furniture in words.
    pub furniture: String,
}

/// The whole plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MapPlan {
    /// Width.
    pub w: f64,
    /// Height.
    pub h: f64,
    /// True if some boards are placed by an imported layout.
    pub is_imported: bool,
    /// Lines above the furniture of a storey. Empty if there is one storey.
    pub storeys: Vec<TitledRect>,
    /// Furniture, without overlap.
    pub furniture: Vec<TitledRect>,
    /// Shelves, each within its furniture.
    pub shelves: Vec<TitledRect>,
    /// Boards.
    pub boards: Vec<PlanBoard>,
    /// Named locations, each on its shelf.
    pub locations: Vec<TitledRect>,
}

/// Board and shelf that items name for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KnownBoard {
    /// Shelf that its newest item named.
    pub place: Option<ShelfPlace>,
    /// Size that contains all positions seen.
    pub size: (i32, i32),
}

/// A shelf before it has its place: coordinates are relative to its upper left corner.
struct ShelfDraft {
    title: String,
    level: Option<i32>,
    size: (f64, f64),
    boards: Vec<PlanBoard>,
    locations: Vec<TitledRect>,
}

/// A furniture before it has its place.
#[derive(Default)]
struct FurnitureDraft {
    title: String,
    storey: String,
    corner: (f64, f64),
    shelves: Vec<ShelfDraft>,
}

impl MapPlan {
    /// Places all boards of the layout and all known ones.
    pub fn new(layout: &SiteLayout, known: &BTreeMap<String, KnownBoard>) -> Self {
        let mut drafts: BTreeMap<Option<String>, FurnitureDraft> = BTreeMap::new();
        for furniture in &layout.furniture {
            let draft = drafts.entry(Some(furniture.sn.clone())).or_default();
            draft.title = furniture.name.clone().unwrap_or_else(|| furniture.sn.clone());
            draft.storey = furniture.storey.clone().unwrap_or_default();
            draft.corner = (length(furniture.corner.0), length(furniture.corner.1));
        }
        for shelf in &layout.shelves {
            let draft = drafts.entry(shelf.furniture_sn.clone()).or_default();
            draft.shelves.push(layout_shelf(layout, shelf, known));
        }
        let placed: BTreeSet<_> = layout.boards.iter().map(|board| board.sn.as_str()).collect();
        for (place, boards) in other_boards(known, &placed) {
            let furniture = place.as_ref().and_then(|place| place.furniture_sn.clone());
            let draft = drafts.entry(furniture).or_default();
            draft.shelves.push(tidy_shelf(place.as_ref(), layout, &boards));
        }
        drafts.retain(|_, draft| !draft.shelves.is_empty());
        let is_imported = !layout.boards.is_empty();
        let mut plan = Self { is_imported, ..Self::default() };
        plan.arrange(drafts);
        plan
    }

    fn arrange(&mut self, drafts: BTreeMap<Option<String>, FurnitureDraft>) {
        let mut storeys: BTreeMap<String, Vec<FurnitureDraft>> = BTreeMap::new();
        let mut area = 0.0;
        for (sn, mut draft) in drafts {
            if draft.title.is_empty() {
                draft.title = sn.unwrap_or_else(|| "Other boards".to_owned());
            }
            // The highest shelf comes first. The sort keeps the order of serial numbers.
            draft.shelves.sort_by_key(|shelf| std::cmp::Reverse(shelf.level));
            let (w, h) = draft.size();
            area += (w + FURNITURE_GAP) * (h + FURNITURE_GAP);
            storeys.entry(draft.storey.clone()).or_default().push(draft);
        }
        let width = (area * ASPECT).sqrt();
        let titled = storeys.len() > 1;
        let mut y = 0.0;
        for (storey, mut furniture) in storeys {
            furniture.sort_by(|a, b| {
                let key = |draft: &FurnitureDraft| (draft.corner.1, draft.corner.0);
                key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal)
            });
            if titled {
                let title = if storey.is_empty() { "Elsewhere".to_owned() } else { storey };
                let rect = PlanRect { x: 0.0, y, w: width, h: STOREY_TITLE };
                self.storeys.push(TitledRect { title, rect });
                y += STOREY_TITLE;
            }
            y = self.arrange_rows(furniture, y, width);
        }
        self.h = (y - FURNITURE_GAP).max(0.0);
    }

    /// Places furniture in rows from `y` on. Returns the start of the next row.
    fn arrange_rows(&mut self, furniture: Vec<FurnitureDraft>, mut y: f64, width: f64) -> f64 {
        let (mut x, mut row) = (0.0, 0.0_f64);
        for draft in furniture {
            let (w, h) = draft.size();
            if x > 0.0 && x + w > width {
                (x, y) = (0.0, y + row + FURNITURE_GAP);
                row = 0.0;
            }
            self.place(draft, PlanRect { x, y, w, h });
            row = row.max(h);
            self.w = self.w.max(x + w);
            x += w + FURNITURE_GAP;
        }
        y + row + FURNITURE_GAP
    }

    fn place(&mut self, draft: FurnitureDraft, rect: PlanRect) {
        let (x, mut y) = (rect.x + PADDING, rect.y + FURNITURE_TITLE);
        for shelf in draft.shelves {
            y += SHELF_TITLE;
            let (w, h) = shelf.size;
            for mut board in shelf.boards {
                (board.x, board.y) = (round(board.x + x), round(board.y + y));
                board.furniture.clone_from(&draft.title);
                self.boards.push(board);
            }
            for mut location in shelf.locations {
                location.rect.x = round(location.rect.x + x);
                location.rect.y = round(location.rect.y + y);
                self.locations.push(location);
            }
            self.shelves.push(TitledRect { title: shelf.title, rect: PlanRect { x, y, w, h } });
            y += h + PADDING;
        }
        self.furniture.push(TitledRect { title: draft.title, rect });
    }
}

impl FurnitureDraft {
    fn size(&self) -> (f64, f64) {
        let width = self.shelves.iter().map(|shelf| shelf.size.0).fold(0.0, f64::max);
        let heights = self.shelves.iter().map(|shelf| SHELF_TITLE + shelf.size.1 + PADDING);
        (width + 2.0 * PADDING, FURNITURE_TITLE + heights.sum::<f64>())
    }
}

/// A shelf outside of the layout, and its boards.
type OtherShelf<'a> = (Option<ShelfPlace>, Vec<(&'a str, &'a KnownBoard)>);

/// Returns the boards outside of the layout, by shelf.
fn other_boards<'a>(
    known: &'a BTreeMap<String, KnownBoard>,
    placed: &BTreeSet<&str>,
) -> Vec<OtherShelf<'a>> {
    let mut shelves: BTreeMap<_, OtherShelf<'_>> = BTreeMap::new();
    for (sn, board) in known.iter().filter(|(sn, _)| !placed.contains(sn.as_str())) {
        let key = board.place.as_ref().map(|place| (&place.furniture_sn, &place.shelf_sn));
        let shelf = shelves.entry(key).or_insert_with(|| (board.place.clone(), Vec::new()));
        shelf.1.push((sn.as_str(), board));
    }
    shelves.into_values().collect()
}

/// Places boards side by side.
fn tidy_shelf(
    place: Option<&ShelfPlace>,
    layout: &SiteLayout,
    known: &[(&str, &KnownBoard)],
) -> ShelfDraft {
    let in_layout = |place: &ShelfPlace| layout.shelves.iter().any(|s| s.sn == place.shelf_sn);
    let title = match place {
        Some(place) if in_layout(place) => format!("{} (not in the layout)", place.shelf_sn),
        Some(place) => place.shelf_sn.clone(),
        None => "No shelf known".to_owned(),
    };
    let (mut boards, mut size) = (Vec::new(), (0.0_f64, 0.0_f64));
    for row in known.chunks(BOARDS_A_ROW) {
        let depth = row.iter().map(|(_, board)| f64::from(board.size.1)).fold(0.0, f64::max);
        let top = if size.1 > 0.0 { size.1 + BOARD_GAP } else { 0.0 };
        let mut x = 0.0;
        for (sn, board) in row {
            let (w, h) = (f64::from(board.size.0), f64::from(board.size.1));
            boards.push(draft_board(sn, (x, top + depth), (w, h), 0.0, &title));
            size.0 = size.0.max(x + w);
            x += w + BOARD_GAP;
        }
        size.1 = top + depth;
    }
    let level = place.and_then(|place| place.level);
    ShelfDraft { title: shelf_title(&title, level), level, size, boards, locations: Vec::new() }
}

/// Places the boards and locations of a shelf as in the layout.
fn layout_shelf(
    layout: &SiteLayout,
    shelf: &LayoutShelf,
    known: &BTreeMap<String, KnownBoard>,
) -> ShelfDraft {
    let name = shelf.name.clone().unwrap_or_else(|| shelf.sn.clone());
    // Bounds of everything on the shelf, in its own coordinates: y points up.
    let (mut low, mut high) = ((0.0_f64, 0.0_f64), (length(shelf.size.0), length(shelf.size.1)));
    let mut next_x = 0.0;
    let mut boards = Vec::new();
    for board in layout.boards.iter().filter(|board| board.shelf_sn == shelf.sn) {
        let size = size_of(board, known.get(&board.sn));
        let corner = match board.corner {
            (None, None) => (next_x, 0.0),
            (x, y) => (length(x), length(y)),
        };
        let rotation = board.rotation.filter(|angle| angle.is_finite()).unwrap_or_default() % 360.0;
        for point in corners(corner, size, rotation) {
            low = (low.0.min(point.0), low.1.min(point.1));
            high = (high.0.max(point.0), high.1.max(point.1));
            next_x = f64::max(next_x, point.0 + BOARD_GAP);
        }
        boards.push(draft_board(&board.sn, corner, size, rotation, &name));
    }
    let size = ((high.0 - low.0).max(100.0), (high.1 - low.1).max(50.0));
    for board in &mut boards {
        (board.x, board.y) = (board.x - low.0, size.1 - (board.y - low.1));
    }
    let areas = layout.locations.iter().filter(|area| area.shelf_sn == shelf.sn);
    let locations = areas.filter_map(|area| {
        let (w, h) = (area.size.0?, area.size.1?);
        let (x, y) = (length(area.corner.0) - low.0, length(area.corner.1) - low.1);
        let (left, bottom) = (x.clamp(0.0, size.0), y.clamp(0.0, size.1));
        let (w, h) = (w.clamp(0.0, size.0 - left), h.clamp(0.0, size.1 - bottom));
        let rect = PlanRect { x: left, y: size.1 - bottom - h, w: round(w), h: round(h) };
        Some(TitledRect { title: area.loc_reference.clone(), rect })
    });
    let locations = locations.collect();
    let title = shelf_title(&name, shelf.level);
    ShelfDraft { title, level: shelf.level, size, boards, locations }
}

fn draft_board(
    sn: &str,
    corner: (f64, f64),
    size: (f64, f64),
    rotation: f64,
    shelf: &str,
) -> PlanBoard {
    PlanBoard {
        sn: sn.to_owned(),
        x: corner.0,
        y: corner.1,
        w: round(size.0),
        h: round(size.1),
        r: round(rotation),
        shelf: shelf.to_owned(),
        furniture: String::new(),
    }
}

/// Returns the size of a board of the layout, or of its positions where the layout has none.
fn size_of(board: &LayoutBoard, known: Option<&KnownBoard>) -> (f64, f64) {
    let seen = known.map_or(USUAL_BOARD, |known| known.size);
    let or = |size: Option<f64>, seen: i32| match length(size) {
        size if size > 0.0 => size,
        _ => f64::from(seen),
    };
    (or(board.size.0, seen.0), or(board.size.1, seen.1))
}

/// Returns the corners of a rotated board on its shelf.
fn corners((x, y): (f64, f64), (w, h): (f64, f64), rotation: f64) -> [(f64, f64); 4] {
    let (sin, cos) = rotation.to_radians().sin_cos();
    let turn = |(a, b): (f64, f64)| (x + cos * a - sin * b, y + sin * a + cos * b);
    [(0.0, 0.0), (w, 0.0), (0.0, h), (w, h)].map(turn)
}

fn shelf_title(name: &str, level: Option<i32>) -> String {
    level.map_or_else(|| name.to_owned(), |level| format!("{name} · level {level}"))
}

fn length(value: Option<f64>) -> f64 {
    value.filter(|v| v.is_finite()).unwrap_or_default().clamp(-LONGEST, LONGEST)
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
