use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::changes::{LayoutAction, LayoutKind, compare};
use super::*;

fn of(text: &str) -> LayoutFindings {
    read([("ward.yaml", text.as_bytes())])
}

fn accepted(text: &str) -> SiteLayout {
    let found = of(text);
    assert_eq!(found.problems, [], "{text}");
    found.layout
}

/// Returns the remarks as they are printed.
fn shown(remarks: &[FileRemark]) -> Vec<String> {
    remarks.iter().map(ToString::to_string).collect()
}

/// Asserts that each problem begins with one of these texts, in this order.
fn assert_problems(text: &str, expected: &[&str]) {
    let problems = shown(&of(text).problems);
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}\n{expected}");
    }
}

const SHELF: &str = "
sn: S1
furniture_sn: F1
name: Upper shelf
floor: 2
dimensions_mm: [1660, 300.5, 40]
offsets_mm: [0, 10, 700]
rot_angles: [0, 0, 90]
boards:
  - {sn: B1, offsets_mm: [0, 0], z_rot_angle: 180}
  - sn: 0012
    offsets: {x: 420, y: 5}
    dimensions_mm: [400, 300]
locations:
  - reference: LOC-1
    weight: 2
    origin_coord: [10, 20]
    dimensions_mm: [500, 280]
    labels: [cold, 7]
led_strips:
  - {length: 60, on: true}
";

#[test]
fn every_key_has_its_column() {
    let layout = accepted(SHELF);
    let place = LayoutPlace {
        x_mm: Some(0.0),
        y_mm: Some(10.0),
        z_mm: Some(700.0),
        x_rotation: Some(0.0),
        y_rotation: Some(0.0),
        z_rotation: Some(90.0),
        width_mm: Some(1660.0),
        depth_mm: Some(300.5),
        height_mm: Some(40.0),
    };
    let shelf = LayoutShelf {
        shelf_sn: "S1".into(),
        furniture_sn: Some("F1".into()),
        name: Some("Upper shelf".into()),
        floor: Some(2),
        place,
        led_strips: Some(json!([{ "length": 60, "on": true }])),
        extra: None,
    };
    let board = LayoutBoard {
        board_sn: "B1".into(),
        shelf_sn: "S1".into(),
        x_mm: Some(0.0),
        y_mm: Some(0.0),
        z_rotation: Some(180.0),
        ..LayoutBoard::default()
    };
    let second = LayoutBoard {
        board_sn: "0012".into(),
        x_mm: Some(420.0),
        y_mm: Some(5.0),
        z_rotation: None,
        width_mm: Some(400.0),
        depth_mm: Some(300.0),
        ..board.clone()
    };
    let location = LayoutLocation {
        loc_reference: "LOC-1".into(),
        shelf_sn: "S1".into(),
        weight: Some(2.0),
        x_mm: Some(10.0),
        y_mm: Some(20.0),
        width_mm: Some(500.0),
        depth_mm: Some(280.0),
        labels: Some(vec!["cold".into(), "7".into()]),
        extra: None,
    };
    let expected = SiteLayout {
        furniture: vec![],
        shelves: vec![shelf],
        boards: vec![board, second],
        locations: vec![location],
    };
    assert_eq!(layout, expected);
}

#[test]
fn arrangements_of_one_meaning_are_equal() {
    let shelf = "sn: S1, boards: [{sn: B1}]";
    let one = accepted(&format!("{{{shelf}}}"));
    assert_eq!((one.shelves.len(), one.boards.len()), (1, 1));
    for same in [
        format!("[{{{shelf}}}]"),
        format!("- {{{shelf}}}\n"),
        format!("shelves: [{{{shelf}}}]"),
        format!("---\n{{{shelf}}}\n---\n# nothing\n...\n"),
        format!("\u{feff}{{{shelf}}}\r\n"),
        "{\"sn\": \"S1\", \"boards\": [{\"sn\": \"B1\"}], \"locations\": null}".into(),
        "x: &b {sn: B1}\nshelves: [{sn: S1, boards: [*b]}]".into(),
    ] {
        assert_eq!(accepted(&same), one, "{same}");
    }
    let documents = accepted("{sn: S1, boards: []}\n---\n{sn: S2, boards: []}");
    assert_eq!(documents.shelves.len(), 2);
}

#[test]
fn furniture_bears_the_shelves_it_lists() {
    let found = of("furniture: [{sn: F1, floor: 3, shelves: [{sn: S1}]}, {sn: F2}]");
    assert_eq!(found.problems, []);
    assert_eq!(found.layout.shelves[0].furniture_sn.as_deref(), Some("F1"));
    assert_eq!(found.layout.furniture[0].floor.as_deref(), Some("3"));
    assert!(found.complete_furniture.iter().eq(["F1"]));
    assert_problems(
        "furniture: [{sn: F1, shelves: [{sn: S1, furniture_sn: F2}]}]",
        &["ward.yaml:1: furniture[0].shelves[0].furniture_sn: expected \"F1\""],
    );
}

