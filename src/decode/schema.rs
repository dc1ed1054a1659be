//! Turns protobuf descriptors into the tables that drive the reader: the field and the encoding of each
//! field number. Messages and fields are found by the names of the fields.

use std::cmp::Ordering;

use prost::encoding::WireType;
use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::field::{EventDraft, EventField, FieldNames, FlagField, IntField, TextField};
use super::kinds::{self, EventTable};
use super::load::SchemaProblem;
use super::status;
use crate::event::EventKind;

/// Field numbers below this are looked up by index. Documented messages have 19 fields. Larger numbers
/// are searched for one by one.
const DIRECT: usize = 64;
/// Marks a number without an entry in [`FieldTable::direct`]. Fewer entries than this exist.
const NONE: u8 = u8::MAX;

/// The numbers and encodings of the fields of a message.
#[derive(Debug)]
pub(super) struct FieldTable {
    entries: Vec<TableEntry>,
    /// Index into `entries` by field number, or `NONE`.
    direct: [u8; DIRECT],
    /// The values of absent numbers, for the fields that the schema defines.
    ints: [Option<i32>; IntField::COUNT],
    flags: [Option<bool>; FlagField::COUNT],
    fill_ratio: Option<f32>,
    hold_time_is_number: bool,
    /// The values of absent enums.
    texts: Vec<(TextField, String)>,
}

/// One field of a message.
#[derive(Debug)]
pub(super) struct TableEntry {
    pub(super) number: u32,
    pub(super) field: EventField,
    pub(super) scalar: ScalarType,
    /// The wire type of `scalar`, as in the key of a field.
    pub(super) wire: WireType,
    /// The name in the schema.
    pub(super) name: String,
}

/// The type of a value in the schema.
#[derive(Debug)]
pub(super) enum ScalarType {
    Int(IntEncoding),
    Bool,
    Float,
    Double,
    /// `string` or `bytes`, which must hold UTF-8.
    Text,
    /// Values without the enum's prefix, by number.
    Enum(Vec<(i32, String)>),
    Timestamp,
    Duration,
}

/// The encoding of a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntEncoding {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
}

impl FieldTable {
    /// Returns the entry of a field number.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&TableEntry> {
        match self.direct.get(number as usize) {
            Some(&index) => self.entries.get(usize::from(index)),
            None => self.entries.iter().find(|entry| entry.number == number),
        }
    }

    /// Returns the draft of an empty message.
    pub(super) fn draft(&self) -> EventDraft<'_> {
        let mut draft = EventDraft {
            ints: self.ints,
            flags: self.flags,
            fill_ratio: self.fill_ratio,
            hold_time: self.hold_time_is_number.then(Default::default),
            ..EventDraft::default()
        };
        for (text, value) in &self.texts {
            draft.set_text(*text, value.as_str().into());
        }
        draft
    }

    /// Finds the message of a kind. Returns `None` if the schema has none.
    pub(super) fn find(
        pool: &DescriptorPool,
        kind: EventKind,
    ) -> Result<Option<Self>, SchemaProblem> {
        let EventTable { protobuf, is_message, .. } = kinds::table(kind);
        let eligible = |message: &_| is_message(&|name| find(message, name).is_some());
        let message = best(pool, kind.as_str(), protobuf, eligible)?;
        message.map(|message| Self::of(&message, protobuf)).transpose()
    }

    fn of(message: &MessageDescriptor, names: &FieldNames) -> Result<Self, SchemaProblem> {
        let mut table = Self {
            entries: Vec::new(),
            direct: [NONE; DIRECT],
            ints: Default::default(),
            flags: Default::default(),
            fill_ratio: None,
            hold_time_is_number: false,
            texts: Vec::new(),
        };
        for (name, field) in names {
            let taken = table.entries.iter().any(|entry| entry.field == *field);
            if let Some(descriptor) = find(message, name).filter(|_| !taken) {
                table.add(message, &descriptor, *field)?;
            }
        }
        Ok(table)
    }

    fn add(
        &mut self,
        message: &MessageDescriptor,
        descriptor: &FieldDescriptor,
        field: EventField,
    ) -> Result<(), SchemaProblem> {
        let scalar = ScalarType::of(field, descriptor).ok_or_else(|| SchemaProblem::FieldType {
            message: message.full_name().to_owned(),
            field: descriptor.name().to_owned(),
            found: spell(descriptor),
            accepted: accepted(field),
        })?;
        match (field, &scalar) {
            (EventField::Int(int), _) => self.ints[int as usize] = Some(0),
            (EventField::Flag(flag), _) => self.flags[flag as usize] = Some(false),
            (EventField::FillRatio, _) => self.fill_ratio = Some(0.0),
            (EventField::HoldTime, ScalarType::Int(_)) => self.hold_time_is_number = true,
            (EventField::Text(text), ScalarType::Enum(values)) => {
                let default = values.iter().find(|(number, _)| *number == 0);
                self.texts.push((text, default.map_or("0", |(_, name)| name).to_owned()));
            }
            _ => {}
        }
        // Names are fewer than NONE, so the index fits.
        let index = u8::try_from(self.entries.len()).unwrap_or(NONE);
        if let Some(place) = self.direct.get_mut(descriptor.number() as usize) {
            *place = index;
        }
        let (number, name) = (descriptor.number(), descriptor.name().to_owned());
        let wire = scalar.wire_type();
        self.entries.push(TableEntry { number, field, scalar, wire, name });
        Ok(())
    }
}

