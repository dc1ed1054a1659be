//! The documented fields, their names in each format, and where a decoded value goes. Both
//! formats fill one [`EventDraft`], so that one set of rules makes the row.

use std::borrow::Cow;

use super::bounded::{Coordinates, ExtraKeys, LabelList, MAX_KEYS, MAX_TEXT_BYTES};
use super::go_time::Moment;

/// A documented field, by the shape of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventField {
    Text(TextField),
    Time(TimeField),
    Int(IntField),
    Flag(FlagField),
    Position(PositionField),
    Labels(LabelsField),
    HoldTime,
    FillRatio,
}

/// Single strings. The discriminant is the place in [`EventDraft::texts`]; so for the enums below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextField {
    Uid,
    BoardSn,
    ProductReference,
    ShelfSn,
    FurnitureSn,
    Tenant,
    LocReference,
    Status,
    FwVersion,
}

/// Points in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeField {
    Momentum,
    LastConnection,
    LastDisconnection,
    LastError,
}

/// Whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntField {
    NbHits,
    Floor,
}

/// Truth values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlagField {
    IsIn,
    IsInterpolated,
}

/// Positions in millimetres, on the thing named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PositionField {
    Board,
    Shelf,
    Floor,
}

/// Lists of strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelsField {
    Location,
    Item,
}

/// The names of [`EventDraft::positions`], in order; `extra` keeps whole lists under them.
pub(super) const POSITION_NAMES: [&str; 3] = ["pos_mm", "pos_on_shelf_mm", "pos_on_floor_mm"];

/// Documented names, each with its field.
pub(super) type FieldNames = [(&'static str, EventField)];

/// Item events, protobuf and JSON alike.
pub(super) const ITEM: &FieldNames = &[
    ("momentum", EventField::Time(TimeField::Momentum)),
    ("uid", EventField::Text(TextField::Uid)),
    ("is_in", EventField::Flag(FlagField::IsIn)),
    ("pos_mm", EventField::Position(PositionField::Board)),
    ("board_sn", EventField::Text(TextField::BoardSn)),
    ("nb_hits", EventField::Int(IntField::NbHits)),
    ("hold_time", EventField::HoldTime),
    ("fill_ratio", EventField::FillRatio),
    ("product_reference", EventField::Text(TextField::ProductReference)),
    ("shelf_sn", EventField::Text(TextField::ShelfSn)),
    ("furniture_sn", EventField::Text(TextField::FurnitureSn)),
    ("pos_on_shelf_mm", EventField::Position(PositionField::Shelf)),
    ("tenant", EventField::Text(TextField::Tenant)),
    ("loc_reference", EventField::Text(TextField::LocReference)),
    ("loc_labels", EventField::Labels(LabelsField::Location)),
    ("item_labels", EventField::Labels(LabelsField::Item)),
    ("pos_on_floor_mm", EventField::Position(PositionField::Floor)),
    ("floor", EventField::Int(IntField::Floor)),
    ("is_interpolated", EventField::Flag(FlagField::IsInterpolated)),
];

/// Board events in protobuf. `board_sn` is what a schema may well call `sn`; where both exist, the
/// first counts.
pub(super) const BOARD: &FieldNames = &[
    ("momentum", EventField::Time(TimeField::Momentum)),
    ("sn", EventField::Text(TextField::BoardSn)),
    ("board_sn", EventField::Text(TextField::BoardSn)),
    ("status", EventField::Text(TextField::Status)),
    ("fw_version", EventField::Text(TextField::FwVersion)),
    ("last_connection_date", EventField::Time(TimeField::LastConnection)),
    ("last_disconnection_date", EventField::Time(TimeField::LastDisconnection)),
    ("last_error_date", EventField::Time(TimeField::LastError)),
];

/// Board events in JSON.
pub(super) const BOARD_JSON: &FieldNames = &[
    ("Momentum", EventField::Time(TimeField::Momentum)),
    ("BoardSN", EventField::Text(TextField::BoardSn)),
    ("Status", EventField::Text(TextField::Status)),
    ("FwVersion", EventField::Text(TextField::FwVersion)),
    ("LastConnectionDate", EventField::Time(TimeField::LastConnection)),
    ("LastDisconnectionDate", EventField::Time(TimeField::LastDisconnection)),
    ("LastErrorDate", EventField::Time(TimeField::LastError)),
];

/// The name under which a field is documented.
pub(super) fn name_of(names: &FieldNames, field: EventField) -> &'static str {
    names.iter().find(|(_, known)| *known == field).map_or("", |(name, _)| name)
}

/// What a message said, before the rules of the tables apply. Texts borrow from the message; an
/// empty one is an absent one.
#[derive(Debug, Default)]
pub(super) struct EventDraft<'a> {
    pub(super) texts: [Cow<'a, str>; 9],
    pub(super) times: [Option<Moment>; 4],
    pub(super) ints: [Option<i32>; 2],
    pub(super) flags: [Option<bool>; 2],
    pub(super) positions: [Coordinates; 3],
    pub(super) labels: [LabelList; 2],
    pub(super) hold_time: Option<Moment>,
    pub(super) fill_ratio: Option<f32>,
    /// The message held a field that no column takes.
    pub(super) unknown: bool,
    /// Keys of the JSON object, repeated ones counted as well.
    pub(super) keys: usize,
    /// JSON keys that no column takes.
    pub(super) extra: ExtraKeys,
}

impl<'a> EventDraft<'a> {
    pub(super) fn text(&self, text: TextField) -> &str {
        &self.texts[text as usize]
    }

    pub(super) fn set_text(&mut self, text: TextField, value: Cow<'a, str>) {
        self.texts[text as usize] = value;
    }

    /// The text as a column: an empty one is NULL.
    pub(super) fn take_text(&mut self, text: TextField) -> Option<String> {
        let value = std::mem::take(&mut self.texts[text as usize]);
        (!value.is_empty()).then(|| value.into_owned())
    }

    /// Whether nothing exceeds its maximum.
    #[inline]
    pub(super) fn fits(&self) -> bool {
        self.texts.iter().all(|text| text.len() <= MAX_TEXT_BYTES)
            && self.positions.iter().all(Coordinates::fits)
            && self.labels.iter().all(LabelList::fits)
            && self.keys <= MAX_KEYS
            && self.extra.fits()
    }

    pub(super) fn time(&self, time: TimeField) -> Option<Moment> {
        self.times[time as usize]
    }

    pub(super) fn position(&self, position: PositionField) -> &Coordinates {
        &self.positions[position as usize]
    }
}
