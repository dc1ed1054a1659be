//! Refusals of schemas, which name the cause and the remedy.

use std::path::Path;

use super::vendor::{decoder, item_schema, refusal};

#[test]
fn refusals_name_cause_and_remedy() {
    for (source, words) in [
        ("", &["no messages", "name the file"][..]),
        ("syntax = \"proto3\"; message Foo { int32 a = 1; }", &["it has Foo", "momentum and uid"]),
        ("syntax = \"proto3\"; message {", &["vendor.proto:1:", "--descriptor_set_out"]),
        (
            "syntax = \"proto3\"; import \"missing.proto\";",
            &["missing.proto", "in the same folder"],
        ),
        ("\u{1}\u{2}", &["could not compile"]),
    ] {
        let text = refusal(source);
        for word in words.iter().chain(&["decode.proto_file", "vendor.proto"]) {
            assert!(text.contains(word), "{text} lacks {word}");
        }
    }
    let absent = decoder(Path::new("/nonexistent/vendor.proto")).unwrap_err();
    assert!(absent.contains("could not read it"), "{absent}");
}

#[test]
fn equally_fitting_messages_are_refused_by_name() {
    let two = item_schema("")
        .replace("Inner { int32 x = 1;", "Twin { string uid = 1; int32 momentum = 2;");
    let text = refusal(&two);
    assert!(text.contains("both Twin and Item") && text.contains("item message"), "{text}");
}

#[test]
fn unreadable_field_types_name_the_readable_ones() {
    for (field, found, accepted) in [
        ("Inner pos_mm = 3;", "message Inner", "repeated integers"),
        ("string is_in = 3;", "string", "bool"),
        ("double floor = 3;", "double", "an integer"),
        ("map<string, string> loc_labels = 3;", "a map", "repeated string"),
        ("repeated string board_sn = 3;", "repeated string", "string, bytes"),
        ("int32 fill_ratio = 3;", "int32", "float or double"),
        ("google.protobuf.Timestamp hold_time = 3;", "google.protobuf.Timestamp", "Duration"),
    ] {
        let text = refusal(&item_schema(field));
        let name = field.rsplit(' ').nth(2).unwrap();
        assert!(text.contains(&format!("field {name} of message Item is")), "{text}");
        assert!(text.contains(found) && text.contains(accepted), "{text}");
    }
}
