//! The messages that would take the most memory once decoded: large ones with millions of parts,
//! and small ones just within every maximum.

use time::OffsetDateTime;

use super::event::{ItemEvent, bytes};

/// A message that exceeds a maximum.
#[derive(Clone)]
pub struct OversizedMessage {
    pub topic: String,
    pub payload: Vec<u8>,
    /// The beginning of the detail of its dead letter.
    pub said: String,
}

/// Returns messages of about `size` bytes, each far beyond another maximum.
pub fn excesses(tenant: &str, size: usize) -> Vec<OversizedMessage> {
    let event = ItemEvent::new(tenant, "E-EXCESS", "B-0001", OffsetDateTime::now_utc());
    [protobuf_excesses(&event, size), json_excesses(&event, size)].concat()
}

fn protobuf_excesses(event: &ItemEvent, size: usize) -> Vec<OversizedMessage> {
    let (packed, unpacked, labels) = (size, size / 2, size / 2);
    [
        (bytes(12, &vec![1; packed]), format!("pos_on_shelf_mm has {packed} elements")),
        (b"\x60\x01".repeat(unpacked), format!("pos_on_shelf_mm has {unpacked} elements")),
        (b"\x7a\x00".repeat(labels), format!("loc_labels has {labels} elements")),
    ]
    .into_iter()
    .map(|(more, said)| OversizedMessage {
        topic: event.protobuf_topic(),
        payload: [event.protobuf(), more].concat(),
        said,
    })
    .collect()
}

fn json_excesses(event: &ItemEvent, size: usize) -> Vec<OversizedMessage> {
    let object = event.json().to_string();
    let keys = event.json().as_object().unwrap().len();
    // A part that is repeated, and the text before and after the repetitions.
    let fill = |before: &str, part: &str, after: &str| {
        let count = size / part.len();
        let more = [before, &part.repeat(count), after].concat();
        (format!("{},{more}}}", object.trim_end_matches('}')), count)
    };
    let (positions, elements) = fill(r#""pos_mm":["#, "1,", "1]");
    let positions = (positions, format!("pos_mm has {} elements", elements + 1));
    let (labels, elements) = fill(r#""item_labels":["#, r#""","#, r#"""]"#);
    let labels = (labels, format!("item_labels has {} elements", elements + 1));
    let (unknown, more) = fill("", r#""":1,"#, r#""":1"#);
    let unknown = (unknown, format!("the object has {} keys", keys + more + 1));
    let (list, _) = fill(r#""new":["#, "[1],", "[]]");
    let list = (list, "the set of unknown keys has ".to_owned());
    let (text, _) = fill(r#""shelf_sn":"\n"#, "x", r#"""#);
    let text = (text, format!("shelf_sn has {} bytes", size + 4));
    let brackets = ["[", "]"].map(|bracket| bracket.repeat(size / 2)).join("0");
    let deep = format!("{},\"new\":{brackets}}}", object.trim_end_matches('}'));
    let deep = (deep, "the set of unknown keys has ".to_owned());
    [positions, labels, unknown, list, text, deep]
        .into_iter()
        .map(|(text, said)| OversizedMessage {
            topic: event.json_topic(),
            payload: text.into_bytes(),
            said,
        })
        .collect()
}

/// Returns topic and payload of an event just within the maxima: a few KiB that take a few hundred
/// in memory.
pub fn dense(event: &ItemEvent, is_json: bool) -> (String, Vec<u8>) {
    const MOST: usize = 1_000;
    /// Returns objects of one key nested in one another, in an unknown field.
    const DEEP: usize = 10;
    if is_json {
        let deep = format!("{}0{}", r#"{"":"#.repeat(100), "}".repeat(100));
        let mut object = event.json();
        object["new"] =
            serde_json::from_str(&format!("[{}0]", format!("{deep},").repeat(DEEP))).unwrap();
        return (event.json_topic(), object.to_string().into_bytes());
    }
    let positions = [12, 17].map(|number| bytes(number, &[1; MOST])).concat();
    let labels = [b"\x7a\x00".repeat(MOST), b"\x82\x01\x00".repeat(MOST)].concat();
    (event.protobuf_topic(), [event.protobuf(), positions, labels].concat())
}
