//! The rules for protobuf values under the shipped schema, one in each test.

use prost_types::Duration;
use serde_json::{Value, json};

use super::*;
use crate::event::RejectReason;

fn refused<T: std::fmt::Debug>(result: Result<T, Reject>, reason: RejectReason, words: &[&str]) {
    let reject = result.unwrap_err();
    assert_eq!(reject.reason, reason, "{reject}");
    for word in words.iter().chain(&["decode.proto_file"]) {
        assert!(reject.detail.contains(word), "{reject} lacks {word}");
    }
}

fn read(message: &pb::ItemEvent) -> Result<ItemEvent, Reject> {
    item_proto(&message.encode_to_vec())
}

#[test]
fn masked_numbers_are_zero_and_others_null() {
    let item = read(&least_item()).unwrap();
    assert_eq!((item.nb_hits, item.floor, item.fill_ratio), (Some(0), Some(0), Some(0.0)));
    assert_eq!((item.is_in, item.is_interpolated), (false, Some(false)));
    assert_eq!((item.x_mm, item.y_mm, item.hold_time_us), (None, None, None));
    assert_eq!((item.board_sn, item.loc_labels, item.extra), (None, None, None));
    assert_eq!(item.tenant, "acme");
}

#[test]
fn event_tenant_overrides_configured_tenant() {
    let own = pb::ItemEvent { tenant: "other".into(), ..least_item() };
    assert_eq!(read(&own).unwrap().tenant, "other");
}

#[test]
fn an_empty_payload_lacks_its_required_fields() {
    refused(item_proto(&[]), RejectReason::MissingField, &["momentum"]);
    refused(board_proto(&[]), RejectReason::MissingField, &["momentum"]);
    let no_uid = pb::ItemEvent { uid: String::new(), ..least_item() };
    refused(read(&no_uid), RejectReason::MissingField, &["uid"]);
    let no_sn = pb::BoardStatusEvent { sn: String::new(), ..least_board() };
    refused(board_proto(&no_sn.encode_to_vec()), RejectReason::MissingField, &["sn"]);
    let zero_time = pb::ItemEvent { momentum: Some(at(-62_135_596_800)), ..least_item() };
    refused(read(&zero_time), RejectReason::MissingField, &["momentum"]);
}

#[test]
fn truncated_messages_name_the_field_and_the_byte() {
    let whole = pb::ItemEvent { board_sn: "CB000001".into(), ..least_item() }.encode_to_vec();
    refused(
        item_proto(&whole[..whole.len() - 1]),
        RejectReason::Malformed,
        &["board_sn", "byte 12"],
    );
    refused(item_proto(b"\x0a"), RejectReason::Malformed, &["momentum", "byte 0"]);
    refused(item_proto(b"\x00\x01"), RejectReason::Malformed, &["byte 0"]);
    refused(
        item_proto(&followed_by(&least_item(), b"\xff")),
        RejectReason::Malformed,
        &["byte 12"],
    );
}

#[test]
fn text_that_is_not_utf8_names_the_field() {
    refused(item_proto(b"\x2a\x01\xff"), RejectReason::Malformed, &["board_sn", "UTF-8"]);
    refused(item_proto(b"\x7a\x01\xff"), RejectReason::Malformed, &["loc_labels", "UTF-8"]);
}

#[test]
fn wire_types_that_do_not_fit_are_implausible() {
    refused(item_proto(b"\x08\x01"), RejectReason::Implausible, &["momentum", "a varint"]);
    refused(item_proto(b"\x10\x01"), RejectReason::Implausible, &["uid", "bytes with a length"]);
    refused(item_proto(b"\x1d\x01\x02\x03\x04"), RejectReason::Implausible, &["is_in"]);
    refused(item_proto(b"\x25\x01\x02\x03\x04"), RejectReason::Implausible, &["pos_mm"]);
    refused(item_proto(b"\x0a\x02\x0a\x00"), RejectReason::Implausible, &["momentum"]);
    refused(board_proto(b"\x1a\x00"), RejectReason::Implausible, &["status"]);
}

