//! Decodes the bytes of a topic into an event, or into the reason of a refusal.
//!
//! Protobuf and JSON messages are read into one draft ([`field::EventDraft`]), from which one set of
//! rules makes the row ([`row`]): both forms of one event give the same row. Decoding uses no clock and
//! does no I/O. The schema is loaded once.

mod bounded;
mod field;
mod format;
mod go_time;
mod json;
mod json_parts;
mod kinds;
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
use crate::event::{ByKind, Event, EventKind, Reject, RejectReason};
use crate::topic::{self, EventEncoding};
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

/// Remedy added to refusals while the protobuf field numbers are assumed ones.
const HINT: &str = "the protobuf field numbers in use are assumed ones: if they may be wrong, set \
                    decode.proto_file to the vendor's .proto, then replay the dead letters";

/// Trust in the clock of the host, against which a momentum in the future is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockTrust {
    /// The clocks of host and database agree on this present time. Earlier messages were not
    /// necessarily received under a correct clock.
    Agree(OffsetDateTime),
    /// The clocks disagree, or were not compared yet.
    Unknown,
}

/// Decoder of the messages of a tenant.
#[derive(Debug)]
pub struct Decoder {
    tenant: String,
    /// The protobuf fields of each kind.
    tables: ByKind<Option<FieldTable>>,
    /// The protobuf field numbers are the assumed ones.
    assumed: bool,
    /// The resolved setting, never [`KeepPayload::Auto`].
    keep: KeepPayload,
}

impl Decoder {
    /// Loads the schema that the configuration names, or the shipped one.
    pub fn new(config: &config::DecodeConfig, tenant: &str) -> Result<Self, ProtoSchemaError> {
        let path = config.proto_file.as_deref();
        let tables = || {
            let pool = path.map_or_else(load::shipped, load::vendor)?;
            let mut tables: ByKind<Option<FieldTable>> = ByKind::default();
            for kind in EventKind::ALL {
                tables[kind] = FieldTable::find(&pool, kind)?;
            }
            if tables.values().all(Option::is_none) {
                let (wanted, found) = (kinds::required_fields(), schema::message_names(&pool));
                return Err(SchemaProblem::NoMessage { wanted, found });
            }
            Ok(tables)
        };
        let tables = tables().map_err(|problem| ProtoSchemaError::new(path, problem))?;
        let keep = match config.keep_payload {
            KeepPayload::Auto if path.is_none() => KeepPayload::Always,
            KeepPayload::Auto => KeepPayload::Unknown,
            keep => keep,
        };
        Ok(Self { tenant: tenant.to_owned(), tables, assumed: path.is_none(), keep })
    }

    /// Returns true if the protobuf field numbers are the assumed ones, because no `decode.proto_file`
    /// is set.
    pub fn schema_is_assumed(&self) -> bool {
        self.assumed
    }

    /// Returns true if protobuf events of a kind can be decoded. A vendor's file may lack
    /// some.
    pub fn covers(&self, kind: EventKind) -> bool {
        self.table(kind).is_some()
    }

    /// Refuses a schema that lacks a message which `mqtt` subscribes to.
    pub fn require(
        &self,
        decode: &config::DecodeConfig,
        mqtt: &config::MqttConfig,
    ) -> Result<(), ProtoSchemaError> {
        let lacks = |kind: &EventKind| mqtt.formats[*kind].protobuf() && !self.covers(*kind);
        EventKind::ALL.into_iter().find(lacks).map_or(Ok(()), |kind| {
            let problem = SchemaProblem::Uncovered(kind.as_str(), kind.formats_key());
            Err(ProtoSchemaError::new(decode.proto_file.as_deref(), problem))
        })
    }

    fn table(&self, kind: EventKind) -> Option<&FieldTable> {
        self.tables[kind].as_ref()
    }

    /// Decodes a message of a topic.
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
        let names = kinds::table(kind).json;
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
        let names = kinds::table(kind).protobuf;
        let table = self.table(kind).ok_or_else(|| {
            let kind = kind.as_str();
            let detail =
                format!("decode.proto_file has no {kind} message: name a file that has one");
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
        (kinds::table(kind).row)(draft, receipt)
    }

    /// Makes the refusal of a protobuf error. While field numbers are assumed, an unexpected wire type
    /// points to a wrong number rather than to a malformed message.
    fn explain(&self, fault: WireError) -> Reject {
        let (reason, what) = match fault.flaw {
            FieldError::Broken(what) => (RejectReason::Malformed, what),
            FieldError::OutOfRange(what) => (RejectReason::OutOfRange, what),
            FieldError::WireType { found, expected } => {
                let (found, expected) = (wire::words(found), wire::words(expected));
                let what = format!("it is written as {found}, the schema defines {expected}");
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
