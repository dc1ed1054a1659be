//! Rows of the map: items, boards, the imported layout, and the history of a tag.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::store::error::DbError;
use crate::store::pg_timestamp::{optional_time_of, time_of};

/// Shelf of a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShelfPlace {
    /// Serial number of the shelf.
    pub shelf_sn: String,
    /// Serial number of the furniture.
    pub furniture_sn: Option<String>,
    /// Level of the shelf in the furniture.
    pub level: Option<i32>,
}

/// An item on a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedItem {
    /// Serial number of the board.
    pub board_sn: String,
    /// Position on the board, millimetres. `None` if the subscription masks it.
    pub position: Option<(i32, i32)>,
    /// Product that the tag is enrolled to.
    pub product: Option<String>,
    /// Named location.
    pub location: Option<String>,
    /// Momentum of the newest event.
    pub momentum: OffsetDateTime,
    /// Start of its stay on the board.
    pub entered_at: Option<OffsetDateTime>,
    /// Shelf named by the newest event.
    pub place: Option<ShelfPlace>,
}

/// A tag and where it is. `None` if it is on no board.
pub type TagPlace = (String, Option<PlacedItem>);

/// A board and its health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedBoard {
    /// Serial number of the board.
    pub board_sn: String,
    /// Newest status. `None` if it never reported one.
    pub status: Option<String>,
    /// Momentum of the newest status.
    pub status_at: Option<OffsetDateTime>,
    /// Firmware version.
    pub fw_version: Option<String>,
    /// Momentum of its newest item event.
    pub last_item_at: Option<OffsetDateTime>,
    /// True if it is silent for longer than is usual for it.
    pub is_silent: bool,
    /// Shelf that an item on it named. Read with all items only.
    pub place: Option<ShelfPlace>,
}

/// The imported layout of a site. Lengths are in millimetres, angles in degrees.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SiteLayout {
    /// All furniture.
    pub furniture: Vec<LayoutFurniture>,
    /// All shelves.
    pub shelves: Vec<LayoutShelf>,
    /// All boards.
    pub boards: Vec<LayoutBoard>,
    /// All rectangles of named locations.
    pub locations: Vec<LayoutArea>,
}

/// A row of `layout_furniture`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayoutFurniture {
    /// Serial number.
    pub sn: String,
    /// Name for people.
    pub name: Option<String>,
    /// Storey or plan on which it is.
    pub storey: Option<String>,
    /// Corner on the floor.
    pub corner: (Option<f64>, Option<f64>),
}

/// A row of `layout_shelf`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayoutShelf {
    /// Serial number.
    pub sn: String,
    /// Furniture that bears it.
    pub furniture_sn: Option<String>,
    /// Name for people.
    pub name: Option<String>,
    /// Level in the furniture.
    pub level: Option<i32>,
    /// Width and depth.
    pub size: (Option<f64>, Option<f64>),
}

/// A row of `layout_board`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayoutBoard {
    /// Serial number.
    pub sn: String,
    /// Shelf that bears it.
    pub shelf_sn: String,
    /// Corner on the shelf.
    pub corner: (Option<f64>, Option<f64>),
    /// Rotation on the shelf.
    pub rotation: Option<f64>,
    /// Width and depth.
    pub size: (Option<f64>, Option<f64>),
}

/// A row of `layout_location`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayoutArea {
    /// Named location.
    pub loc_reference: String,
    /// Shelf on which the rectangle is.
    pub shelf_sn: String,
    /// Corner on the shelf.
    pub corner: (Option<f64>, Option<f64>),
    /// Width and depth.
    pub size: (Option<f64>, Option<f64>),
}

/// A stay of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastStay {
    /// Serial number of the board. `None` if the event named none.
    pub board_sn: Option<String>,
    /// First event of the stay.
    pub entered_at: OffsetDateTime,
    /// End of the stay. `None` while it lasts.
    pub left_at: Option<OffsetDateTime>,
}

/// An item event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastMove {
    /// Time of the event.
    pub momentum: OffsetDateTime,
    /// Serial number of the board.
    pub board_sn: Option<String>,
    /// True if the item is on the board.
    pub is_in: bool,
    /// Position on the board, millimetres.
    pub position: Option<(i32, i32)>,
}

