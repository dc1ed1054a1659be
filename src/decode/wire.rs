//! Reads a protobuf message by a [`FieldTable`] of numbers. One reader serves the shipped schema and the
//! vendor's. It borrows texts from the message, and notices fields that the schema lacks, which
//! generated decoders drop silently.

use std::borrow::Cow;

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::bounded::LabelList;
use super::field::{EventDraft, EventField};
use super::go_time::{DurationError, Moment, parse_duration, parse_time};
use super::schema::{FieldTable, IntEncoding, ScalarType, TableEntry};

/// An error of a message, with its position.
#[derive(Debug)]
pub(super) struct WireError {
    /// The error of the field.
    pub(super) flaw: FieldError,
    /// Offset of the field's key in the message, in bytes.
    pub(super) offset: usize,
    /// Name of the field, if the schema defines it.
    pub(super) field: Option<String>,
}

/// An error of one field.
#[derive(Debug)]
pub(super) enum FieldError {
    /// The bytes are not protobuf, or not a value of this field.
    Broken(Cow<'static, str>),
    /// The wire type differs from that of the schema.
    WireType {
        /// The wire type of the message.
        found: WireType,
        /// The wire type of the schema.
        expected: WireType,
    },
    /// The value is too large for its column.
    OutOfRange(Cow<'static, str>),
}

impl From<DecodeError> for FieldError {
    fn from(error: DecodeError) -> Self {
        let text = error.to_string();
        let bare = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text);
        Self::Broken(bare.to_owned().into())
    }
}

const ENDS_EARLY: FieldError =
    FieldError::Broken(Cow::Borrowed("the message ends within the field"));

/// Reads one message into a draft that the table made.
pub(super) fn read<'a>(
    draft: &mut EventDraft<'a>,
    table: &'a FieldTable,
    message: &'a [u8],
) -> Result<(), WireError> {
    let mut rest = message;
    while !rest.is_empty() {
        let offset = message.len() - rest.len();
        let fault = |flaw, field| WireError { flaw, offset, field };
        let (number, wire) = decode_key(&mut rest).map_err(|e| fault(e.into(), None))?;
        if let Some(entry) = table.get(number) {
            merge(draft, entry, wire, &mut rest)
                .map_err(|flaw| fault(flaw, Some(entry.name.clone())))?;
        } else {
            skip_field(wire, number, &mut rest, DecodeContext::default())
                .map_err(|error| fault(error.into(), None))?;
            draft.unknown = true;
        }
    }
    Ok(())
}

/// Reads one occurrence of a field. As protobuf defines, single values replace, lists grow and
/// sub-messages merge.
fn merge<'a>(
    draft: &mut EventDraft<'a>,
    entry: &'a TableEntry,
    wire: WireType,
    rest: &mut &'a [u8],
) -> Result<(), FieldError> {
    match entry.field {
        EventField::Text(text) => draft.set_text(text, read_text(entry, wire, rest)?),
        EventField::Labels(labels) => {
            read_labels(&mut draft.labels[labels as usize], entry, wire, rest)?;
        }
        EventField::Time(time) => merge_moment(&mut draft.times[time as usize], entry, wire, rest)?,
        EventField::HoldTime => merge_moment(&mut draft.hold_time, entry, wire, rest)?,
        EventField::Int(int) => draft.ints[int as usize] = Some(read_i32(entry, wire, rest)?),
        EventField::Position(position) => {
            let coordinates = &mut draft.positions[position as usize];
            if wire == WireType::LengthDelimited {
                let mut packed = take_delimited(rest)?;
                while !packed.is_empty() {
                    coordinates.push(read_i32(entry, entry.wire, &mut packed)?);
                }
            } else {
                coordinates.push(read_i32(entry, wire, rest)?);
            }
        }
        EventField::Flag(flag) => {
            expect(WireType::Varint, wire)?;
            draft.flags[flag as usize] = Some(decode_varint(rest)? != 0);
        }
        EventField::FillRatio => draft.fill_ratio = Some(read_float(entry, wire, rest)?),
    }
    Ok(())
}

