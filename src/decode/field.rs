//! The documented fields by the shape of their values, and their places in the draft. Both formats fill
//! one [`EventDraft`], so that one set of rules makes the row.
//!
//! To add a field, add it to the enum of its shape here, and to the table and the row of its kind in
//! [`super::kinds`].

use std::borrow::Cow;

use super::bounded::{Coordinates, ExtraKeys, LabelList, MAX_KEYS, MAX_TEXT_BYTES};
use super::go_time::Moment;

/// Defines the fields of one shape. The discriminant of a field is its index in the draft.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($field:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name {
            $($field),+
        }

        impl $name {
            /// Number of fields of this shape.
            pub(super) const COUNT: usize = [$(Self::$field),+].len();
        }
    };
}

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

fields! {
    /// Fields that are single strings.
    TextField { Uid, BoardSn, ProductReference, ShelfSn, FurnitureSn, Tenant, LocReference, Status, FwVersion }
}

fields! {
    /// Fields that are points in time.
    TimeField { Momentum, LastConnection, LastDisconnection, LastError }
}

fields! {
    /// Fields that are whole numbers.
    IntField { NbHits, Floor }
}

fields! {
    /// Fields that are booleans.
    FlagField { IsIn, IsInterpolated }
}

fields! {
    /// Positions in millimetres, each on the thing that names it.
    PositionField { Board, Shelf, Floor }
}

fields! {
    /// Fields that are lists of strings.
    LabelsField { Location, Item }
}

/// Names of [`EventDraft::positions`], in order. `extra` keeps lists that are not a pair under them.
pub(super) const POSITION_NAMES: [&str; PositionField::COUNT] =
    ["pos_mm", "pos_on_shelf_mm", "pos_on_floor_mm"];

/// A table of documented names, each with its field.
pub(super) type FieldNames = [(&'static str, EventField)];

/// Returns the documented name of a field.
pub(super) fn name_of(names: &FieldNames, field: EventField) -> &'static str {
    names.iter().find(|(_, known)| *known == field).map_or("", |(name, _)| name)
}

/// The values of a message, before the rules of the tables apply. Texts borrow from the message. An
/// empty text is absent.
#[derive(Debug, Default)]
pub(super) struct EventDraft<'a> {
    pub(super) texts: [Cow<'a, str>; TextField::COUNT],
    pub(super) times: [Option<Moment>; TimeField::COUNT],
    pub(super) ints: [Option<i32>; IntField::COUNT],
    pub(super) flags: [Option<bool>; FlagField::COUNT],
    pub(super) positions: [Coordinates; PositionField::COUNT],
    pub(super) labels: [LabelList; LabelsField::COUNT],
    pub(super) hold_time: Option<Moment>,
    pub(super) fill_ratio: Option<f32>,
    /// The message has a field without a column.
    pub(super) unknown: bool,
    /// Number of keys of the JSON object, with repeated ones.
    pub(super) keys: usize,
    /// JSON keys without a column.
    pub(super) extra: ExtraKeys,
}

impl<'a> EventDraft<'a> {
    pub(super) fn text(&self, text: TextField) -> &str {
        &self.texts[text as usize]
    }

    pub(super) fn set_text(&mut self, text: TextField, value: Cow<'a, str>) {
        self.texts[text as usize] = value;
    }

    /// Takes a text for a column, in which an empty text is NULL.
    pub(super) fn take_text(&mut self, text: TextField) -> Option<String> {
        let value = std::mem::take(&mut self.texts[text as usize]);
        (!value.is_empty()).then(|| value.into_owned())
    }

    /// Returns true if no part exceeds its maximum.
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