impl ScalarType {
    /// Returns the type of a field by its descriptor. Returns `None` if the field cannot be read from that
    /// type.
    fn of(field: EventField, descriptor: &FieldDescriptor) -> Option<Self> {
        let is_list = matches!(field, EventField::Position(_) | EventField::Labels(_));
        if descriptor.is_list() && !is_list {
            return None;
        }
        let kind = descriptor.kind();
        let int = int_kind(&kind).map(Self::Int);
        match (field, &kind) {
            (EventField::Flag(_), Kind::Bool) => Some(Self::Bool),
            (EventField::FillRatio, Kind::Float) => Some(Self::Float),
            (EventField::FillRatio, Kind::Double) => Some(Self::Double),
            (EventField::Text(_) | EventField::Labels(_), Kind::Bytes)
            | (
                EventField::Text(_)
                | EventField::Labels(_)
                | EventField::Time(_)
                | EventField::HoldTime,
                Kind::String,
            ) => Some(Self::Text),
            (EventField::Text(_) | EventField::Labels(_), Kind::Enum(values)) => {
                Some(Self::Enum(enum_values(values)))
            }
            (EventField::Time(_), Kind::Message(message))
                if message.full_name() == "google.protobuf.Timestamp" =>
            {
                Some(Self::Timestamp)
            }
            (EventField::HoldTime, Kind::Message(message))
                if message.full_name() == "google.protobuf.Duration" =>
            {
                Some(Self::Duration)
            }
            (
                EventField::Int(_)
                | EventField::Position(_)
                | EventField::Time(_)
                | EventField::HoldTime,
                _,
            ) => int,
            _ => None,
        }
    }
}

impl ScalarType {
    fn wire_type(&self) -> WireType {
        match self {
            Self::Float | Self::Int(IntEncoding::Fixed32 | IntEncoding::Sfixed32) => {
                WireType::ThirtyTwoBit
            }
            Self::Double | Self::Int(IntEncoding::Fixed64 | IntEncoding::Sfixed64) => {
                WireType::SixtyFourBit
            }
            Self::Text | Self::Timestamp | Self::Duration => WireType::LengthDelimited,
            Self::Bool | Self::Enum(_) | Self::Int(_) => WireType::Varint,
        }
    }
}

fn int_kind(kind: &Kind) -> Option<IntEncoding> {
    Some(match kind {
        Kind::Int32 => IntEncoding::Int32,
        Kind::Int64 => IntEncoding::Int64,
        Kind::Uint32 => IntEncoding::Uint32,
        Kind::Uint64 => IntEncoding::Uint64,
        Kind::Sint32 => IntEncoding::Sint32,
        Kind::Sint64 => IntEncoding::Sint64,
        Kind::Fixed32 => IntEncoding::Fixed32,
        Kind::Fixed64 => IntEncoding::Fixed64,
        Kind::Sfixed32 => IntEncoding::Sfixed32,
        Kind::Sfixed64 => IntEncoding::Sfixed64,
        _ => return None,
    })
}

fn enum_values(values: &EnumDescriptor) -> Vec<(i32, String)> {
    values
        .values()
        .map(|value| {
            (value.number(), status::without_prefix(value.name(), values.name()).to_owned())
        })
        .collect()
}