#[inline]
fn expect(expected: WireType, found: WireType) -> Result<(), FieldError> {
    if found == expected { Ok(()) } else { Err(FieldError::WireType { found, expected }) }
}

/// Describes a wire type.
pub(super) fn words(wire: WireType) -> &'static str {
    match wire {
        WireType::Varint => "a varint",
        WireType::SixtyFourBit => "8 bytes",
        WireType::LengthDelimited => "bytes with a length",
        WireType::StartGroup | WireType::EndGroup => "a group",
        WireType::ThirtyTwoBit => "4 bytes",
    }
}

#[inline]
fn take_delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FieldError> {
    let length = usize::try_from(decode_varint(rest)?).map_err(|_| ENDS_EARLY)?;
    let (value, after) = rest.split_at_checked(length).ok_or(ENDS_EARLY)?;
    *rest = after;
    Ok(value)
}

fn take_fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FieldError> {
    let (value, after) = rest.split_first_chunk::<N>().ok_or(ENDS_EARLY)?;
    *rest = after;
    Ok(*value)
}

#[inline]
fn read_text<'a>(
    entry: &'a TableEntry,
    wire: WireType,
    rest: &mut &'a [u8],
) -> Result<Cow<'a, str>, FieldError> {
    expect(entry.wire, wire)?;
    if let ScalarType::Enum(values) = &entry.scalar {
        return Ok(enum_name(values, decode_varint(rest)?));
    }
    let bytes = take_delimited(rest)?;
    let text =
        std::str::from_utf8(bytes).map_err(|_| FieldError::Broken("it is not UTF-8".into()))?;
    Ok(Cow::Borrowed(text))
}

/// Reads one label, or the packed values of a repeated enum.
fn read_labels<'a>(
    labels: &mut LabelList,
    entry: &'a TableEntry,
    wire: WireType,
    rest: &mut &'a [u8],
) -> Result<(), FieldError> {
    match &entry.scalar {
        ScalarType::Enum(values) if wire == WireType::LengthDelimited => {
            let mut numbers = take_delimited(rest)?;
            while !numbers.is_empty() {
                labels.push(enum_name(values, decode_varint(&mut numbers)?));
            }
        }
        _ => labels.push(read_text(entry, wire, rest)?),
    }
    Ok(())
}

/// Returns the name of an enum value, or its number if it has no name.
#[expect(clippy::cast_possible_truncation, reason = "protobuf enums are the low 32 bits")]
fn enum_name(values: &[(i32, String)], varint: u64) -> Cow<'_, str> {
    let number = varint as i32;
    match values.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => Cow::Borrowed(name),
        None => Cow::Owned(number.to_string()),
    }
}

/// Reads a whole number of any encoding. Only the largest unsigned ones do not fit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "protobuf defines 32-bit varints as the low 32 bits, and signs as two's complement"
)]
fn read_int(entry: &TableEntry, wire: WireType, rest: &mut &[u8]) -> Result<i64, FieldError> {
    expect(entry.wire, wire)?;
    let ScalarType::Int(kind) = entry.scalar else {
        return Err(FieldError::Broken("the schema has no whole number here".into()));
    };
    let unsigned = match kind {
        IntEncoding::Int32 => return Ok(i64::from(decode_varint(rest)? as i32)),
        IntEncoding::Int64 => return Ok(decode_varint(rest)? as i64),
        IntEncoding::Uint32 => u64::from(decode_varint(rest)? as u32),
        IntEncoding::Uint64 => decode_varint(rest)?,
        IntEncoding::Sint32 => {
            let zigzag = decode_varint(rest)? as u32;
            return Ok(i64::from((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32)));
        }
        IntEncoding::Sint64 => {
            let zigzag = decode_varint(rest)?;
            return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
        }
        IntEncoding::Fixed32 => u64::from(u32::from_le_bytes(take_fixed(rest)?)),
        IntEncoding::Fixed64 => u64::from_le_bytes(take_fixed(rest)?),
        IntEncoding::Sfixed32 => return Ok(i64::from(i32::from_le_bytes(take_fixed(rest)?))),
        IntEncoding::Sfixed64 => return Ok(i64::from_le_bytes(take_fixed(rest)?)),
    };
    i64::try_from(unsigned).map_err(|_| {
        FieldError::OutOfRange(format!("{unsigned} exceeds 64 bits with a sign").into())
    })
}

