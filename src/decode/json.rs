//! Reads a JSON event by the rules of Go's decoder: keys are compared without regard to case, `null`
//! means absent, and the last of equal keys counts. Values are parsed from their text, so that every
//! refusal can name the key and numbers keep their full width.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::bounded::{self, MAX_ESCAPED_BYTES};
use super::field::{EventDraft, EventField, FieldNames};
use super::go_time::{DurationError, Moment, parse_duration, parse_time};
use super::json_parts::{self, ObjectPairs};
use crate::event::{Reject, RejectReason};

/// Most characters of a message that a refusal quotes.
const MAX_QUOTE: usize = 60;

/// Reads the draft of one event.
pub(super) fn read<'a>(names: &FieldNames, message: &'a [u8]) -> Result<EventDraft<'a>, Reject> {
    let text = std::str::from_utf8(message)
        .map_err(|error| malformed(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    let start = text.trim_ascii_start();
    if !start.starts_with('{') {
        return Err(malformed(format!("expected a JSON object, found {}", type_name(start))));
    }
    let pairs: ObjectPairs = serde_json::from_str(text)
        .map_err(|error| malformed(format!("expected a JSON object: {error}")))?;
    let mut draft = EventDraft { keys: pairs.count, ..EventDraft::default() };
    for (name, field, value) in sort(names, pairs.first, &mut draft)? {
        set(&mut draft, name, field, value.get())?;
    }
    Ok(draft)
}

/// A documented key with its field and its value.
type KnownValue<'a> = (&'static str, EventField, &'a RawValue);

/// Picks one value for each documented key, and keeps the other keys in `extra`. A key spelled as
/// documented is preferred to one that differs in case. The last of equal keys counts.
fn sort<'a>(
    names: &FieldNames,
    pairs: Vec<(&'a RawValue, &'a RawValue)>,
    draft: &mut EventDraft,
) -> Result<Vec<KnownValue<'a>>, Reject> {
    let mut known: Vec<Option<(Cow<str>, &RawValue)>> = vec![None; names.len()];
    for (key, value) in pairs {
        let key = string(key.get(), key.get())?;
        let Some(place) = names.iter().position(|(name, _)| name.eq_ignore_ascii_case(&key)) else {
            keep(draft, key, value);
            continue;
        };
        if value.get() == "null" {
            continue;
        }
        let exact = |key: &str| key == names[place].0;
        match known[place].take() {
            Some((earlier, kept)) if exact(&earlier) && !exact(&key) => {
                known[place] = Some((earlier, kept));
                keep(draft, key, value);
            }
            earlier => {
                if let Some((variant, replaced)) = earlier.filter(|(k, _)| !exact(k) && exact(&key))
                {
                    keep(draft, variant, replaced);
                }
                known[place] = Some((key, value));
            }
        }
    }
    let value = |((name, field), pair): (&(_, _), Option<(_, _)>)| Some((*name, *field, pair?.1));
    Ok(names.iter().zip(known).filter_map(value).collect())
}

/// Keeps a key without a column.
fn keep(draft: &mut EventDraft, key: Cow<str>, value: &RawValue) {
    draft.extra.add(key, value.get());
    draft.unknown = true;
}

fn set<'a>(
    draft: &mut EventDraft<'a>,
    key: &str,
    field: EventField,
    raw: &'a str,
) -> Result<(), Reject> {
    match field {
        EventField::Text(text) => draft.set_text(text, string(key, raw)?),
        EventField::Time(time) => draft.times[time as usize] = moment(key, raw)?,
        EventField::Int(int) => draft.ints[int as usize] = Some(int32(key, raw)?),
        EventField::Flag(flag) => draft.flags[flag as usize] = Some(boolean(key, raw)?),
        EventField::Position(position) => {
            let coordinates = &mut draft.positions[position as usize];
            each(key, raw, |value| {
                coordinates.push(int32(key, value)?);
                Ok(())
            })?;
        }
        EventField::Labels(labels) => {
            let labels = &mut draft.labels[labels as usize];
            each(key, raw, |value| {
                labels.push(string(key, value)?);
                Ok(())
            })?;
        }
        EventField::HoldTime => draft.hold_time = duration(key, raw)?,
        EventField::FillRatio => draft.fill_ratio = Some(float32(key, raw)?),
    }
    Ok(())
}

