//! The documented fields, their names in each format, and where a decoded value goes. Both
//! formats fill one [`Draft`], so that one set of rules makes the row.

use std::borrow::Cow;

use super::bounded::{Coordinates, Extra, LabelList, MAX_KEYS, MAX_TEXT_BYTES};
use super::gotime::Moment;

/// A documented field, by the shape of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Text(Text),
    Time(Time),
    Int(Int),
    Flag(Flag),
    Position(Position),
    Labels(Labels),
    HoldTime,
    FillRatio,
}

/// Single strings. The discriminant is the place in [`Draft::texts`]; so for the enums below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
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
pub(super) enum Time {
    Momentum,
    LastConnection,
    LastDisconnection,
    LastError,
}

/// Whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Int {
    NbHits,
    Floor,
}

/// Truth values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    IsIn,
    IsInterpolated,
}

/// Positions in millimetres, on the thing named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    Board,
    Shelf,
    Floor,
}

/// Lists of strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Labels {
    Location,
    Item,
}

/// The names of [`Draft::positions`], in order; `extra` keeps whole lists under them.
pub(super) const POSITION_NAMES: [&str; 3] = ["pos_mm", "pos_on_shelf_mm", "pos_on_floor_mm"];

/// Names as documented, with what they mean.
pub(super) type Names = [(&'static str, Field)];

/// Item events, protobuf and JSON alike.
pub(super) const ITEM: &Names = &[
    ("momentum", Field::Time(Time::Momentum)),
    ("uid", Field::Text(Text::Uid)),
    ("is_in", Field::Flag(Flag::IsIn)),
    ("pos_mm", Field::Position(Position::Board)),
    ("board_sn", Field::Text(Text::BoardSn)),
    ("nb_hits", Field::Int(Int::NbHits)),
    ("hold_time", Field::HoldTime),
    ("fill_ratio", Field::FillRatio),
    ("product_reference", Field::Text(Text::ProductReference)),
    ("shelf_sn", Field::Text(Text::ShelfSn)),
    ("furniture_sn", Field::Text(Text::FurnitureSn)),
    ("pos_on_shelf_mm", Field::Position(Position::Shelf)),
    ("tenant", Field::Text(Text::Tenant)),
    ("loc_reference", Field::Text(Text::LocReference)),
    ("loc_labels", Field::Labels(Labels::Location)),
    ("item_labels", Field::Labels(Labels::Item)),
    ("pos_on_floor_mm", Field::Position(Position::Floor)),
    ("floor", Field::Int(Int::Floor)),
    ("is_interpolated", Field::Flag(Flag::IsInterpolated)),
];

/// Board events in protobuf. `board_sn` is what a schema may well call `sn`; where both exist, the
/// first counts.
pub(super) const BOARD: &Names = &[
    ("momentum", Field::Time(Time::Momentum)),
    ("sn", Field::Text(Text::BoardSn)),
    ("board_sn", Field::Text(Text::BoardSn)),
    ("status", Field::Text(Text::Status)),
    ("fw_version", Field::Text(Text::FwVersion)),
    ("last_connection_date", Field::Time(Time::LastConnection)),
    ("last_disconnection_date", Field::Time(Time::LastDisconnection)),
    ("last_error_date", Field::Time(Time::LastError)),
];

/// Board events in JSON.
pub(super) const BOARD_JSON: &Names = &[
    ("Momentum", Field::Time(Time::Momentum)),
    ("BoardSN", Field::Text(Text::BoardSn)),
    ("Status", Field::Text(Text::Status)),
    ("FwVersion", Field::Text(Text::FwVersion)),
    ("LastConnectionDate", Field::Time(Time::LastConnection)),
    ("LastDisconnectionDate", Field::Time(Time::LastDisconnection)),
    ("LastErrorDate", Field::Time(Time::LastError)),
];

/// The name under which a field is documented.
pub(super) fn name_of(names: &Names, field: Field) -> &'static str {
    names.iter().find(|(_, known)| *known == field).map_or("", |(name, _)| name)
}

/// What a message said, before the rules of the tables apply. Texts borrow from the message; an
/// empty one is an absent one.
#[derive(Debug, Default)]
pub(super) struct Draft<'a> {
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
    pub(super) extra: Extra,
}

impl<'a> Draft<'a> {
    pub(super) fn text(&self, text: Text) -> &str {
        &self.texts[text as usize]
    }

    pub(super) fn set_text(&mut self, text: Text, value: Cow<'a, str>) {
        self.texts[text as usize] = value;
    }

    /// The text as a column: an empty one is NULL.
    pub(super) fn take_text(&mut self, text: Text) -> Option<String> {
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

    pub(super) fn time(&self, time: Time) -> Option<Moment> {
        self.times[time as usize]
    }

    pub(super) fn position(&self, position: Position) -> &Coordinates {
        &self.positions[position as usize]
    }
}