/// Lists the types that [`ScalarType::of`] accepts, for a refusal.
fn accepted(field: EventField) -> &'static str {
    match field {
        EventField::Text(_) => "string, bytes or an enum",
        EventField::Labels(_) => "repeated string, bytes or an enum",
        EventField::Time(_) => {
            "google.protobuf.Timestamp, an integer (nanoseconds since 1970) or string (RFC 3339)"
        }
        EventField::HoldTime => {
            "google.protobuf.Duration, an integer (nanoseconds) or string (such as 1m30s)"
        }
        EventField::Int(_) => "an integer",
        EventField::Position(_) => "repeated integers",
        EventField::Flag(_) => "bool",
        EventField::FillRatio => "float or double",
    }
}

/// Returns the type of a field in the notation of `.proto` files.
fn spell(descriptor: &FieldDescriptor) -> String {
    let kind = match descriptor.kind() {
        _ if descriptor.is_map() => return "a map".to_owned(),
        Kind::Message(message) => format!("message {}", message.full_name()),
        Kind::Enum(values) => format!("enum {}", values.full_name()),
        // prost-reflect names scalars with the words of the language.
        scalar => format!("{scalar:?}"),
    };
    if descriptor.is_list() { format!("repeated {kind}") } else { kind }
}

/// Finds the field of a message by its documented name: spelled exactly, or else apart from case and
/// underscores.
fn find(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message
        .get_field_by_name(name)
        .or_else(|| message.fields().find(|field| same_name(field.name(), name)))
}

/// Returns true if the names are equal apart from case and underscores.
fn same_name(left: &str, right: &str) -> bool {
    let letters = |name: &str| {
        let bytes = name.bytes().filter(|byte| *byte != b'_');
        bytes.map(|byte| byte.to_ascii_lowercase()).collect::<Vec<_>>()
    };
    letters(left) == letters(right)
}

/// Returns the eligible message with the most documented fields. Two such messages are an error.
fn best(
    pool: &DescriptorPool,
    kind: &'static str,
    names: &FieldNames,
    eligible: impl Fn(&MessageDescriptor) -> bool,
) -> Result<Option<MessageDescriptor>, SchemaProblem> {
    let mut best: Option<(usize, MessageDescriptor)> = None;
    let mut rival = None;
    for message in pool.all_messages().filter(eligible) {
        let known = names.iter().filter(|(name, _)| find(&message, name).is_some()).count();
        match best.as_ref().map_or(Ordering::Greater, |(most, _)| known.cmp(most)) {
            Ordering::Greater => (best, rival) = (Some((known, message)), None),
            Ordering::Equal => rival = Some(message),
            Ordering::Less => {}
        }
    }
    match (best, rival) {
        (Some((_, first)), Some(second)) => Err(SchemaProblem::Ambiguous {
            kind,
            first: first.full_name().to_owned(),
            second: second.full_name().to_owned(),
        }),
        (best, _) => Ok(best.map(|(_, message)| message)),
    }
}

/// Lists the messages of a schema, without those of Google.
pub(super) fn message_names(pool: &DescriptorPool) -> String {
    let names: Vec<_> = pool
        .all_messages()
        .map(|message| message.full_name().to_owned())
        .filter(|name| !name.starts_with("google.protobuf."))
        .collect();
    if names.is_empty() { "no messages".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::load;

    #[test]
    fn names_compare_without_case_and_underscores() {
        assert!(same_name("posOnShelfMm", "pos_on_shelf_mm"));
        assert!(same_name("FW_VERSION", "fwVersion"));
        assert!(!same_name("sn", "board_sn"));
    }

    #[test]
    fn all_shipped_item_numbers_are_found() {
        let pool = load::shipped().expect("the shipped schema loads");
        let table =
            FieldTable::find(&pool, EventKind::Item).expect("it fits").expect("it has items");
        let fields = kinds::table(EventKind::Item).protobuf;
        for (number, (name, field)) in (1u32..).zip(fields) {
            let entry = table.get(number).unwrap_or_else(|| panic!("{name} has a number"));
            assert_eq!((entry.name.as_str(), entry.field), (*name, *field));
        }
        let after = u32::try_from(fields.len() + 1).expect("a few fields");
        for number in [0, after, 63, 64, 1000, u32::MAX] {
            assert!(table.get(number).is_none());
        }
        assert_eq!(table.ints[IntField::Floor as usize], Some(0));
    }
}
