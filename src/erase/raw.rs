//! Matches messages that are no rows with a trace: dead letters, and messages in the spool.
//!
//! A tag or board is searched in the bytes, since a message that does not decode may still name it:
//! protobuf holds a text as it is, JSON may hold it escaped.

use std::borrow::Cow;

use bytes::Bytes;
use time::OffsetDateTime;

use super::selector::TraceSelector;
use crate::decode::{ClockTrust, Decoder};

/// A text of at least so many bytes counts at any position. A shorter one could be part of anything: it
/// must be in quotes, or follow its length, as protobuf writes it.
const UNMISTAKABLE: usize = 8;

/// Recognises messages that belong to a trace.
#[derive(Debug)]
pub struct RawMatcher<'a> {
    selector: &'a TraceSelector,
    decoder: &'a Decoder,
}

impl<'a> RawMatcher<'a> {
    /// Makes a matcher. The decoder gives the time of the event in a message.
    pub fn new(selector: &'a TraceSelector, decoder: &'a Decoder) -> Self {
        Self { selector, decoder }
    }

    /// Returns true if the message belongs to the trace.
    pub fn matches(&self, topic: &str, payload: &Bytes, received_at: OffsetDateTime) -> bool {
        match self.selector {
            TraceSelector::Uid(text) | TraceSelector::Board(text) => {
                contains(payload, text.as_bytes())
                    || unescaped(payload).is_some_and(|plain| contains(&plain, text.as_bytes()))
            }
            TraceSelector::Before(cutoff) => {
                received_at < *cutoff || self.happened_before(*cutoff, topic, payload, received_at)
            }
        }
    }

    /// Returns true if words about a message name the tag or board.
    pub fn is_named_in(&self, words: &str) -> bool {
        match self.selector {
            TraceSelector::Uid(text) | TraceSelector::Board(text) => {
                contains(words.as_bytes(), text.as_bytes())
            }
            TraceSelector::Before(_) => false,
        }
    }

    fn happened_before(
        &self,
        cutoff: OffsetDateTime,
        topic: &str,
        payload: &Bytes,
        received_at: OffsetDateTime,
    ) -> bool {
        let clock = ClockTrust::Agree(received_at);
        let event = self.decoder.decode(topic, payload, received_at, clock);
        event.is_ok_and(|event| event.momentum() < cutoff)
    }
}

/// Returns true if `bytes` contains `text`, and not only as part of something else.
fn contains(bytes: &[u8], text: &[u8]) -> bool {
    if text.is_empty() || bytes.len() < text.len() {
        return false;
    }
    let is_whole = |at: usize| {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        let after = bytes.get(at + text.len()).copied();
        let quoted = before == Some(b'"') && after == Some(b'"');
        // Short ones only, so their length is one byte.
        let prefixed = before.is_some_and(|length| usize::from(length) == text.len());
        text.len() >= UNMISTAKABLE || quoted || prefixed
    };
    let mut places = bytes.windows(text.len()).enumerate();
    places.any(|(at, window)| window == text && is_whole(at))
}

/// Returns the bytes with JSON's escapes resolved, whatever is around them. `None` if there are none.
fn unescaped(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes;
    let mut plain = Vec::with_capacity(bytes.len());
    let mut found = false;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        plain.extend_from_slice(&rest[..at]);
        let (text, length) = escape(&rest[at..]);
        plain.extend_from_slice(&text);
        found |= length > 1;
        rest = &rest[at + length..];
    }
    plain.extend_from_slice(rest);
    found.then_some(plain)
}

/// Resolves the escape that begins here, and returns how many bytes it takes.
fn escape(bytes: &[u8]) -> (Cow<'static, [u8]>, usize) {
    let short: &'static [u8] = match bytes.get(1) {
        Some(b'u') => return unicode(bytes),
        Some(b'n') => b"\n",
        Some(b't') => b"\t",
        Some(b'r') => b"\r",
        Some(b'b') => b"\x08",
        Some(b'f') => b"\x0c",
        Some(b'"') => b"\"",
        Some(b'/') => b"/",
        Some(b'\\') => b"\\",
        _ => return (Cow::Borrowed(b"\\"), 1),
    };
    (Cow::Borrowed(short), 2)
}