#[test]
fn unknown_keys_are_kept_and_reported() {
    let found = of("sn: S1
colour: {ral: 9010, codes: [1.5, 1e3, 007, yes, null, \"2\", 99999999999999999999]}
boards:
  - sn: B1
    offsets_mm: [1, 2, 3]
    refrence: A
");
    let extra = found.layout.shelves[0].extra.clone().unwrap();
    let codes = json!([1.5, 1e3, "007", "yes", null, "2", "99999999999999999999"]);
    assert_eq!(Value::Object(extra), json!({ "colour": { "ral": 9010, "codes": codes } }));
    let board = &found.layout.boards[0];
    assert_eq!((board.x_mm, board.y_mm), (Some(1.0), Some(2.0)));
    assert_eq!(
        board.extra.clone().map(Value::Object),
        Some(json!({ "offsets_mm": [1, 2, 3], "refrence": "A" }))
    );
    assert_eq!(
        shown(&found.notices),
        [
            "ward.yaml:5: boards[0].offsets_mm: kept in column extra",
            "ward.yaml:6: boards[0].refrence: kept in column extra; did you mean reference?",
            "ward.yaml:2: colour: kept in column extra"
        ]
    );
}

#[test]
fn every_problem_is_reported_with_its_place() {
    assert_problems(
        "shelves:
  - floor: 1.5
    boards: {sn: B1}
    dimensions_mm: [1, -2, 3]
  - sn: S2
    floor: ground
    offsets_mm: 5
    rot_angles: [.nan, 1e9, \"3\"]
    locations:
      - weight: heavy
      - reference: ''
      - reference: L
        origin_coord: {x: 1, width: 2, u: 3}
      - text
",
        &[
            "ward.yaml:2: shelves[0].sn: expected a text, found nothing",
            "ward.yaml:2: shelves[0].floor: expected a whole number, found 1.5",
            "ward.yaml:3: shelves[0].boards: expected a list, found keys and values",
            "ward.yaml:4: shelves[0].dimensions_mm: expected sizes of 0 or more",
            "ward.yaml:6: shelves[1].floor: expected a number, found \"ground\"",
            "ward.yaml:7: shelves[1].offsets_mm: expected [x, y] or [x, y, z], found \"5\"",
            "ward.yaml:8: shelves[1].rot_angles[0]: expected a number, found \".nan\"",
            "ward.yaml:8: shelves[1].rot_angles[1]: expected a number from -10000000 to 10000000",
            "ward.yaml:8: shelves[1].rot_angles[2]: expected a number, found the text \"3\": remove",
            "ward.yaml:10: shelves[1].locations[0].reference: expected a text, found nothing",
            "ward.yaml:11: shelves[1].locations[1].reference: expected a text, found \"\"",
            "ward.yaml:13: shelves[1].locations[2].origin_coord.width: expected one of x, y, z",
            "ward.yaml:13: shelves[1].locations[2].origin_coord.u: expected one of x, y, z",
            "ward.yaml:14: shelves[1].locations[3]: expected keys and values, found \"text\"",
        ],
    );
}

#[test]
fn repetitions_are_refused_with_both_places() {
    let one = "{sn: S1, boards: [{sn: B1}], locations: [{reference: L}]}";
    let two = "sn: S2\nboards:\n  - sn: B1\nlocations:\n  - reference: L\n  - reference: L\n";
    let found = read([("a.yaml", one.as_bytes()), ("b.yaml", two.as_bytes())]);
    assert_eq!(
        shown(&found.problems),
        [
            "b.yaml:3: board \"B1\" is also at a.yaml:1: keep one",
            "b.yaml:6: location \"L\" of shelf \"S2\" is also at b.yaml:5: keep one",
        ]
    );
    assert_problems(
        "sn: S1\nsn: S2\nboards: []",
        &["ward.yaml:2: the key \"sn\" is also in line 1"],
    );
    assert_problems(
        "sn: S1\nboards: [{sn: B, offsets: [1, 2], offsets_mm: [1, 2]}]",
        &["ward.yaml:2: boards[0].offsets: offsets_mm is given too"],
    );
}

#[test]
fn unsuitable_texts_are_refused() {
    for (text, expected) in [
        ("", "ward.yaml: expected shelves or furniture, found nothing"),
        ("# nothing\n---\n", "ward.yaml: expected shelves or furniture, found nothing"),
        ("sn: S1\nfloor: 1\n", "ward.yaml:1: expected a shelf (with boards or locations)"),
        ("just text", "ward.yaml:1: expected keys and values, found \"just text\""),
        ("sn: S1\nboards:\n\t- sn: B1\n", "ward.yaml:"),
        ("sn: [\n", "ward.yaml:"),
        ("sn: *nothing\nboards: []", "ward.yaml:1: "),
        ("&a [*a]", "ward.yaml:1: an alias refers to a value that contains it"),
        ("sn: S1\nboards: []\n<<: {}\n", "ward.yaml:3: merge keys are not supported"),
        ("sn: !secret S1\nboards: []\n", "ward.yaml:1: the tag !secret is unknown"),
        ("? [a]\n: b\n", "ward.yaml:1: expected a text as key"),
        ("sn: \"a\\0b\"\nboards: []", "ward.yaml:1: expected text without NUL"),
        ("sn: \"a\\nb\"\nboards: []", "ward.yaml:1: sn: expected printable text"),
        ("sn: \" a\"\nboards: []", "ward.yaml:1: sn: expected text without blanks"),
    ] {
        assert_problems(text, &[expected]);
    }
    let tabs = shown(&of("sn: S1\nboards:\n\t- sn: B1\n").problems);
    assert!(tabs[0].ends_with("indent with spaces, not with tabs"), "{tabs:?}");
    let latin = read([("a.yaml", &b"sn: S1\nname: caf\xe9\nboards: []"[..])]);
    assert_eq!(
        shown(&latin.problems),
        ["a.yaml:2: expected UTF-8; save the file in this encoding"]
    );
}

#[test]
fn sizes_and_nesting_are_bounded() {
    let long = format!("sn: {}\nboards: []", "x".repeat(501));
    assert_problems(&long, &["ward.yaml:1: sn: expected at most 500 bytes, found 501"]);
    let limit = usize::try_from(MAX_FILE).unwrap();
    assert_problems(&" ".repeat(limit + 1), &["ward.yaml: expected at most 8 MiB"]);
    for deep in ["[".repeat(100), "- ".repeat(100_000), "{a: ".repeat(100)] {
        assert_problems(&deep, &["ward.yaml:1: expected at most 32 levels"]);
    }
    // Ten aliases of ten aliases of …, nine times.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..10 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        writeln!(bomb, "a{n}: &a{n} [{aliases}]").unwrap();
    }
    let problems = shown(&of(&bomb).problems);
    assert!(problems[0].contains("expected at most 500000 values"), "{problems:?}");
    let text = "y".repeat(1_000_000);
    let copies = vec!["*t"; 40].join(", ");
    let problems = shown(&of(&format!("t: &t {text}\nl: [{copies}]")).problems);
    assert!(problems[0].contains("bytes of text"), "{problems:?}");
}

#[test]
fn comparison_names_added_changed_and_removed_rows() {
    let before = accepted("shelves: [{sn: S1, boards: [{sn: B1}, {sn: B2}]}, {sn: S2}]");
    let after = accepted("shelves: [{sn: S1, floor: 1}, {sn: S2, boards: [{sn: B1}, {sn: B3}]}]");
    let differences = compare(&before, &after);
    let differences: Vec<_> = differences
        .iter()
        .map(|c| (c.action, c.kind, c.name.as_str(), c.shelf_sn.as_deref(), c.columns.join(" ")))
        .collect();
    let (added, changed, removed) =
        (LayoutAction::Added, LayoutAction::Changed, LayoutAction::Removed);
    let (shelf, board) = (LayoutKind::Shelf, LayoutKind::Board);
    assert_eq!(
        differences,
        [
            (changed, shelf, "S1", None, "floor".to_owned()),
            (changed, board, "B1", Some("S2"), "shelf_sn".to_owned()),
            (removed, board, "B2", Some("S1"), String::new()),
            (added, board, "B3", Some("S2"), String::new()),
        ]
    );
    assert_eq!(compare(&after, &after), []);
}

/// Texts made of what YAML gives a meaning to.
fn yaml_like() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "sn: ",
        "- ",
        "\n",
        "  ",
        "boards:",
        "shelves:",
        "furniture:",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "S1",
        "'",
        "\"",
        "&a ",
        "*a",
        "!!str ",
        "|",
        ">",
        "#",
        ": ",
        "?",
        "---\n",
        "...",
        "1",
        "-",
        ".",
        "\t",
        "\\x00",
        "é",
        "%",
        "locations:\n",
        "dimensions_mm: ",
        "<<",
        "null",
        "\u{feff}",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in yaml_like()) {
        let found = of(&text);
        let SiteLayout { shelves, boards, locations, .. } = &found.layout;
        let is_known = |sn: &str| shelves.iter().any(|shelf| shelf.shelf_sn == sn);
        if found.problems.is_empty() {
            prop_assert!(boards.iter().all(|board| is_known(&board.shelf_sn)), "{found:?}");
            prop_assert!(locations.iter().all(|l| is_known(&l.shelf_sn)), "{found:?}");
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let found = read([("x", bytes.as_slice())]);
        prop_assert!(found.problems.iter().all(|problem| problem.place.file == "x"));
    }

    #[test]
    fn numbers_are_read_as_written(x in -1e7..1e7_f64, y in -10_000_000..10_000_000_i32) {
        let layout = accepted(&format!("sn: S\nboards: [{{sn: B, offsets_mm: [{x}, {y}]}}]"));
        prop_assert_eq!(layout.boards[0].x_mm, Some(x));
        prop_assert_eq!(layout.boards[0].y_mm, Some(f64::from(y)));
    }

    #[test]
    fn json_keeps_what_yaml_quotes(text in "[ -~é\n]{0,40}") {
        let quoted = serde_json::to_string(&text).unwrap();
        let layout = accepted(&format!("sn: S\nboards: []\nnote: {quoted}"));
        prop_assert_eq!(&layout.shelves[0].extra.as_ref().unwrap()["note"], &json!(text));
    }
}
