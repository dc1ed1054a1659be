//! Writes a happening as the vendor's platform would: the topic, and the bytes in protobuf or in
//! Go's JSON.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost_types::{Duration, Timestamp};

use super::catalog::{Board, Catalog, Item};
use super::go_json::GoObject;
use super::happening::{BoardChange, Habits, Happening, ItemMove, Mask};
use super::wire;

const NS: i64 = 1_000_000_000;
/// Seconds from the Unix epoch back to Go's zero time, 0001-01-01T00:00:00Z.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;
/// Payloads are cut from blocks of this size, so that not each one is an allocation.
const BLOCK: usize = 64 * 1024;

/// A format the vendor publishes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Protobuf with the assumed numbers.
    Protobuf,
    /// JSON.
    Json,
}

/// Which formats a run publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FormatChoice {
    /// Protobuf only.
    Protobuf,
    /// JSON only.
    Json,
    /// Each event in both.
    Both,
}

impl FormatChoice {
    /// In the order of publication.
    pub fn formats(self) -> &'static [Format] {
        match self {
            Self::Protobuf => &[Format::Protobuf],
            Self::Json => &[Format::Json],
            Self::Both => &[Format::Protobuf, Format::Json],
        }
    }
}

/// The four topics of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    item_protobuf: Arc<str>,
    item_json: Arc<str>,
    board_protobuf: Arc<str>,
    board_json: Arc<str>,
}

impl Topics {
    /// Of this tenant.
    pub fn new(tenant: &str) -> Self {
        Self {
            item_protobuf: format!("centiloc/{tenant}").into(),
            item_json: format!("centiloc/{tenant}/json/item/v1/update").into(),
            board_protobuf: format!("centiloc/{tenant}/proto/board/v1/update").into(),
            board_json: format!("centiloc/{tenant}/json/board/v1/update").into(),
        }
    }

    /// Where this happening is published in this format.
    pub fn of(&self, happening: &Happening, format: Format) -> &Arc<str> {
        match (happening, format) {
            (Happening::Item(_), Format::Protobuf) => &self.item_protobuf,
            (Happening::Item(_), Format::Json) => &self.item_json,
            (Happening::Board(_), Format::Protobuf) => &self.board_protobuf,
            (Happening::Board(_), Format::Json) => &self.board_json,
        }
    }
}

/// Encodes; keeps its buffers between events.
#[derive(Debug, Default)]
pub struct Encoder {
    block: BytesMut,
    text: String,
    item: wire::Item,
    board: wire::Board,
}

impl Encoder {
    /// The payload of a happening.
    pub fn encode(&mut self, catalog: &Catalog, happening: &Happening, format: Format) -> Bytes {
        match (happening, format) {
            (Happening::Item(event), Format::Protobuf) => {
                fill_item(&mut self.item, catalog, event);
                cut(&mut self.block, &self.item)
            }
            (Happening::Board(event), Format::Protobuf) => {
                fill_board(&mut self.board, catalog, event);
                cut(&mut self.block, &self.board)
            }
            (Happening::Item(event), Format::Json) => {
                self.text.clear();
                write_item(&mut self.text, catalog, event);
                self.cut_text()
            }
            (Happening::Board(event), Format::Json) => {
                self.text.clear();
                write_board(&mut self.text, catalog, event);
                self.cut_text()
            }
        }
    }

    fn cut_text(&mut self) -> Bytes {
        reserve(&mut self.block, self.text.len());
        self.block.extend_from_slice(self.text.as_bytes());
        self.block.split().freeze()
    }
}

fn cut(block: &mut BytesMut, message: &impl prost::Message) -> Bytes {
    reserve(block, message.encoded_len());
    // Unwrap safety: the room was just made.
    message.encode(block).expect("the block has room for the message");
    block.split().freeze()
}

fn reserve(block: &mut BytesMut, length: usize) {
    if block.capacity() < length {
        block.reserve(length.max(BLOCK));
    }
}