/// Decodes `\u` with four hexadecimal digits, or two such escapes for one character.
fn unicode(bytes: &[u8]) -> (Cow<'static, [u8]>, usize) {
    const LENGTH: usize = 6;
    let unit = |at: usize| {
        let escape = bytes.get(at..at + LENGTH)?;
        let digits = escape.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let units: Vec<u16> = [unit(0), unit(LENGTH)].into_iter().map_while(|unit| unit).collect();
    match char::decode_utf16(units).next() {
        Some(Ok(c)) => (Cow::Owned(c.to_string().into_bytes()), LENGTH * c.len_utf16()),
        _ => (Cow::Borrowed(b"\\"), 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::config::{self, KeepPayload};

    const TOPIC: &str = "centiloc/acme/json/item/v1/update";
    const NOW: OffsetDateTime = datetime!(2026-06-01 0:00 UTC);

    fn matches(selector: &TraceSelector, payload: &[u8]) -> bool {
        let config = config::DecodeConfig::new(None, KeepPayload::Unknown);
        let decoder = Decoder::new(&config, "acme").unwrap();
        let payload = Bytes::copy_from_slice(payload);
        RawMatcher::new(selector, &decoder).matches(TOPIC, &payload, NOW)
    }

    fn uid(text: &str) -> TraceSelector {
        TraceSelector::Uid(text.to_owned())
    }

    #[test]
    fn tag_is_found_in_undecodable_bytes() {
        let tag = uid("E004015012345678");
        for payload in [
            &b"{\"uid\": \"E004015012345678\", \0"[..],
            b"\x12\x10E004015012345678\xff\xff",
            b"{\"uid\":\"\\u00450040150\\u00312345678\"}",
            b"[\"\\ud83d\\ude00\\\\E004015012345678",
        ] {
            assert!(matches(&tag, payload), "{payload:?}");
        }
        for payload in
            [&b""[..], b"E00401501234567", b"{\"uid\":\"E004015012345679\"}", b"\\u", b"\\"]
        {
            assert!(!matches(&tag, payload), "{payload:?}");
        }
    }

    #[test]
    fn a_short_name_must_stand_alone() {
        let tag = uid("12");
        for payload in [&b"{\"uid\":\"12\"}"[..], b"\x12\x0212", b"\"\\u00312\""] {
            assert!(matches(&tag, payload), "{payload:?}");
        }
        for payload in [&b"{\"nb_hits\":12}"[..], b"{\"uid\":\"123\"}", b"12"] {
            assert!(!matches(&tag, payload), "{payload:?}");
        }
    }

    #[test]
    fn a_date_is_compared_with_receipt_and_momentum() {
        let json = |momentum: &str| format!("{{\"uid\":\"X\",\"momentum\":\"{momentum}\"}}");
        let before = TraceSelector::Before(datetime!(2026-05-01 0:00 UTC));
        assert!(matches(&before, json("2026-04-30T23:59:59Z").as_bytes()));
        assert!(!matches(&before, json("2026-05-01T00:00:00Z").as_bytes()));
        assert!(!matches(&before, b"received later, and no event"));
        assert!(matches(&TraceSelector::Before(datetime!(2026-07-01 0:00 UTC)), b"no event"));
    }

    proptest! {
        #[test]
        fn every_text_is_found_in_its_json(text in ".{8,20}", escape_all: bool) {
            let json = if escape_all {
                text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat()
            } else {
                serde_json::to_string(&text).unwrap()
            };
            prop_assert!(matches(&uid(&text), json.as_bytes()));
        }

        #[test]
        fn any_bytes_are_judged_without_panic(bytes: Vec<u8>, text in ".{0,3}") {
            matches(&uid(&text), &bytes);
        }
    }
}
