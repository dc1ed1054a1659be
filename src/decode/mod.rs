//! From bytes on a topic to an event, or to a reason why not.
//!
//! Protobuf and JSON messages are read into one draft ([`field::EventDraft`]), from which one set of
//! rules makes the row ([`row`]): the two forms of one event are one row. Decoding knows no clock
//! and does no I/O; the schema is loaded once.

mod bounded;
mod field;
mod format;
mod go_time;
mod json;
mod json_parts;
mod load;
mod memory_budget;
mod row;
mod schema;
pub mod stage;
mod status;
#[cfg(test)]
mod tests;
mod wire;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::config::{self, KeepPayload};
use crate::event::{Event, Reject, RejectReason};
use crate::topic::{self, EventEncoding, EventKind};
pub use load::ProtoSchemaError;
use load::SchemaProblem;
use schema::FieldTable;
use wire::{FieldError, WireError};

/// Structs generated from `proto/transtream.proto`, for encoding messages. The bridge decodes
/// without them.
#[allow(missing_docs, clippy::pedantic, reason = "generated; documented in the .proto")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/transtream.rs"));
}

/// Added to what is refused while the field numbers are assumed ones.
const HINT: &str = "the protobuf field numbers in use are assumed ones: if they may be wrong, set \
                    decode.proto_file to the vendor's .proto, then replay the dead letters";

/// Whether a momentum ahead of the host's clock says something about the momentum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockTrust {
    /// The clocks of host and database agree on the present. What was received earlier was not
    /// necessarily received under a clock that was right.
    Agree(OffsetDateTime),
    /// They do not, or were not compared yet.
    Unknown,
}

/// Decodes a tenant's messages.
#[derive(Debug)]
pub struct Decoder {
    tenant: String,
    item: Option<FieldTable>,
    board: Option<FieldTable>,
    /// The protobuf numbers are the assumed ones.
    assumed: bool,
    /// Never [`KeepPayload::Auto`].
    keep: KeepPayload,
}

impl Decoder {
    /// Loads the schema that the configuration names, or the shipped one.
    pub fn new(config: &config::DecodeConfig, tenant: &str) -> Result<Self, ProtoSchemaError> {
        let path = config.proto_file.as_deref();
        let tables = || {
            let pool = path.map_or_else(load::shipped, load::vendor)?;
            let tables = (FieldTable::item(&pool)?, FieldTable::board(&pool)?);
            if let (None, None) = tables {
                return Err(SchemaProblem::NoMessage(schema::message_names(&pool)));
            }
            Ok(tables)
        };
        let (item, board) = tables().map_err(|problem| ProtoSchemaError::new(path, problem))?;
        let keep = match config.keep_payload {
            KeepPayload::Auto if path.is_none() => KeepPayload::Always,
            KeepPayload::Auto => KeepPayload::Unknown,
            keep => keep,
        };
        Ok(Self { tenant: tenant.to_owned(), item, board, assumed: path.is_none(), keep })
    }

    /// Whether protobuf numbers are the assumed ones, because no `decode.proto_file` is set.
    pub fn schema_is_assumed(&self) -> bool {
        self.assumed
    }

    /// Whether protobuf events of a kind can be decoded: a vendor's file may define only one.
    pub fn covers(&self, kind: EventKind) -> bool {
        self.table(kind).is_some()
    }

    /// Refuses a schema that lacks a message which `mqtt` subscribes to.
    pub fn require(
        &self,
        decode: &config::DecodeConfig,
        mqtt: &config::MqttConfig,
    ) -> Result<(), ProtoSchemaError> {
        let wanted = [
            (EventKind::Item, mqtt.items, "mqtt.items"),
            (EventKind::Board, mqtt.boards, "mqtt.boards"),
        ];
        match wanted.iter().find(|(kind, formats, _)| formats.protobuf() && !self.covers(*kind)) {
            None => Ok(()),
            Some((kind, _, key)) => {
                let problem = SchemaProblem::Uncovered(kind.as_str(), key);
                Err(ProtoSchemaError::new(decode.proto_file.as_deref(), problem))
            }
        }
    }

    fn table(&self, kind: EventKind) -> Option<&FieldTable> {
        match kind {
            EventKind::Item => self.item.as_ref(),
            EventKind::Board => self.board.as_ref(),
        }
    }

