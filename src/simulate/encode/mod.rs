//! Encodes a simulated event as the vendor's platform does: the topic, and the payload in protobuf
//! or in Go's JSON.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost_types::{Duration, Timestamp};

use super::catalog::{CatalogBoard, CatalogItem, SiteCatalog};
use super::event::{BoardChange, EncodingQuirks, FieldMask, ItemMove, SimulatedEvent};
use super::go_json::GoObject;
use super::wire;

const NS: i64 = 1_000_000_000;
/// Seconds from the Unix epoch back to Go's zero time, 0001-01-01T00:00:00Z.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;
/// Size of the blocks from which payloads are cut, so that not every payload is an allocation.
const BLOCK: usize = 64 * 1024;

/// A payload format of the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadFormat {
    /// Protobuf with the assumed field numbers.
    Protobuf,
    /// JSON as Go writes it.
    Json,
}

/// The formats of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FormatChoice {
    /// Publish each event in protobuf only.
    Protobuf,
    /// Publish each event in JSON only.
    Json,
    /// Publish each event in both formats.
    Both,
}

impl FormatChoice {
    /// Returns the formats in the order of publication.
    pub fn formats(self) -> &'static [PayloadFormat] {
        match self {
            Self::Protobuf => &[PayloadFormat::Protobuf],
            Self::Json => &[PayloadFormat::Json],
            Self::Both => &[PayloadFormat::Protobuf, PayloadFormat::Json],
        }
    }
}

/// The four topics of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantTopics {
    item_protobuf: Arc<str>,
    item_json: Arc<str>,
    board_protobuf: Arc<str>,
    board_json: Arc<str>,
}

impl TenantTopics {
    /// Returns the topics of this tenant.
    pub fn new(tenant: &str) -> Self {
        Self {
            item_protobuf: format!("centiloc/{tenant}").into(),
            item_json: format!("centiloc/{tenant}/json/item/v1/update").into(),
            board_protobuf: format!("centiloc/{tenant}/proto/board/v1/update").into(),
            board_json: format!("centiloc/{tenant}/json/board/v1/update").into(),
        }
    }

    /// Returns the topic of this event in this format.
    pub fn of(&self, event: &SimulatedEvent, format: PayloadFormat) -> &Arc<str> {
        match (event, format) {
            (SimulatedEvent::Item(_), PayloadFormat::Protobuf) => &self.item_protobuf,
            (SimulatedEvent::Item(_), PayloadFormat::Json) => &self.item_json,
            (SimulatedEvent::Board(_), PayloadFormat::Protobuf) => &self.board_protobuf,
            (SimulatedEvent::Board(_), PayloadFormat::Json) => &self.board_json,
        }
    }
}

/// An encoder that keeps its buffers between events.
#[derive(Debug, Default)]
pub struct EventEncoder {
    block: BytesMut,
    text: String,
    item: wire::ItemMessage,
    board: wire::BoardMessage,
}

impl EventEncoder {
    /// Encodes the payload of an event.
    pub fn encode(
        &mut self,
        catalog: &SiteCatalog,
        event: &SimulatedEvent,
        format: PayloadFormat,
    ) -> Bytes {
        match (event, format) {
            (SimulatedEvent::Item(event), PayloadFormat::Protobuf) => {
                fill_item(&mut self.item, catalog, event);
                cut(&mut self.block, &self.item)
            }
            (SimulatedEvent::Board(event), PayloadFormat::Protobuf) => {
                fill_board(&mut self.board, catalog, event);
                cut(&mut self.block, &self.board)
            }
            (SimulatedEvent::Item(event), PayloadFormat::Json) => {
                self.text.clear();
                write_item(&mut self.text, catalog, event);
                self.cut_text()
            }
            (SimulatedEvent::Board(event), PayloadFormat::Json) => {
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
    // Unwrap safety: the block has just been enlarged.
    message.encode(block).expect("the block has room for the message");
    block.split().freeze()
}

fn reserve(block: &mut BytesMut, length: usize) {
    if block.capacity() < length {
        block.reserve(length.max(BLOCK));
    }
}

/// The values of an item event in both formats, with its mask applied.
struct ItemView<'a> {
    event: &'a ItemMove,
    board: &'a CatalogBoard,
    item: &'a CatalogItem,
    catalog: &'a SiteCatalog,
}

impl<'a> ItemView<'a> {
    fn new(catalog: &'a SiteCatalog, event: &'a ItemMove) -> Self {
        let board = &catalog.boards[event.board as usize];
        let item = &catalog.items[event.item as usize];
        Self { event, board, item, catalog }
    }

    fn shows(&self, fields: FieldMask) -> bool {
        !self.event.quirks.masked.hides(fields)
    }

    fn text<'t>(&self, fields: FieldMask, value: &'t str) -> &'t str {
        if self.shows(fields) { value } else { "" }
    }

    fn number(&self, fields: FieldMask, value: i32) -> i32 {
        if self.shows(fields) { value } else { 0 }
    }

    fn fill_ratio(&self) -> f32 {
        if self.shows(FieldMask::MEASUREMENTS) { self.event.fill_ratio } else { 0.0 }
    }

    fn hold_ns(&self) -> Option<i64> {
        self.shows(FieldMask::HOLD_TIME).then_some(self.event.hold_ns)
    }

