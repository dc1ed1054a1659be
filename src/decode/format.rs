//! Recognises a message in the format of another topic, so that the refusal names the cause and not a
//! symptom.

use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use serde::de::IgnoredAny;

use crate::event::{EventKind, Reject, RejectReason};
use crate::topic::{self, EventEncoding};

/// Returns the refusal of a message that is in the other format than its topic
/// `topic::name(tenant, kind, encoding)`. Returns `None` if it is not.
#[cold]
pub(super) fn mismatch(
    tenant: &str,
    kind: EventKind,
    encoding: EventEncoding,
    payload: &[u8],
) -> Option<Reject> {
    let (found, other) = match encoding {
        EventEncoding::Protobuf => (is_json(payload), EventEncoding::Json),
        EventEncoding::Json => (is_protobuf(payload), EventEncoding::Protobuf),
    };
    let topic = |encoding| topic::name(tenant, kind, encoding);
    found.then(|| {
        let detail = format!(
            "the payload is {}, but {} carries {}; {} is the topic for it: check what publishes here",
            other.as_str(),
            topic(encoding),
            encoding.as_str(),
            topic(other),
        );
        Reject::new(RejectReason::Malformed, detail)
    })
}

fn is_json(payload: &[u8]) -> bool {
    payload.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<IgnoredAny>(payload).is_ok()
}

/// Returns true for bytes that have the structure of a protobuf message with any fields, and are not
/// text. A text may have that structure by chance.
fn is_protobuf(payload: &[u8]) -> bool {
    let control = |c: char| c.is_control() && !c.is_whitespace();
    let is_text = str::from_utf8(payload).is_ok_and(|text| !text.contains(control));
    !is_text && has_fields(payload).is_some()
}

fn has_fields(mut rest: &[u8]) -> Option<()> {
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).ok()?;
        // Groups were deprecated long before the vendor's schema was written.
        if matches!(wire, WireType::StartGroup | WireType::EndGroup) {
            return None;
        }
        skip_field(wire, number, &mut rest, DecodeContext::default()).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_recognised_by_their_format() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let payload = std::fs::read(&path).unwrap();
            let (json, protobuf) = match path.extension().and_then(|e| e.to_str()) {
                Some("json") => (true, false),
                Some("pb") => (false, true),
                _ => continue,
            };
            assert_eq!((is_json(&payload), is_protobuf(&payload)), (json, protobuf), "{path:?}");
            seen += 1;
        }
        assert!(seen > 8);
    }

    #[test]
    fn text_and_noise_are_neither_format() {
        for payload in [&b"hello"[..], b"", b"{\"a\":", b"\xff\xff\xff", b"12", b"<xml/>"] {
            assert!(!is_json(payload) && !is_protobuf(payload), "{payload:?}");
        }
    }

    #[test]
    fn text_with_the_structure_of_fields_is_text() {
        assert!(is_protobuf(b"\n\x05hello"));
        assert!(!is_protobuf(b"\n\thi there!"));
    }
}
