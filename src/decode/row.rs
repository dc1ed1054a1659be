//! The rules that make the columns of a row from a draft, for every kind of event. This is the one place
//! that decides which values are NULL, shortened, required or implausible.

use bytes::Bytes;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::ClockTrust;
use super::bounded::{self, MAX_KEYS, MAX_TEXT_BYTES};
use super::field::{
    EventDraft, EventField, FieldNames, POSITION_NAMES, TextField, TimeField, name_of,
};
use crate::event::plausibility::{self, EARLIEST};
use crate::event::{Reject, RejectReason};

/// [`EARLIEST`] in nanoseconds of Unix time, for comparison with a momentum before its conversion.
const FIRST_PLAUSIBLE_NS: i128 = EARLIEST.unix_timestamp_nanos();
/// Most characters of a message that a refusal quotes.
const MAX_QUOTE: usize = 60;

/// Properties of a message apart from its content.
pub(super) struct EventReceipt<'r> {
    pub(super) tenant: &'r str,
    pub(super) received_at: OffsetDateTime,
    /// The payload, if the row keeps it.
    pub(super) payload: Option<Bytes>,
    /// The field names of its format.
    pub(super) names: &'r FieldNames,
}

/// Refuses a draft with a part that exceeds its maximum, before the row takes memory for it. For drafts
/// that do not fit.
#[cold]
pub(super) fn check_bounds(draft: &EventDraft, names: &FieldNames) -> Result<(), Reject> {
    bounded::check("the object", draft.keys, "keys", MAX_KEYS)?;
    draft.extra.check()?;
    for (name, field) in names {
        match *field {
            EventField::Text(text) => {
                bounded::check(name, draft.text(text).len(), "bytes", MAX_TEXT_BYTES)?;
            }
            EventField::Position(position) => draft.position(position).check(name)?,
            EventField::Labels(labels) => draft.labels[labels as usize].check(name)?,
            EventField::Time(_)
            | EventField::Int(_)
            | EventField::Flag(_)
            | EventField::HoldTime
            | EventField::FillRatio => {}
        }
    }
    Ok(())
}

/// Refuses values that the vendor cannot have meant, which are a sign of wrong assumed field numbers.
/// Absent values are not checked here.
pub(super) fn plausible(
    draft: &EventDraft,
    names: &FieldNames,
    clock: ClockTrust,
) -> Result<(), Reject> {
    let refuse = |detail| Err(Reject::new(RejectReason::Implausible, detail));
    if let Some(momentum) = draft.time(TimeField::Momentum).filter(|moment| !moment.is_zero_time())
    {
        // Compared as numbers, which saves the conversion to a date for most events.
        let ns = momentum.total_ns();
        let what = if ns < FIRST_PLAUSIBLE_NS {
            Some("is before 2015".to_owned())
        } else if let ClockTrust::Agree(now) = clock
            && ns > plausibility::latest(now).unix_timestamp_nanos()
        {
            Some(format!("is more than a day ahead of {now}"))
        } else {
            None
        };
        if let Some(what) = what {
            return refuse(match momentum.to_utc() {
                None => "momentum is not in the years 0 to 9999".to_owned(),
                Some(at) => format!("momentum {at} {what}"),
            });
        }
    }
    for text in [TextField::Uid, TextField::BoardSn] {
        let value = draft.text(text);
        if !is_printable(value) {
            let name = name_of(names, EventField::Text(text));
            let quote: String = value.escape_debug().take(MAX_QUOTE).collect();
            return refuse(format!("{name} is not printable text: \"{quote}\""));
        }
    }
    Ok(())
}

fn is_printable(text: &str) -> bool {
    // Nearly every name is ASCII, which the compiler checks several bytes at a time.
    text.bytes().fold(true, |so_far, byte| so_far & (b' '..=b'~').contains(&byte))
        || !text.chars().any(char::is_control)
}

pub(super) fn required<T>(value: Option<T>, name: &str) -> Result<T, Reject> {
    value.ok_or_else(|| {
        Reject::new(RejectReason::MissingField, format!("{name} is absent, empty or unset"))
    })
}

/// Returns the momentum at full resolution, in nanoseconds of Unix time.
pub(super) fn required_ns(draft: &EventDraft, names: &FieldNames) -> Result<i128, Reject> {
    let momentum = draft.time(TimeField::Momentum).filter(|moment| !moment.is_zero_time());
    Ok(required(momentum, name_of(names, EventField::Time(TimeField::Momentum)))?.total_ns())
}

/// Returns a time for its column, in which the zero time is NULL.
pub(super) fn time(
    draft: &EventDraft,
    names: &FieldNames,
    time: TimeField,
) -> Result<Option<OffsetDateTime>, Reject> {
    let Some(moment) = draft.time(time).filter(|moment| !moment.is_zero_time()) else {
        return Ok(None);
    };
    moment.to_utc().map(Some).ok_or_else(|| {
        let name = name_of(names, EventField::Time(time));
        let detail =
            format!("{name}: {} seconds since 1970 are not in the years 0 to 9999", moment.seconds);
        Reject::new(RejectReason::OutOfRange, detail)
    })
}

pub(super) fn hold_time(draft: &EventDraft) -> Result<Option<i64>, Reject> {
    let Some(moment) = draft.hold_time else { return Ok(None) };
    moment.to_micros().map(Some).ok_or_else(|| {
        let detail =
            format!("hold_time: {} seconds exceed 64 bits of microseconds", moment.seconds);
        Reject::new(RejectReason::OutOfRange, detail)
    })
}

/// Returns the unknown keys, and the positions that are not a pair.
pub(super) fn extra(draft: &mut EventDraft) -> Option<Map<String, Value>> {
    let mut extra = draft.extra.take();
    for (name, coordinates) in POSITION_NAMES.into_iter().zip(&draft.positions) {
        if let Some(list) = coordinates.odd() {
            extra.insert(name.to_owned(), list.into());
        }
    }
    (!extra.is_empty()).then_some(extra)
}