#[test]
fn an_impossible_momentum_is_implausible() {
    let momentum = |seconds| pb::ItemEvent { momentum: Some(at(seconds)), ..least_item() };
    let new_year_2015 = 1_420_070_400;
    assert!(read(&momentum(new_year_2015)).is_ok());
    let day_ahead = NOW.unix_timestamp() + 86_400;
    assert!(read(&momentum(day_ahead)).is_ok());
    for (seconds, words) in [
        (new_year_2015 - 1, "before 2015"),
        (0, "before 2015"),
        (day_ahead + 1, "ahead"),
        (i64::MAX, "years 0 to 9999"),
        (i64::MIN, "years 0 to 9999"),
    ] {
        refused(read(&momentum(seconds)), RejectReason::Implausible, &["momentum", words]);
    }
}

#[test]
fn future_momentum_is_accepted_without_clock_trust() {
    let ahead =
        pb::ItemEvent { momentum: Some(at(NOW.unix_timestamp() + 864_000)), ..least_item() };
    let payload = Bytes::from(ahead.encode_to_vec());
    let decoder = shipped(KeepPayload::Never);
    let decode = |clock| decoder.decode("centiloc/acme", &payload, NOW, clock);
    assert!(decode(ClockTrust::Unknown).is_ok());
    refused(decode(ClockTrust::Agree(NOW)), RejectReason::Implausible, &["ahead"]);
}

#[test]
fn identifiers_must_be_printable() {
    for uid in ["E1\0", "\u{7}", "a\nb"] {
        let item = pb::ItemEvent { uid: uid.into(), ..least_item() };
        refused(read(&item), RejectReason::Implausible, &["uid"]);
        let board = pb::BoardStatusEvent { sn: uid.into(), ..least_board() };
        refused(board_proto(&board.encode_to_vec()), RejectReason::Implausible, &["sn"]);
    }
    let item = pb::ItemEvent { uid: "Étagère 3 №1".into(), ..least_item() };
    assert_eq!(read(&item).unwrap().uid, "Étagère 3 №1");
}

#[test]
fn other_texts_may_contain_nul() {
    let item = pb::ItemEvent { loc_reference: "a\0b".into(), ..least_item() };
    assert_eq!(read(&item).unwrap().loc_reference.as_deref(), Some("a\0b"));
}

#[test]
fn positions_are_read_packed_and_not() {
    let (packed, single) = (b"\x22\x03\x43\xda\x01", b"\x20\x43\x20\xda\x01");
    for bytes in [&packed[..], single, b"\x22\x01\x43\x20\xda\x01", b"\x22\x00\x22\x03\x43\xda\x01"]
    {
        let item = item_proto(&followed_by(&least_item(), bytes)).unwrap();
        assert_eq!((item.x_mm, item.y_mm, item.extra), (Some(67), Some(218), None));
    }
    let more = pb::ItemEvent { pos_mm: vec![1, -2, 3], pos_on_shelf_mm: vec![9], ..least_item() };
    let item = read(&more).unwrap();
    assert_eq!((item.x_mm, item.y_mm, item.shelf_x_mm), (Some(1), Some(-2), Some(9)));
    let extra = json!({"pos_mm": [1, -2, 3], "pos_on_shelf_mm": [9]});
    assert_eq!(Value::from(item.extra.unwrap()), extra);
}

#[test]
fn last_field_counts_and_messages_merge() {
    let later = pb::ItemEvent {
        uid: "E2".into(),
        momentum: Some(prost_types::Timestamp { seconds: 0, nanos: 5_000 }),
        ..Default::default()
    };
    let item = item_proto(&followed_by(&least_item(), &later.encode_to_vec())).unwrap();
    assert_eq!(item.uid, "E2");
    assert_eq!(item.momentum, datetime!(2025-10-09 08:53:20.000005 UTC));
}

