//! Fuzzes the file of `decode.proto_file`: a `.proto`, a `FileDescriptorSet`, or neither.

use centiloc_bridge::config::{DecodeConfig, KeepPayload};
use centiloc_bridge::decode::Decoder;
use centiloc_bridge::event::{EventKind, RejectReason};
use centiloc_bridge::topic::EventEncoding;

use super::in_file;
use super::messages::decoded;

/// Messages that an accepted schema is tried on.
const MESSAGES: [&[u8]; 5] = [
    include_bytes!("../../samples/item-0.pb"),
    include_bytes!("../../samples/item-41.pb"),
    include_bytes!("../../samples/item-unknown-field.pb"),
    include_bytes!("../../samples/board.pb"),
    b"\x0a\x142025-10-09T08:53:20Z\x12\x02B1\x1a\x13BOARDSTATUS_onerror",
];

/// Loads the schema and, if it is accepted, decodes with it.
pub fn vendor_schema(bytes: &[u8]) -> bool {
    in_file("vendor.proto", bytes, |file| {
        let config = DecodeConfig::new(Some(file.to_owned()), KeepPayload::Unknown);
        match Decoder::new(&config, "acme") {
            Ok(decoder) => {
                try_on_messages(&decoder);
                true
            }
            Err(error) => {
                let said = error.to_string();
                let names = format!("decode.proto_file {}: ", file.display());
                assert!(said.len() > names.len() && said.starts_with(&names), "{said}");
                false
            }
        }
    })
}

fn try_on_messages(decoder: &Decoder) {
    assert!(!decoder.schema_is_assumed());
    let kinds = EventKind::ALL.into_iter().filter(|kind| decoder.covers(*kind));
    let kinds: Vec<_> = kinds.collect();
    assert!(!kinds.is_empty(), "a schema without events is refused");
    for (kind, message) in kinds.iter().flat_map(|kind| MESSAGES.map(|message| (*kind, message))) {
        if let Err(reject) = decoded(decoder, kind, EventEncoding::Protobuf, message) {
            assert_ne!(reject.reason, RejectReason::Implausible, "the vendor's word is believed");
        }
    }
}