/// An item event with its mask applied: what both formats say.
struct View<'a> {
    event: &'a ItemMove,
    board: &'a Board,
    item: &'a Item,
    catalog: &'a Catalog,
}

impl<'a> View<'a> {
    fn new(catalog: &'a Catalog, event: &'a ItemMove) -> Self {
        let board = &catalog.boards[event.board as usize];
        let item = &catalog.items[event.item as usize];
        Self { event, board, item, catalog }
    }

    fn shows(&self, fields: Mask) -> bool {
        !self.event.habits.masked.hides(fields)
    }

    fn text<'t>(&self, fields: Mask, value: &'t str) -> &'t str {
        if self.shows(fields) { value } else { "" }
    }

    fn number(&self, fields: Mask, value: i32) -> i32 {
        if self.shows(fields) { value } else { 0 }
    }

    fn fill_ratio(&self) -> f32 {
        if self.shows(Mask::FIGURES) { self.event.fill_ratio } else { 0.0 }
    }

    fn hold_ns(&self) -> Option<i64> {
        self.shows(Mask::HOLD_TIME).then_some(self.event.hold_ns)
    }

    fn labels<'t>(&self, labels: &'t [String]) -> &'t [String] {
        if self.shows(Mask::LABELS) { labels } else { &[] }
    }

    fn on_board(&self) -> Option<[i32; 2]> {
        self.shows(Mask::POSITIONS).then_some(self.event.pos_mm)
    }

    fn on_shelf(&self) -> Option<[i32; 2]> {
        let [x, y] = self.on_board()?;
        Some([x + self.board.shelf_offset_mm, y])
    }

    fn on_floor(&self) -> Option<[i32; 2]> {
        let [x, y] = self.on_shelf()?;
        let [left, front] = self.board.floor_offset_mm?;
        Some([left + x, front + y])
    }
}

fn fill_item(out: &mut wire::Item, catalog: &Catalog, event: &ItemMove) {
    let view = View::new(catalog, event);
    out.momentum = Some(timestamp(event.momentum_ns));
    set(&mut out.uid, &view.item.uid);
    out.is_in = event.is_in;
    set_position(&mut out.pos_mm, view.on_board());
    set(&mut out.board_sn, &view.board.sn);
    out.nb_hits = view.number(Mask::FIGURES, event.nb_hits);
    out.hold_time = view.hold_ns().map(duration);
    out.fill_ratio = view.fill_ratio();
    set(&mut out.product_reference, view.text(Mask::PRODUCT, &view.item.product_reference));
    set(&mut out.shelf_sn, view.text(Mask::FURNITURE, &view.board.shelf_sn));
    set(&mut out.furniture_sn, view.text(Mask::FURNITURE, &view.board.furniture_sn));
    set_position(&mut out.pos_on_shelf_mm, view.on_shelf());
    set(&mut out.tenant, view.text(Mask::TENANT, &catalog.tenant));
    set(&mut out.loc_reference, view.text(Mask::LOCATION, &view.board.loc_reference));
    set_labels(&mut out.loc_labels, view.labels(&view.board.loc_labels));
    set_labels(&mut out.item_labels, view.labels(&view.item.labels));
    set_position(&mut out.pos_on_floor_mm, view.on_floor());
    out.floor = view.number(Mask::FURNITURE, view.board.floor);
    out.is_interpolated = event.is_interpolated;
}