fn read_i32(entry: &TableEntry, wire: WireType, rest: &mut &[u8]) -> Result<i32, FieldError> {
    let value = read_int(entry, wire, rest)?;
    i32::try_from(value)
        .map_err(|_| FieldError::OutOfRange(format!("{value} exceeds 32 bits with a sign").into()))
}

#[expect(clippy::cast_possible_truncation, reason = "the column is real; doubles are rounded")]
fn read_float(entry: &TableEntry, wire: WireType, rest: &mut &[u8]) -> Result<f32, FieldError> {
    expect(entry.wire, wire)?;
    match entry.scalar {
        ScalarType::Double => {
            let double = f64::from_le_bytes(take_fixed(rest)?);
            let value = double as f32;
            if value.is_infinite() && double.is_finite() {
                return Err(FieldError::OutOfRange(
                    format!("{double} exceeds single precision").into(),
                ));
            }
            Ok(value)
        }
        _ => Ok(f32::from_le_bytes(take_fixed(rest)?)),
    }
}

/// Reads a point in time or a duration in the encoding of the schema. A sub-message merges with that of
/// an earlier occurrence.
fn merge_moment<'a>(
    moment: &mut Option<Moment>,
    entry: &'a TableEntry,
    wire: WireType,
    rest: &mut &'a [u8],
) -> Result<(), FieldError> {
    expect(entry.wire, wire)?;
    match &entry.scalar {
        ScalarType::Timestamp | ScalarType::Duration => {
            merge_seconds_and_nanos(moment.get_or_insert_default(), take_delimited(rest)?)?;
        }
        ScalarType::Int(_) => {
            let ns = read_int(entry, wire, rest)?;
            // A number cannot be absent, so a time of 0 counts as unset.
            let is_unset = ns == 0 && entry.field != EventField::HoldTime;
            *moment = (!is_unset).then(|| Moment::from_ns(ns));
        }
        _ => {
            let text = read_text(entry, wire, rest)?;
            *moment = parse_moment(entry.field, &text)?;
        }
    }
    Ok(())
}

fn parse_moment(field: EventField, text: &str) -> Result<Option<Moment>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    if field != EventField::HoldTime {
        let flaw = || FieldError::Broken("it is not an RFC 3339 time".into());
        return parse_time(text).map(Some).ok_or_else(flaw);
    }
    match parse_duration(text) {
        Ok(ns) => Ok(Some(Moment::from_ns(ns))),
        Err(DurationError::Syntax) => {
            Err(FieldError::Broken("it is not a duration such as 1m30.5s".into()))
        }
        Err(DurationError::Overflow) => {
            Err(FieldError::OutOfRange("it exceeds 64 bits of nanoseconds".into()))
        }
    }
}

/// Reads a `google.protobuf.Timestamp` or `Duration`. Both have seconds = 1 and nanos = 2.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "protobuf defines int32 as the low 32 bits, and signs as two's complement"
)]
fn merge_seconds_and_nanos(moment: &mut Moment, mut message: &[u8]) -> Result<(), FieldError> {
    while !message.is_empty() {
        let (number, wire) = decode_key(&mut message)?;
        match number {
            1 => {
                expect(WireType::Varint, wire)?;
                moment.seconds = decode_varint(&mut message)? as i64;
            }
            2 => {
                expect(WireType::Varint, wire)?;
                moment.nanos = decode_varint(&mut message)? as i32;
            }
            _ => skip_field(wire, number, &mut message, DecodeContext::default())?,
        }
    }
    Ok(())
}