    fn labels<'t>(&self, labels: &'t [String]) -> &'t [String] {
        if self.shows(FieldMask::LABELS) { labels } else { &[] }
    }

    fn on_board(&self) -> Option<[i32; 2]> {
        self.shows(FieldMask::POSITIONS).then_some(self.event.pos_mm)
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

fn fill_item(out: &mut wire::ItemMessage, catalog: &SiteCatalog, event: &ItemMove) {
    let view = ItemView::new(catalog, event);
    out.momentum = Some(timestamp(event.momentum_ns));
    set(&mut out.uid, &view.item.uid);
    out.is_in = event.is_in;
    set_position(&mut out.pos_mm, view.on_board());
    set(&mut out.board_sn, &view.board.sn);
    out.nb_hits = view.number(FieldMask::MEASUREMENTS, event.nb_hits);
    out.hold_time = view.hold_ns().map(duration);
    out.fill_ratio = view.fill_ratio();
    set(&mut out.product_reference, view.text(FieldMask::PRODUCT, &view.item.product_reference));
    set(&mut out.shelf_sn, view.text(FieldMask::FURNITURE, &view.board.shelf_sn));
    set(&mut out.furniture_sn, view.text(FieldMask::FURNITURE, &view.board.furniture_sn));
    set_position(&mut out.pos_on_shelf_mm, view.on_shelf());
    set(&mut out.tenant, view.text(FieldMask::TENANT, &catalog.tenant));
    set(&mut out.loc_reference, view.text(FieldMask::LOCATION, &view.board.loc_reference));
    set_labels(&mut out.loc_labels, view.labels(&view.board.loc_labels));
    set_labels(&mut out.item_labels, view.labels(&view.item.labels));
    set_position(&mut out.pos_on_floor_mm, view.on_floor());
    out.floor = view.number(FieldMask::FURNITURE, view.board.floor);
    out.is_interpolated = event.is_interpolated;
}

fn write_item(out: &mut String, catalog: &SiteCatalog, event: &ItemMove) {
    let view = ItemView::new(catalog, event);
    let quirks = event.quirks;
    let mut object = GoObject::new(out);
    object.time("momentum", Some(event.momentum_ns), quirks.offset_minutes);
    object.string("uid", &view.item.uid);
    object.bool("is_in", event.is_in);
    object.ints("pos_mm", list(view.on_board().as_ref(), quirks));
    object.string("board_sn", &view.board.sn);
    object.int("nb_hits", i64::from(view.number(FieldMask::MEASUREMENTS, event.nb_hits)));
    object.int("hold_time", view.hold_ns().unwrap_or(0));
    object.float32("fill_ratio", view.fill_ratio());
    object.string("product_reference", view.text(FieldMask::PRODUCT, &view.item.product_reference));
    object.string("shelf_sn", view.text(FieldMask::FURNITURE, &view.board.shelf_sn));
    object.string("furniture_sn", view.text(FieldMask::FURNITURE, &view.board.furniture_sn));
    object.ints("pos_on_shelf_mm", list(view.on_shelf().as_ref(), quirks));
    object.string("tenant", view.text(FieldMask::TENANT, &view.catalog.tenant));
    object.string("loc_reference", view.text(FieldMask::LOCATION, &view.board.loc_reference));
    object.strings("loc_labels", labels(view.labels(&view.board.loc_labels), quirks));
    object.strings("item_labels", labels(view.labels(&view.item.labels), quirks));
    object.ints("pos_on_floor_mm", list(view.on_floor().as_ref(), quirks));
    object.int("floor", i64::from(view.number(FieldMask::FURNITURE, view.board.floor)));
    object.bool("is_interpolated", event.is_interpolated);
    object.close();
}

fn fill_board(out: &mut wire::BoardMessage, catalog: &SiteCatalog, event: &BoardChange) {
    let board = &catalog.boards[event.board as usize];
    let date = |ns: Option<i64>| match ns {
        Some(ns) => Some(timestamp(ns)),
        None if event.quirks.zero_dates => Some(Timestamp { seconds: GO_ZERO_SECONDS, nanos: 0 }),
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

fn write_board(out: &mut String, catalog: &SiteCatalog, event: &BoardChange) {
    let board = &catalog.boards[event.board as usize];
    let zone = event.quirks.offset_minutes;
    let mut object = GoObject::new(out);
    object.time("Momentum", Some(event.momentum_ns), zone);
    object.string("BoardSN", &board.sn);
    if event.quirks.prefixed_status {
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

/// Returns the list of a position. An absent position is nil, or empty with that variation.
fn list(position: Option<&[i32; 2]>, quirks: EncodingQuirks) -> Option<&[i32]> {
    match position {
        Some(position) => Some(position),
        None => quirks.empty_lists.then_some(&[]),
    }
}

fn labels(labels: &[String], quirks: EncodingQuirks) -> Option<&[String]> {
    (!labels.is_empty() || quirks.empty_lists).then_some(labels)
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

/// Converts nanoseconds of less than one second, of either sign.
fn nanos(rest: i64) -> i32 {
    i32::try_from(rest).unwrap_or(0)
}

#[cfg(test)]
mod tests;