fn write_item(out: &mut String, catalog: &Catalog, event: &ItemMove) {
    let view = View::new(catalog, event);
    let habits = event.habits;
    let mut object = GoObject::new(out);
    object.time("momentum", Some(event.momentum_ns), habits.offset_minutes);
    object.string("uid", &view.item.uid);
    object.bool("is_in", event.is_in);
    object.ints("pos_mm", list(view.on_board().as_ref(), habits));
    object.string("board_sn", &view.board.sn);
    object.int("nb_hits", i64::from(view.number(Mask::FIGURES, event.nb_hits)));
    object.int("hold_time", view.hold_ns().unwrap_or(0));
    object.float32("fill_ratio", view.fill_ratio());
    object.string("product_reference", view.text(Mask::PRODUCT, &view.item.product_reference));
    object.string("shelf_sn", view.text(Mask::FURNITURE, &view.board.shelf_sn));
    object.string("furniture_sn", view.text(Mask::FURNITURE, &view.board.furniture_sn));
    object.ints("pos_on_shelf_mm", list(view.on_shelf().as_ref(), habits));
    object.string("tenant", view.text(Mask::TENANT, &view.catalog.tenant));
    object.string("loc_reference", view.text(Mask::LOCATION, &view.board.loc_reference));
    object.strings("loc_labels", labels(view.labels(&view.board.loc_labels), habits));
    object.strings("item_labels", labels(view.labels(&view.item.labels), habits));
    object.ints("pos_on_floor_mm", list(view.on_floor().as_ref(), habits));
    object.int("floor", i64::from(view.number(Mask::FURNITURE, view.board.floor)));
    object.bool("is_interpolated", event.is_interpolated);
    object.close();
}

fn fill_board(out: &mut wire::Board, catalog: &Catalog, event: &BoardChange) {
    let board = &catalog.boards[event.board as usize];
    let date = |ns: Option<i64>| match ns {
        Some(ns) => Some(timestamp(ns)),
        None if event.habits.zero_dates => Some(Timestamp { seconds: GO_ZERO_SECONDS, nanos: 0 }),
        None => None,
    };
    out.momentum = Some(timestamp(event.momentum_ns));
    set(&mut out.sn, &board.sn);
    out.status = event.status as i32;
    set(&mut out.fw_version, &board.fw_version);
    out.last_connection_date = date(event.dates.connection_ns);
    out.last_disconnection_date = date(event.dates.disconnection_ns);
    out.last_error_date = date(event.dates.error_ns);
}

fn write_board(out: &mut String, catalog: &Catalog, event: &BoardChange) {
    let board = &catalog.boards[event.board as usize];
    let zone = event.habits.offset_minutes;
    let mut object = GoObject::new(out);
    object.time("Momentum", Some(event.momentum_ns), zone);
    object.string("BoardSN", &board.sn);
    if event.habits.prefixed_status {
        object.string("Status", &format!("BOARDSTATUS_{}", event.status.name()));
    } else {
        object.string("Status", event.status.name());
    }
    object.string("FwVersion", &board.fw_version);
    object.time("LastConnectionDate", event.dates.connection_ns, zone);
    object.time("LastDisconnectionDate", event.dates.disconnection_ns, zone);
    object.time("LastErrorDate", event.dates.error_ns, zone);
    object.close();
}

/// Absent is nil, or empty where the platform has that habit now.
fn list(position: Option<&[i32; 2]>, habits: Habits) -> Option<&[i32]> {
    match position {
        Some(position) => Some(position),
        None => habits.empty_lists.then_some(&[]),
    }
}

fn labels(labels: &[String], habits: Habits) -> Option<&[String]> {
    (!labels.is_empty() || habits.empty_lists).then_some(labels)
}

fn set(out: &mut String, value: &str) {
    out.clear();
    out.push_str(value);
}

fn set_position(out: &mut Vec<i32>, position: Option<[i32; 2]>) {
    out.clear();
    out.extend(position.into_iter().flatten());
}

fn set_labels(out: &mut Vec<String>, labels: &[String]) {
    labels.clone_into(out);
}

fn timestamp(unix_ns: i64) -> Timestamp {
    Timestamp { seconds: unix_ns.div_euclid(NS), nanos: nanos(unix_ns.rem_euclid(NS)) }
}

fn duration(ns: i64) -> Duration {
    Duration { seconds: ns / NS, nanos: nanos(ns % NS) }
}

/// Less than a second of nanoseconds, either sign.
fn nanos(rest: i64) -> i32 {
    i32::try_from(rest).unwrap_or(0)
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