    /// Decodes what arrived on a topic.
    pub fn decode(
        &self,
        topic: &str,
        payload: &Bytes,
        received_at: OffsetDateTime,
        clock: ClockTrust,
    ) -> Result<Event, Reject> {
        let (kind, encoding) = topic::route(&self.tenant, topic).ok_or_else(|| {
            let detail = format!("no event of tenant {} is published on {topic}", self.tenant);
            Reject::new(RejectReason::UnknownTopic, detail)
        })?;
        self.decode_as(kind, encoding, payload, received_at, clock)
    }

    /// Decodes a message whose kind and encoding are known.
    pub fn decode_as(
        &self,
        kind: EventKind,
        encoding: EventEncoding,
        payload: &Bytes,
        received_at: OffsetDateTime,
        clock: ClockTrust,
    ) -> Result<Event, Reject> {
        let result = match encoding {
            EventEncoding::Json => self.json(kind, payload, received_at),
            EventEncoding::Protobuf => self.protobuf(kind, payload, received_at, clock),
        };
        result.map_err(|mut reject| {
            if let Some(mismatch) = format::mismatch(&self.tenant, kind, encoding, payload) {
                return mismatch;
            }
            if self.assumed && encoding == EventEncoding::Protobuf {
                reject.detail = format!("{}; {HINT}", reject.detail);
            }
            reject
        })
    }

    fn json(
        &self,
        kind: EventKind,
        payload: &Bytes,
        received_at: OffsetDateTime,
    ) -> Result<Event, Reject> {
        let names = match kind {
            EventKind::Item => field::ITEM,
            EventKind::Board => field::BOARD_JSON,
        };
        let mut draft = json::read(names, payload)?;
        self.event(kind, &mut draft, names, payload, received_at)
    }

    fn protobuf(
        &self,
        kind: EventKind,
        payload: &Bytes,
        received_at: OffsetDateTime,
        clock: ClockTrust,
    ) -> Result<Event, Reject> {
        let names = match kind {
            EventKind::Item => field::ITEM,
            EventKind::Board => field::BOARD,
        };
        let table = self.table(kind).ok_or_else(|| {
            let kind = kind.as_str();
            let detail = format!("decode.proto_file has no {kind} message: name a file with both");
            Reject::new(RejectReason::UnknownTopic, detail)
        })?;
        let mut draft = table.draft();
        wire::read(&mut draft, table, payload).map_err(|fault| self.explain(fault))?;
        if self.assumed {
            row::plausible(&draft, names, clock)?;
        }
        self.event(kind, &mut draft, names, payload, received_at)
    }

    fn event(
        &self,
        kind: EventKind,
        draft: &mut field::EventDraft,
        names: &field::FieldNames,
        payload: &Bytes,
        received_at: OffsetDateTime,
    ) -> Result<Event, Reject> {
        if !draft.fits() {
            row::check_bounds(draft, names)?;
        }
        let keep = match self.keep {
            KeepPayload::Auto | KeepPayload::Always => true,
            KeepPayload::Unknown => draft.unknown,
            KeepPayload::Never => false,
        };
        let payload = keep.then(|| payload.clone());
        let receipt = row::EventReceipt { tenant: &self.tenant, received_at, payload, names };
        match kind {
            EventKind::Item => row::item(draft, receipt).map(Event::Item),
            EventKind::Board => row::board(draft, receipt).map(Event::Board),
        }
    }

    /// A wire type that does not fit says, while numbers are assumed, more about the numbers than
    /// about the message.
    fn explain(&self, fault: WireError) -> Reject {
        let (reason, what) = match fault.flaw {
            FieldError::Broken(what) => (RejectReason::Malformed, what),
            FieldError::OutOfRange(what) => (RejectReason::OutOfRange, what),
            FieldError::WireType { found, expected } => {
                let (found, expected) = (wire::words(found), wire::words(expected));
                let what = format!("it is written as {found}, the schema says {expected}");
                let reason =
                    if self.assumed { RejectReason::Implausible } else { RejectReason::Malformed };
                (reason, what.into())
            }
        };
        let offset = fault.offset;
        Reject::new(
            reason,
            match fault.field {
                Some(field) => format!("field {field} at byte {offset}: {what}"),
                None => format!("at byte {offset}: {what}"),
            },
        )
    }
}
