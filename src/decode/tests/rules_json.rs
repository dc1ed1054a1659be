//! The rules for JSON values, one in each test.

use serde_json::{Value, json};

use super::*;
use crate::event::RejectReason;

/// An item with one more key.
fn with(key: &str, value: &str) -> Result<ItemEvent, Reject> {
    item_json(&format!(r#"{{"momentum":"2025-10-09T08:53:20Z","uid":"E1","{key}":{value}}}"#))
}

fn refused<T: std::fmt::Debug>(result: Result<T, Reject>, reason: RejectReason, words: &[&str]) {
    let reject = result.unwrap_err();
    assert_eq!(reject.reason, reason, "{reject}");
    for word in words {
        assert!(reject.detail.contains(word), "{reject} lacks {word}");
    }
}

#[test]
fn absent_keys_are_null_or_false() {
    let item = item_json(r#"{"momentum":"2025-10-09T08:53:20Z","uid":"E1"}"#).unwrap();
    assert_eq!((item.tenant.as_str(), item.is_in), ("acme", false));
    assert_eq!(item.floor.or(item.nb_hits).or(item.x_mm), None);
    assert_eq!((item.fill_ratio, item.hold_time_us), (None, None));
    assert_eq!((item.is_interpolated, item.loc_labels, item.extra), (None, None, None));
}

#[test]
fn null_empty_text_and_empty_lists_are_null() {
    let item = item_json(
        r#"{"momentum":"2025-10-09T08:53:20Z","uid":"E1","tenant":"","board_sn":"","shelf_sn":null,
            "pos_mm":[],"pos_on_shelf_mm":null,"loc_labels":[],"item_labels":null,"floor":null,
            "is_in":null,"hold_time":null,"fill_ratio":null,"is_interpolated":null}"#,
    )
    .unwrap();
    assert_eq!(item, item_json(r#"{"momentum":"2025-10-09T08:53:20Z","uid":"E1"}"#).unwrap());
}

#[test]
fn numbers_and_booleans_are_kept() {
    assert_eq!(with("floor", "0").unwrap().floor, Some(0));
    assert_eq!(with("floor", "-2").unwrap().floor, Some(-2));
    assert_eq!(with("nb_hits", "2147483647").unwrap().nb_hits, Some(i32::MAX));
    assert_eq!(with("floor", "2.0").unwrap().floor, Some(2));
    assert_eq!(with("floor", "1e3").unwrap().floor, Some(1000));
    assert_eq!(with("is_interpolated", "false").unwrap().is_interpolated, Some(false));
    assert_eq!(with("fill_ratio", "0.560447").unwrap().fill_ratio, Some(0.560_447));
    assert_eq!(with("hold_time", "0").unwrap().hold_time_us, Some(0));
}

#[test]
fn oversized_numbers_are_out_of_range() {
    for (key, value) in [
        ("floor", "2147483648"),
        ("nb_hits", "-2147483649"),
        ("floor", "99999999999999999999"),
        ("floor", "1e400"),
        ("pos_mm", "[1,3000000000]"),
        ("fill_ratio", "1e39"),
        ("hold_time", "9223372036854775808"),
        ("hold_time", "\"2562048h\""),
    ] {
        refused(with(key, value), RejectReason::OutOfRange, &[key]);
    }
}

#[test]
fn wrong_types_name_key_and_found_value() {
    for (key, value, found) in [
        ("board_sn", "12", "a number"),
        ("is_in", "\"true\"", "a string"),
        ("is_in", "1", "a number"),
        ("floor", "\"1\"", "a string"),
        ("floor", "1.5", "1.5"),
        ("fill_ratio", "true", "a boolean"),
        ("pos_mm", "{}", "an object"),
        ("pos_mm", "\"1,2\"", "a string"),
        ("pos_mm", "[1,null]", "null"),
        ("loc_labels", "\"cold\"", "a string"),
        ("loc_labels", "[1]", "a number"),
        ("hold_time", "[]", "a list"),
        ("hold_time", "\"1 h\"", "1 h"),
        ("hold_time", "true", "a boolean"),
    ] {
        refused(with(key, value), RejectReason::Malformed, &[key, found]);
    }
    refused(
        item_json(r#"{"momentum":1760000000,"uid":"E1"}"#),
        RejectReason::Malformed,
        &["momentum", "a number"],
    );
    refused(
        item_json(r#"{"momentum":"yesterday","uid":"E1"}"#),
        RejectReason::Malformed,
        &["momentum", "yesterday"],
    );
}

#[test]
fn other_values_than_objects_are_malformed() {
    for (text, found) in [
        ("", "nothing"),
        ("  ", "nothing"),
        ("[]", "a list"),
        ("null", "null"),
        ("\"x\"", "a string"),
        ("17", "a number"),
        ("\u{feff}{}", "something else"),
        ("{", "EOF"),
        (r#"{"uid":"E1"} trailing"#, "trailing"),
        (r#"{"uid":}"#, "expected value"),
    ] {
        refused(item_json(text), RejectReason::Malformed, &[found]);
        refused(board_json(text), RejectReason::Malformed, &[found]);
    }
    let decoder = shipped(KeepPayload::Never);
    let broken = decode(&decoder, EventKind::Item, EventEncoding::Json, b"{\"uid\":\"\xff\"}");
    refused(broken, RejectReason::Malformed, &["UTF-8 at byte 8"]);
}

#[test]
fn required_keys_are_named() {
    for (text, name) in [
        ("{}", "momentum"),
        (r#"{"uid":"E1"}"#, "momentum"),
        (r#"{"uid":"E1","momentum":null}"#, "momentum"),
        (r#"{"uid":"E1","momentum":""}"#, "momentum"),
        (r#"{"uid":"E1","momentum":"0001-01-01T00:00:00Z"}"#, "momentum"),
        (r#"{"momentum":"2025-10-09T08:53:20Z"}"#, "uid"),
        (r#"{"momentum":"2025-10-09T08:53:20Z","uid":""}"#, "uid"),
    ] {
        refused(item_json(text), RejectReason::MissingField, &[name]);
    }
    refused(board_json(r#"{"BoardSN":"B1"}"#), RejectReason::MissingField, &["Momentum"]);
    let lacking = board_json(r#"{"Momentum":"2025-10-09T08:53:20Z"}"#);
    refused(lacking, RejectReason::MissingField, &["BoardSN"]);
}

#[test]
fn keys_are_matched_without_regard_to_case() {
    let item = item_json(r#"{"Momentum":"2025-10-09T08:53:20Z","UID":"E1","Is_In":true}"#).unwrap();
    assert_eq!((item.uid.as_str(), item.is_in, item.extra), ("E1", true, None));
    let board = board_json(
        r#"{"momentum":"2025-10-09T08:53:20Z","boardsn":"B1","STATUS":"connected","fwversion":"5"}"#,
    )
    .unwrap();
    assert_eq!(board.status.as_deref(), Some("CONNECTED"));
    assert_eq!((board.fw_version.as_deref(), board.extra), (Some("5"), None));
}

#[test]
fn last_equal_key_and_documented_spelling_win() {
    let equal = with("uid", "\"E2\"").unwrap();
    assert_eq!((equal.uid.as_str(), equal.extra), ("E2", None));
    assert_eq!(with("uid", "null").unwrap().uid, "E1");
    let variant_after = with("UID", "\"E2\"").unwrap();
    assert_eq!(variant_after.uid, "E1");
    assert_eq!(Value::from(variant_after.extra.unwrap()), json!({"UID": "E2"}));
    let text = r#"{"UID":"E2","uid":"E1","momentum":"2025-10-09T08:53:20Z"}"#;
    let variant_before = item_json(text).unwrap();
    assert_eq!(variant_before.uid, "E1");
    assert_eq!(Value::from(variant_before.extra.unwrap()), json!({"UID": "E2"}));
}

#[test]
fn unknown_keys_are_kept_as_they_are() {
    let text =
        r#"{"a":[1,{"b":null}],"big":18446744073709551615,"neg":-9223372036854775808,"s":"x"}"#;
    let item = with("new", text).unwrap();
    assert_eq!(serde_json::to_string(&item.extra.unwrap()["new"]).unwrap(), text);
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    assert_eq!(with("deep", &deep).unwrap().extra.unwrap()["deep"], json!(deep));
    assert_eq!(with("huge", "1e999").unwrap().extra.unwrap()["huge"], json!("1e999"));
}

#[test]
fn positions_that_are_no_pair_are_kept_whole() {
    let three = with("pos_on_floor_mm", "[1,2,3]").unwrap();
    assert_eq!((three.floor_x_mm, three.floor_y_mm), (Some(1), Some(2)));
    assert_eq!(Value::from(three.extra.unwrap()), json!({"pos_on_floor_mm": [1, 2, 3]}));
    let one = with("pos_mm", "[7]").unwrap();
    assert_eq!((one.x_mm, one.y_mm), (Some(7), None));
    assert_eq!(Value::from(one.extra.unwrap()), json!({"pos_mm": [7]}));
}

#[test]
fn times_are_cut_but_ids_are_not() {
    let momentum =
        |text: &str| item_json(&format!(r#"{{"momentum":"{text}","uid":"E1"}}"#)).unwrap();
    let (a, b) =
        (momentum("2025-10-09T08:53:20.041005043Z"), momentum("2025-10-09T08:53:20.041005999Z"));
    assert_eq!(a.momentum, datetime!(2025-10-09 08:53:20.041005 UTC));
    assert_eq!(b.momentum, a.momentum);
    assert_ne!(a.event_id, b.event_id);
    assert_eq!(momentum("1960-01-01T00:00:00.0000009Z").momentum, datetime!(1960-01-01 0:00 UTC));
    assert_eq!(with("hold_time", "-1999").unwrap().hold_time_us, Some(-1));
    assert_eq!(with("hold_time", "\"-1.5h\"").unwrap().hold_time_us, Some(-5_400_000_000));
}

#[test]
fn text_is_unescaped_and_nul_kept() {
    let item = with("board_sn", r#""a\"\u00e9\n\u0000""#).unwrap();
    assert_eq!(item.board_sn.as_deref(), Some("a\"é\n\0"));
    refused(with("board_sn", r#""\ud800""#), RejectReason::Malformed, &["board_sn"]);
}

#[test]
fn board_times_that_are_unset_are_null() {
    let board = board_json(
        r#"{"Momentum":"2026-03-01T10:00:00Z","BoardSN":"B1","Status":"",
            "LastErrorDate":"0001-01-01T00:00:00Z","LastConnectionDate":"2026-03-01T11:00:00.1234567+01:00"}"#,
    )
    .unwrap();
    assert_eq!(
        (board.status, board.last_error_at, board.last_disconnection_at),
        (None, None, None)
    );
    assert_eq!(board.last_connection_at, Some(datetime!(2026-03-01 10:00:00.123456 UTC)));
}

#[test]
fn json_skips_plausibility_checks() {
    let item = item_json(r#"{"momentum":"1999-01-01T00:00:00Z","uid":"a\u0007"}"#).unwrap();
    assert_eq!(item.uid, "a\u{7}");
}

#[test]
fn payloads_are_kept_as_configured() {
    let known = br#"{"momentum":"2025-10-09T08:53:20Z","uid":"E1"}"#;
    let unknown = br#"{"momentum":"2025-10-09T08:53:20Z","uid":"E1","new":1}"#;
    for (keep, keeps_known, keeps_unknown) in [
        (KeepPayload::Always, true, true),
        (KeepPayload::Auto, true, true),
        (KeepPayload::Unknown, false, true),
        (KeepPayload::Never, false, false),
    ] {
        let decoder = shipped(keep);
        let kept = |text: &[u8]| {
            item(decode(&decoder, EventKind::Item, EventEncoding::Json, text).unwrap()).payload
        };
        assert_eq!(kept(known), keeps_known.then(|| Bytes::from_static(known)), "{keep:?}");
        assert_eq!(kept(unknown), keeps_unknown.then(|| Bytes::from_static(unknown)), "{keep:?}");
    }
}

#[test]
fn an_unknown_topic_is_named() {
    let decoder = shipped(KeepPayload::Never);
    let result = decoder.decode("centiloc/other", &Bytes::new(), NOW, ClockTrust::Agree(NOW));
    refused(result, RejectReason::UnknownTopic, &["centiloc/other", "acme"]);
}

#[test]
fn far_numbers_are_refused_like_near_ones() {
    for number in ["2147483648", "1e30"] {
        refused(with("floor", number), RejectReason::OutOfRange, &["32 bits with a sign"]);
    }
}