/// Parses a JSON string. `key` names it in a refusal, and may be that string itself.
fn string<'a>(key: &str, raw: &'a str) -> Result<Cow<'a, str>, Reject> {
    let inner = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else { return Err(wrong_type(key, "a string", raw)) };
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    if raw.len() > MAX_ESCAPED_BYTES {
        let unit = "bytes of escaped text";
        return Err(bounded::exceeded(&quote(key), raw.len(), unit, MAX_ESCAPED_BYTES));
    }
    let unescape = serde_json::from_str::<String>(raw);
    unescape.map(Cow::Owned).map_err(|error| malformed(format!("key {}: {error}", quote(key))))
}

fn boolean(key: &str, raw: &str) -> Result<bool, Reject> {
    match raw {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong_type(key, "true or false", raw)),
    }
}

fn each<'a>(
    key: &str,
    raw: &'a str,
    take: impl FnMut(&'a str) -> Result<(), Reject>,
) -> Result<(), Reject> {
    if !raw.starts_with('[') {
        return Err(wrong_type(key, "a list", raw));
    }
    json_parts::each(raw, take).map_err(|error| malformed(format!("key {key}: {error}")))?
}

fn moment(key: &str, raw: &str) -> Result<Option<Moment>, Reject> {
    let text = string(key, raw)?;
    if text.is_empty() {
        return Ok(None);
    }
    let time = parse_time(&text);
    time.map(Some).ok_or_else(|| {
        let quote = quote(&text);
        malformed(format!("key {key}: expected an RFC 3339 time, found \"{quote}\""))
    })
}

fn duration(key: &str, raw: &str) -> Result<Option<Moment>, Reject> {
    if !raw.starts_with('"') {
        return Ok(Some(Moment::from_ns(whole(key, raw)?)));
    }
    let text = string(key, raw)?;
    if text.is_empty() {
        return Ok(None);
    }
    parse_duration(&text).map(|ns| Some(Moment::from_ns(ns))).map_err(|flaw| match flaw {
        DurationError::Syntax => {
            let quote = quote(&text);
            malformed(format!("key {key}: expected a duration like 1m30.5s, found \"{quote}\""))
        }
        DurationError::Overflow => out_of_range(key, raw, "a duration of 64 bits of nanoseconds"),
    })
}

fn is_number(raw: &str) -> bool {
    raw.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// Parses a whole number, also in forms such as `1e3` and `2.0`.
fn whole(key: &str, raw: &str) -> Result<i64, Reject> {
    /// The least power of two that a signed 64-bit number does not reach.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if !is_number(raw) {
        return Err(wrong_type(key, "a whole number", raw));
    }
    if let Ok(value) = raw.parse() {
        return Ok(value);
    }
    let value: f64 = raw.parse().map_err(|_| wrong_type(key, "a whole number", raw))?;
    if !(-LIMIT..LIMIT).contains(&value) {
        return Err(out_of_range(key, raw, "64 bits with a sign"));
    }
    if value.fract() != 0.0 {
        return Err(wrong_type(key, "a whole number", raw));
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within the limits above")]
    Ok(value as i64)
}

fn int32(key: &str, raw: &str) -> Result<i32, Reject> {
    // A number beyond 64 bits is refused like one beyond 32.
    match whole(key, raw) {
        Ok(value) => {
            i32::try_from(value).map_err(|_| out_of_range(key, raw, "32 bits with a sign"))
        }
        Err(reject) if reject.reason == RejectReason::OutOfRange => {
            Err(out_of_range(key, raw, "32 bits with a sign"))
        }
        Err(reject) => Err(reject),
    }
}

fn float32(key: &str, raw: &str) -> Result<f32, Reject> {
    if !is_number(raw) {
        return Err(wrong_type(key, "a number", raw));
    }
    match raw.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(out_of_range(key, raw, "single precision")),
    }
}

/// Returns the type of a JSON value, recognised by its first character.
fn type_name(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) => "something else",
        None => "nothing",
    }
}

fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}

fn malformed(detail: String) -> Reject {
    Reject::new(RejectReason::Malformed, detail)
}

fn wrong_type(key: &str, expected: &str, raw: &str) -> Reject {
    let (found, quote) = (type_name(raw), quote(raw));
    malformed(format!("key {key}: expected {expected}, found {found}: {quote}"))
}

fn out_of_range(key: &str, raw: &str, limit: &str) -> Reject {
    let quote = quote(raw);
    Reject::new(RejectReason::OutOfRange, format!("key {key}: {quote} exceeds {limit}"))
}