#[test]
fn unknown_fields_of_every_type_are_skipped() {
    let decoder = shipped(KeepPayload::Unknown);
    let kept = |more: &[u8]| {
        let bytes = followed_by(&least_item(), more);
        let payload =
            decode(&decoder, EventKind::Item, EventEncoding::Protobuf, &bytes).map(item)?.payload;
        assert!(payload.iter().all(|payload| *payload == bytes));
        Ok::<_, Reject>(payload.is_some())
    };
    assert_eq!(kept(b""), Ok(false));
    for unknown in [
        &b"\xf8\x0f\x01"[..],
        b"\xf9\x0f12345678",
        b"\xfa\x0f\x03new",
        b"\xfd\x0f1234",
        b"\xfb\x0f\x08\x01\x13\x14\x12\x01x\xfc\x0f",
        b"\xf8\xff\xff\xff\x0f\x01",
    ] {
        assert_eq!(kept(unknown), Ok(true), "{unknown:?}");
    }
    for broken in [&b"\xfb\x0f\x08\x01"[..], b"\xfb\x0f\xf4\x0f", b"\xfc\x0f", b"\xfa\x0f\x09x"] {
        refused(kept(broken), RejectReason::Malformed, &["byte 12"]);
    }
    let mut deep = b"\xfb\x0f".repeat(50_000);
    deep.extend(b"\xfc\x0f".repeat(50_000));
    refused(kept(&deep), RejectReason::Malformed, &["recursion"]);
}

#[test]
fn hold_time_is_cut_towards_zero() {
    let hold = |seconds, nanos| {
        read(&pb::ItemEvent { hold_time: Some(Duration { seconds, nanos }), ..least_item() })
    };
    assert_eq!(hold(688, 909_075_924).unwrap().hold_time_us, Some(688_909_075));
    assert_eq!(hold(0, -1_999).unwrap().hold_time_us, Some(-1));
    assert_eq!(hold(0, 0).unwrap().hold_time_us, Some(0));
    refused(hold(i64::MAX, 0), RejectReason::OutOfRange, &["hold_time"]);
}

#[test]
fn statuses_are_bare_names_or_numbers() {
    let status = |status| {
        let event = pb::BoardStatusEvent { status, ..least_board() };
        board_proto(&event.encode_to_vec()).unwrap().status.unwrap()
    };
    assert_eq!(status(0), "CONNECTED");
    assert_eq!(status(1), "DISCONNECTED");
    assert_eq!(status(2), "ONERROR");
    assert_eq!(status(3), "MAINTENANCE");
    assert_eq!(status(4), "DEGRADED");
    assert_eq!(status(7), "7");
    assert_eq!(status(-1), "-1");
}

#[test]
fn board_times_beyond_year_9999_are_refused() {
    let event = pb::BoardStatusEvent { last_error_date: Some(at(i64::MAX)), ..least_board() };
    refused(board_proto(&event.encode_to_vec()), RejectReason::OutOfRange, &["last_error_date"]);
    let unset =
        pb::BoardStatusEvent { last_error_date: Some(at(-62_135_596_800)), ..least_board() };
    assert_eq!(board_proto(&unset.encode_to_vec()).unwrap().last_error_at, None);
}

#[test]
fn the_other_format_is_reported_as_such() {
    let reject = item_proto(b" {\"uid\": \"E1\"}\n").unwrap_err();
    assert_eq!(reject.reason, RejectReason::Malformed);
    for part in
        ["the payload is JSON", "centiloc/acme carries", "centiloc/acme/json/item/v1/update"]
    {
        assert!(reject.detail.contains(part), "{reject} lacks {part}");
    }
    assert!(!reject.detail.contains("decode.proto_file"), "no number is wrong: {reject}");
    let payload = least_board().encode_to_vec();
    let decoder = shipped(KeepPayload::Never);
    let reject = decode(&decoder, EventKind::Board, EventEncoding::Json, &payload).unwrap_err();
    assert_eq!(reject.reason, RejectReason::Malformed);
    for part in ["the payload is protobuf", "centiloc/acme/proto/board/v1/update"] {
        assert!(reject.detail.contains(part), "{reject} lacks {part}");
    }
}