/// The newest stays and moves of a tag, newest first.
#[derive(Debug, Default)]
pub struct ItemHistory {
    /// Stays.
    pub stays: Vec<PastStay>,
    /// Moves.
    pub moves: Vec<PastMove>,
}

pub(super) fn tag_place(row: &PgRow) -> Result<TagPlace, DbError> {
    let uid = row.try_get("uid")?;
    let Some(board_sn) = row.try_get("board_sn")? else { return Ok((uid, None)) };
    let item = PlacedItem {
        board_sn,
        position: position(row)?,
        product: row.try_get("product_reference")?,
        location: row.try_get("loc_reference")?,
        momentum: time_of(row, "momentum")?,
        entered_at: optional_time_of(row, "entered_at")?,
        place: place(row)?,
    };
    Ok((uid, Some(item)))
}

fn position(row: &PgRow) -> Result<Option<(i32, i32)>, DbError> {
    Ok(row.try_get::<Option<i32>, _>("x_mm")?.zip(row.try_get("y_mm")?))
}

fn place(row: &PgRow) -> Result<Option<ShelfPlace>, DbError> {
    let Some(shelf_sn) = row.try_get("shelf_sn")? else { return Ok(None) };
    let (furniture_sn, level) = (row.try_get("furniture_sn")?, row.try_get("floor")?);
    Ok(Some(ShelfPlace { shelf_sn, furniture_sn, level }))
}

pub(super) fn reported_board(row: &PgRow) -> Result<ReportedBoard, DbError> {
    Ok(ReportedBoard {
        board_sn: row.try_get("board_sn")?,
        status: row.try_get("status")?,
        status_at: optional_time_of(row, "status_at")?,
        fw_version: row.try_get("fw_version")?,
        last_item_at: optional_time_of(row, "last_item_at")?,
        is_silent: row.try_get("is_silent")?,
        place: place(row)?,
    })
}

pub(super) fn layout_furniture(row: &PgRow) -> Result<LayoutFurniture, DbError> {
    Ok(LayoutFurniture {
        sn: row.try_get("sn")?,
        name: row.try_get("name")?,
        storey: row.try_get("storey")?,
        corner: corner(row)?,
    })
}

pub(super) fn layout_shelf(row: &PgRow) -> Result<LayoutShelf, DbError> {
    Ok(LayoutShelf {
        sn: row.try_get("sn")?,
        furniture_sn: row.try_get("furniture_sn")?,
        name: row.try_get("name")?,
        level: row.try_get("floor")?,
        size: size(row)?,
    })
}

pub(super) fn layout_board(row: &PgRow) -> Result<LayoutBoard, DbError> {
    Ok(LayoutBoard {
        sn: row.try_get("sn")?,
        shelf_sn: row.try_get("shelf_sn")?,
        corner: corner(row)?,
        rotation: row.try_get("z_rotation")?,
        size: size(row)?,
    })
}

pub(super) fn layout_area(row: &PgRow) -> Result<LayoutArea, DbError> {
    Ok(LayoutArea {
        loc_reference: row.try_get("loc_reference")?,
        shelf_sn: row.try_get("shelf_sn")?,
        corner: corner(row)?,
        size: size(row)?,
    })
}

fn corner(row: &PgRow) -> Result<(Option<f64>, Option<f64>), DbError> {
    Ok((row.try_get("x_mm")?, row.try_get("y_mm")?))
}

fn size(row: &PgRow) -> Result<(Option<f64>, Option<f64>), DbError> {
    Ok((row.try_get("width_mm")?, row.try_get("depth_mm")?))
}

pub(super) fn past_stay(row: &PgRow) -> Result<PastStay, DbError> {
    Ok(PastStay {
        board_sn: row.try_get("board_sn")?,
        entered_at: time_of(row, "entered_at")?,
        left_at: optional_time_of(row, "left_at")?,
    })
}

pub(super) fn past_move(row: &PgRow) -> Result<PastMove, DbError> {
    Ok(PastMove {
        momentum: time_of(row, "momentum")?,
        board_sn: row.try_get("board_sn")?,
        is_in: row.try_get("is_in")?,
        position: position(row)?,
    })
}
