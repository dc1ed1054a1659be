//! The messages that boards publish. A number in the payload identifies the event wherever it
//! occurs, so that every part of the model can recognise it.

use std::fmt::Write as _;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Topic of all messages.
pub const TOPIC: &str = "centiloc/acme/json/item/v1/update";

/// A filter that an earlier configuration subscribed to.
pub const OLD_FILTER: &str = "centiloc/acme/old";

/// The row that an event becomes in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// An event row.
    Good,
    /// A dead letter, because it cannot be decoded.
    Garbage,
    /// A dead letter, because the database refuses its row.
    Refused,
}

/// Creates the payload of an event.
pub fn payload(event: u64, kind: MessageKind, momentum: OffsetDateTime, padding: usize) -> Bytes {
    let mark = match kind {
        MessageKind::Good => 'g',
        MessageKind::Garbage => 'x',
        MessageKind::Refused => 'r',
    };
    let mut text = String::new();
    if kind == MessageKind::Garbage {
        write!(text, "no event #{mark}{event};").unwrap();
    } else {
        let momentum = momentum.format(&Rfc3339).unwrap();
        write!(
            text,
            r##"{{"momentum":"{momentum}","uid":"E004{event:012X}","is_in":true,"board_sn":"B-1","pos_mm":[1,2],"nb_hits":1,"tenant":"acme","product_reference":"#{mark}{event};"}}"##
        )
        .unwrap();
    }
    text.extend(std::iter::repeat_n(' ', padding));
    text.into()
}

/// Returns the number and kind of the event in a payload.
pub fn identify(payload: &[u8]) -> (u64, MessageKind) {
    let text = std::str::from_utf8(payload).unwrap();
    let mark = text.split_once('#').unwrap().1.split_once(';').unwrap().0;
    let kind = match mark.as_bytes()[0] {
        b'g' => MessageKind::Good,
        b'x' => MessageKind::Garbage,
        _ => MessageKind::Refused,
    };
    (mark[1..].parse().unwrap(), kind)
}
