//! Properties that hold for every message.

use proptest::collection::vec;
use proptest::prelude::*;
use prost_types::Duration;
use serde_json::json;

use super::*;
use crate::event::{RejectReason, board_event_id, item_event_id};

fn text() -> BoxedStrategy<String> {
    prop_oneof![Just(String::new()), "[A-Z0-9]{1,12}", "(?s).{0,8}"].boxed()
}

/// Like [`text`], without the characters that the plausibility rule refuses.
fn printable() -> BoxedStrategy<String> {
    "[A-Z0-9]{0,8}".boxed()
}

/// Nanoseconds from 2015 to [`NOW`].
fn momentum_ns() -> impl Strategy<Value = i64> {
    1_420_070_400_000_000_000..NOW.unix_timestamp() * 1_000_000_000
}

fn seconds_and_nanos(ns: i64) -> (i64, i32) {
    (ns / 1_000_000_000, i32::try_from(ns % 1_000_000_000).unwrap())
}

fn timestamp(ns: i64) -> Timestamp {
    let (seconds, nanos) = seconds_and_nanos(ns);
    Timestamp { seconds, nanos }
}

prop_compose! {
    fn any_item()(
        times in (momentum_ns(), any::<Option<i64>>()),
        uid in "[A-Z0-9]{1,16}",
        texts in [text(), printable(), text(), text(), text(), text()],
        flags in any::<(bool, bool)>(),
        ints in any::<(i32, i32)>(),
        fill_ratio in -1e30f32..1e30,
        positions in [vec(any::<i32>(), 0..4), vec(any::<i32>(), 0..4), vec(any::<i32>(), 0..4)],
        labels in [vec(text(), 0..3), vec(text(), 0..3)],
    ) -> pb::ItemEvent {
        let [tenant, board_sn, product_reference, shelf_sn, furniture_sn, loc_reference] = texts;
        let [pos_mm, pos_on_shelf_mm, pos_on_floor_mm] = positions;
        let [loc_labels, item_labels] = labels;
        let hold_time = times.1.map(|ns| {
            let (seconds, nanos) = seconds_and_nanos(ns);
            Duration { seconds, nanos }
        });
        pb::ItemEvent {
            momentum: Some(timestamp(times.0)), uid, is_in: flags.0, pos_mm, board_sn, nb_hits: ints.0,
            hold_time, fill_ratio, product_reference, shelf_sn, furniture_sn, pos_on_shelf_mm,
            tenant, loc_reference, loc_labels, item_labels, pos_on_floor_mm, floor: ints.1,
            is_interpolated: flags.1,
        }
    }
}

