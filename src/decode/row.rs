//! From a draft to the row: the one place that says which values are NULL, what is cut, what is
//! required and what cannot be true.

use bytes::Bytes;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::ClockTrust;
use super::bounded::{self, MAX_KEYS, MAX_TEXT_BYTES};
use super::field::{
    EventDraft, EventField, FieldNames, FlagField, IntField, LabelsField, POSITION_NAMES,
    PositionField, TextField, TimeField, name_of,
};
use super::status;
use crate::event::plausibility::{self, EARLIEST};
use crate::event::{BoardEvent, ItemEvent, Reject, RejectReason, board_event_id, item_event_id};

/// [`EARLIEST`], to be compared with a momentum that is no date yet.
const FIRST_PLAUSIBLE_NS: i128 = EARLIEST.unix_timestamp_nanos();
/// Longest piece of a message that a refusal quotes, in characters.
const MAX_QUOTE: usize = 60;

/// What is known of a message besides its content.
pub(super) struct EventReceipt<'r> {
    pub(super) tenant: &'r str,
    pub(super) received_at: OffsetDateTime,
    /// The message, if it is to be kept.
    pub(super) payload: Option<Bytes>,
    /// The names of the format it came in.
    pub(super) names: &'r FieldNames,
}

/// Makes the row of an item event.
#[expect(clippy::similar_names, reason = "the names of the columns")]
pub(super) fn item(draft: &mut EventDraft, receipt: EventReceipt) -> Result<ItemEvent, Reject> {
    let names = receipt.names;
    let momentum_ns = required_ns(draft, names)?;
    let momentum = required(time(draft, names, TimeField::Momentum)?, "momentum")?;
    let uid = required(
        draft.take_text(TextField::Uid),
        name_of(names, EventField::Text(TextField::Uid)),
    )?;
    let tenant = draft.take_text(TextField::Tenant).unwrap_or_else(|| receipt.tenant.to_owned());
    let board_sn = draft.take_text(TextField::BoardSn);
    let is_in = draft.flags[FlagField::IsIn as usize].unwrap_or(false);
    let position = |position| {
        let coordinates = draft.position(position);
        (coordinates.x, coordinates.y)
    };
    let (x_mm, y_mm) = position(PositionField::Board);
    let (shelf_x_mm, shelf_y_mm) = position(PositionField::Shelf);
    let (floor_x_mm, floor_y_mm) = position(PositionField::Floor);
    Ok(ItemEvent {
        event_id: item_event_id(
            &tenant,
            &uid,
            momentum_ns,
            board_sn.as_deref().unwrap_or_default(),
            is_in,
        ),
        momentum,
        received_at: receipt.received_at,
        tenant,
        uid,
        is_in,
        board_sn,
        x_mm,
        y_mm,
        shelf_x_mm,
        shelf_y_mm,
        floor_x_mm,
        floor_y_mm,
        floor: draft.ints[IntField::Floor as usize],
        nb_hits: draft.ints[IntField::NbHits as usize],
        hold_time_us: hold_time(draft)?,
        fill_ratio: draft.fill_ratio,
        product_reference: draft.take_text(TextField::ProductReference),
        shelf_sn: draft.take_text(TextField::ShelfSn),
        furniture_sn: draft.take_text(TextField::FurnitureSn),
        loc_reference: draft.take_text(TextField::LocReference),
        loc_labels: draft.labels[LabelsField::Location as usize].take(),
        item_labels: draft.labels[LabelsField::Item as usize].take(),
        is_interpolated: draft.flags[FlagField::IsInterpolated as usize],
        extra: extra(draft),
        payload: receipt.payload,
    })
}

/// Makes the row of a board event.
pub(super) fn board(draft: &mut EventDraft, receipt: EventReceipt) -> Result<BoardEvent, Reject> {
    let names = receipt.names;
    let momentum_ns = required_ns(draft, names)?;
    let momentum_name = name_of(names, EventField::Time(TimeField::Momentum));
    let momentum = required(time(draft, names, TimeField::Momentum)?, momentum_name)?;
    let sn_name = name_of(names, EventField::Text(TextField::BoardSn));
    let board_sn = required(draft.take_text(TextField::BoardSn), sn_name)?;
    let status = Some(status::canonical(draft.text(TextField::Status)))
        .filter(|status| !status.is_empty())
        .map(str::to_owned);
    Ok(BoardEvent {
        event_id: board_event_id(
            receipt.tenant,
            &board_sn,
            momentum_ns,
            status.as_deref().unwrap_or_default(),
        ),
        momentum,
        received_at: receipt.received_at,
        tenant: receipt.tenant.to_owned(),
        board_sn,
        status,
        fw_version: draft.take_text(TextField::FwVersion),
        last_connection_at: time(draft, names, TimeField::LastConnection)?,
        last_disconnection_at: time(draft, names, TimeField::LastDisconnection)?,
        last_error_at: time(draft, names, TimeField::LastError)?,
        extra: extra(draft),
        payload: receipt.payload,
    })
}

/// Refuses what exceeds a maximum, before the row takes memory for it. For a draft that does not
/// fit.
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

/// Refuses what the vendor cannot have meant: a sign that the assumed numbers are wrong. A value
/// that is absent is not judged here.
pub(super) fn plausible(
    draft: &EventDraft,
    names: &FieldNames,
    clock: ClockTrust,
) -> Result<(), Reject> {
    let refuse = |detail| Err(Reject::new(RejectReason::Implausible, detail));
    if let Some(momentum) = draft.time(TimeField::Momentum).filter(|moment| !moment.is_zero_time())
    {
        // Compared as numbers: an event that passes needs no date made for this.
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
                None => "momentum is no time of the calendar".to_owned(),
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
    // Nearly every name is ASCII, which is checked several bytes at a time.
    text.bytes().fold(true, |so_far, byte| so_far & (b' '..=b'~').contains(&byte))
        || !text.chars().any(char::is_control)
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, Reject> {
    value.ok_or_else(|| {
        Reject::new(RejectReason::MissingField, format!("{name} is absent, empty or unset"))
    })
}

/// The momentum at full resolution.
fn required_ns(draft: &EventDraft, names: &FieldNames) -> Result<i128, Reject> {
    let momentum = draft.time(TimeField::Momentum).filter(|moment| !moment.is_zero_time());
    Ok(required(momentum, name_of(names, EventField::Time(TimeField::Momentum)))?.total_ns())
}

/// A time as a column: the zero time is NULL.
fn time(
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

fn hold_time(draft: &EventDraft) -> Result<Option<i64>, Reject> {
    let Some(moment) = draft.hold_time else { return Ok(None) };
    moment.to_micros().map(Some).ok_or_else(|| {
        let detail =
            format!("hold_time: {} seconds exceed 64 bits of microseconds", moment.seconds);
        Reject::new(RejectReason::OutOfRange, detail)
    })
}

/// Unknown keys, and positions that are no pair.
fn extra(draft: &mut EventDraft) -> Option<Map<String, Value>> {
    let mut extra = draft.extra.take();
    for (name, coordinates) in POSITION_NAMES.into_iter().zip(&draft.positions) {
        if let Some(list) = coordinates.odd() {
            extra.insert(name.to_owned(), list.into());
        }
    }
    (!extra.is_empty()).then_some(extra)
}