fn none_if_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn labels(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Returns the row of a message by a simple model.
fn expected(item: &pb::ItemEvent) -> ItemEvent {
    let momentum = item.momentum.unwrap();
    let ns = i128::from(momentum.seconds) * 1_000_000_000 + i128::from(momentum.nanos);
    let full = OffsetDateTime::from_unix_timestamp_nanos(ns).unwrap();
    let tenant = none_if_empty(&item.tenant).unwrap_or("acme".into());
    let hold = item.hold_time.map(|d| {
        let ns = i128::from(d.seconds) * 1_000_000_000 + i128::from(d.nanos);
        i64::try_from(ns / 1000).unwrap()
    });
    let positions = [
        ("pos_mm", &item.pos_mm),
        ("pos_on_shelf_mm", &item.pos_on_shelf_mm),
        ("pos_on_floor_mm", &item.pos_on_floor_mm),
    ];
    let odd = positions.iter().filter(|(_, list)| !list.is_empty() && list.len() != 2);
    let extra: serde_json::Map<_, _> =
        odd.map(|(name, list)| ((*name).to_owned(), json!(list))).collect();
    let at = |place: usize, axis: usize| positions[place].1.get(axis).copied();
    ItemEvent {
        event_id: item_event_id(&tenant, &item.uid, ns, &item.board_sn, item.is_in),
        momentum: full.replace_microsecond(full.microsecond()).unwrap(),
        received_at: NOW,
        tenant,
        x_mm: at(0, 0),
        y_mm: at(0, 1),
        shelf_x_mm: at(1, 0),
        shelf_y_mm: at(1, 1),
        floor_x_mm: at(2, 0),
        floor_y_mm: at(2, 1),
        floor: Some(item.floor),
        nb_hits: Some(item.nb_hits),
        hold_time_us: hold,
        fill_ratio: Some(item.fill_ratio),
        product_reference: none_if_empty(&item.product_reference),
        shelf_sn: none_if_empty(&item.shelf_sn),
        furniture_sn: none_if_empty(&item.furniture_sn),
        loc_reference: none_if_empty(&item.loc_reference),
        loc_labels: labels(&item.loc_labels),
        item_labels: labels(&item.item_labels),
        is_interpolated: Some(item.is_interpolated),
        extra: (!extra.is_empty()).then_some(extra),
        ..ItemEvent::bare(&item.tenant, &item.uid, full, &item.board_sn, item.is_in)
    }
}

fn rfc3339(momentum: Timestamp) -> String {
    let at = OffsetDateTime::from_unix_timestamp(momentum.seconds).unwrap();
    let (date, clock) = (at.date(), at.time());
    let (hour, minute, second) = clock.as_hms();
    let text = format!("{date}T{hour:02}:{minute:02}:{second:02}.{:09}", momentum.nanos);
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Returns the message in the form of the vendor's JSON topic.
fn as_json(item: &pb::ItemEvent) -> String {
    let hold = item.hold_time.map(|d| d.seconds * 1_000_000_000 + i64::from(d.nanos));
    json!({
        "momentum": rfc3339(item.momentum.unwrap()), "uid": item.uid, "is_in": item.is_in,
        "pos_mm": item.pos_mm, "board_sn": item.board_sn, "nb_hits": item.nb_hits,
        "hold_time": hold, "fill_ratio": item.fill_ratio,
        "product_reference": item.product_reference, "shelf_sn": item.shelf_sn,
        "furniture_sn": item.furniture_sn, "pos_on_shelf_mm": item.pos_on_shelf_mm,
        "tenant": item.tenant, "loc_reference": item.loc_reference,
        "loc_labels": item.loc_labels, "item_labels": item.item_labels,
        "pos_on_floor_mm": item.pos_on_floor_mm, "floor": item.floor,
        "is_interpolated": item.is_interpolated,
    })
    .to_string()
}

/// Pieces of protobuf, valid and not, for the fields of both messages and beyond.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (1u32..22, 0u32..6, vec(any::<u8>(), 0..6)).prop_map(|(number, wire, body)| {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(u64::from(number << 3 | wire), &mut bytes);
            if wire == 2 {
                prost::encoding::encode_varint(body.len() as u64, &mut bytes);
            }
            bytes.extend(body);
            bytes
        }),
        (1u32..22, any::<u64>()).prop_map(|(number, value)| {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(u64::from(number << 3), &mut bytes);
            prost::encoding::encode_varint(value, &mut bytes);
            bytes
        }),
        any_item().prop_map(|item| item.encode_to_vec()),
    ];
    vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_message_becomes_its_row(message in any_item()) {
        prop_assert_eq!(item_proto(&message.encode_to_vec()).unwrap(), expected(&message));
    }

    #[test]
    fn both_formats_of_an_event_are_one_row(message in any_item()) {
        let (proto, json) =
            (item_proto(&message.encode_to_vec()).unwrap(), item_json(&as_json(&message)).unwrap());
        prop_assert_eq!(proto, json);
    }

    #[test]
    fn generated_decoders_read_the_same(bytes in pieces()) {
        match (pb::ItemEvent::decode(bytes.as_slice()), item_proto(&bytes)) {
            (Err(_), result) => {
                let reason = result.unwrap_err().reason;
                prop_assert!(matches!(reason, RejectReason::Malformed | RejectReason::Implausible));
            }
            (Ok(message), Ok(item)) => prop_assert_eq!(item, expected(&message)),
            (Ok(message), Err(reject)) => match reject.reason {
                RejectReason::MissingField => {
                    prop_assert!(message.momentum.is_none() || message.uid.is_empty());
                }
                RejectReason::Implausible => prop_assert!(
                    message.momentum.is_some_and(|m| !(1_420_070_403..1_772_400_000).contains(&m.seconds))
                        || message.uid.chars().chain(message.board_sn.chars()).any(char::is_control)
                ),
                RejectReason::OutOfRange => prop_assert!(message.hold_time.is_some()),
                other => prop_assert!(false, "{other:?}: {reject}"),
            },
        }
    }

    #[test]
    fn a_board_message_becomes_its_row(
        momentum in momentum_ns(), sn in "[A-Z0-9]{1,12}", place in 0usize..5, fw_version in text(),
        error in proptest::option::of(momentum_ns()),
    ) {
        let status = i32::try_from(place).unwrap();
        let message = pb::BoardStatusEvent {
            momentum: Some(timestamp(momentum)), sn: sn.clone(), status, fw_version: fw_version.clone(),
            last_error_date: error.map(timestamp), ..Default::default()
        };
        let row = board_proto(&message.encode_to_vec()).unwrap();
        let name = ["CONNECTED", "DISCONNECTED", "ONERROR", "MAINTENANCE", "DEGRADED"][place];
        prop_assert_eq!(row.event_id, board_event_id("acme", &sn, momentum.into(), name));
        prop_assert_eq!(row.fw_version, none_if_empty(&fw_version));
        prop_assert_eq!(row.last_error_at.map(|at| at.unix_timestamp_nanos() / 1000),
            error.map(|ns| i128::from(ns) / 1000));
        let json = json!({
            "Momentum": rfc3339(message.momentum.unwrap()), "BoardSN": sn,
            "Status": format!("BOARDSTATUS_{name}"),
        });
        prop_assert_eq!(board_json(&json.to_string()).unwrap().event_id, row.event_id);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200), text in "[{\\[\":,a-z0-9}\\]]{0,60}") {
        let decoder = shipped(KeepPayload::Always);
        for kind in EventKind::ALL {
            for encoding in [EventEncoding::Protobuf, EventEncoding::Json] {
                for payload in [bytes.as_slice(), text.as_bytes()] {
                    if let Err(reject) = decode(&decoder, kind, encoding, payload) {
                        prop_assert!(!reject.detail.is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn a_truncated_json_event_is_malformed(message in any_item(), cut in any::<prop::sample::Index>()) {
        let text = as_json(&message);
        let cut = text.floor_char_boundary(cut.index(text.len()));
        prop_assert_eq!(item_json(&text[..cut]).unwrap_err().reason, RejectReason::Malformed);
    }
}
