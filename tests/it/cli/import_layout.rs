//! `import-layout`, as built.

use std::process::Command;

use centiloc_bridge::event::ItemEvent;
use centiloc_bridge::layout::{
    LayoutBoard, LayoutFindings, LayoutFurniture, LayoutLocation, LayoutPlace, LayoutShelf,
    SiteLayout, read,
};
use centiloc_bridge::store::layout::LayoutImport;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};

use crate::support::bridge::{command, finish};
use crate::support::config::database_only;
use crate::support::process::ScratchFolder;
use crate::support::store::{StoreFixture, arrives, board, of_board};

const SAMPLE: &str = include_str!("import_layout.yaml");

/// A database, and a folder for files.
struct ImportFixture {
    store: StoreFixture,
    folder: ScratchFolder,
}

impl ImportFixture {
    async fn new() -> Self {
        Self { store: StoreFixture::new().await, folder: ScratchFolder::new("layout") }
    }

    fn write(&self, name: &str, text: &str) -> String {
        self.folder.write(name, text).to_str().unwrap().to_owned()
    }

    async fn import(&self, text: &str, more: &[&str], code: i32) -> Value {
        let file = self.write("layout.yaml", text);
        self.store.run_json(&[&["import-layout", &file], more].concat(), code).await
    }

    /// Returns the rows of a table or view as JSON.
    async fn rows(&self, columns: &str, from: &str) -> Vec<Value> {
        let sql = format!(
            "select to_jsonb(r) from (select {columns} from centiloc.{from} order by {columns}) r"
        );
        self.store.db.column(&sql).await
    }
}

/// Returns the changes as words.
fn words(report: &Value) -> Vec<String> {
    let text = |change: &Value, key: &str| change[key].as_str().unwrap_or_default().to_owned();
    let changes = report["changes"].as_array().unwrap().iter();
    changes.map(|c| [text(c, "action"), text(c, "kind"), text(c, "name")].join(" ")).collect()
}

#[tokio::test]
async fn sample_fills_every_table() {
    let fixture = ImportFixture::new().await;
    let report = fixture.import(SAMPLE, &[], 0).await;
    assert_eq!(report["changes"].as_array().unwrap().len(), 11, "{report}");
    let keys: Vec<&str> =
        report["notices"].as_array().unwrap().iter().map(|n| n["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["furniture[0].shelves[1].boards[0].slot", "furniture[0].colour"]);
    let furniture =
        fixture.rows("furniture_sn, name, floor, z_rotation, extra", "layout_furniture");
    let expected = json!({ "furniture_sn": "F1", "name": "Medication cabinet", "floor": "Ward 1",
        "z_rotation": 90, "extra": { "colour": "white" } });
    assert_eq!(furniture.await, [expected]);
    let shelves = fixture.rows("shelf_sn, furniture_sn, floor, z_mm, led_strips", "layout_shelf");
    let [first, second, third] = &shelves.await[..] else { panic!("not three shelves") };
    assert_eq!(first["led_strips"], json!([{ "offset_mm": 10, "count": 60 }]));
    assert_eq!((&second["furniture_sn"], &second["z_mm"]), (&json!("F1"), &json!(350.5)));
    assert_eq!((&third["furniture_sn"], &third["floor"]), (&Value::Null, &Value::Null));
    let boards = fixture.rows("board_sn, shelf_sn, x_mm, z_rotation, extra", "layout_board").await;
    let expected = json!({ "board_sn": "B", "shelf_sn": "S1", "x_mm": 420, "z_rotation": 180,
        "extra": null });
    assert_eq!((boards.len(), &boards[1]), (4, &expected));
    assert_eq!(boards[2]["extra"], json!({ "slot": 7 }));
    let locations =
        fixture.rows("loc_reference, shelf_sn, weight, labels", "layout_location").await;
    let expected =
        json!({ "loc_reference": "LEFT", "shelf_sn": "S1", "weight": 1, "labels": ["cold"] });
    assert_eq!((locations.len(), &locations[0]), (3, &expected));
    let again = fixture.import(SAMPLE, &[], 0).await;
    assert_eq!(again["changes"], json!([]));
}

#[tokio::test]
async fn import_replaces_named_shelves_and_keeps_others() {
    let fixture = ImportFixture::new().await;
    fixture.import(SAMPLE, &[], 0).await;
    let part = "{sn: S1, furniture_sn: F1, boards: [{sn: A, offsets_mm: [5, 0]}, {sn: E}]}";
    let dry = fixture.import(part, &["--dry-run"], 0).await;
    let expected = [
        "changed shelf S1",
        "changed board A",
        "removed board B",
        "added board E",
        "removed location LEFT",
        "removed location RIGHT",
    ];
    assert_eq!(words(&dry), expected);
    assert_eq!(fixture.rows("board_sn", "layout_board where board_sn = 'E'").await.len(), 0);
    let report = fixture.import(part, &[], 0).await;
    assert_eq!(words(&report), expected);
    let left = fixture.rows("board_sn", "layout_board").await;
    assert_eq!(left, ["A", "C", "D", "E"].map(|sn| json!({ "board_sn": sn })));
    // A piece of furniture with a list of shelves has no others.
    let report = fixture.import("furniture: [{sn: F1, shelves: [{sn: S4}]}]", &[], 0).await;
    let shelves: Vec<_> = words(&report).into_iter().filter(|w| w.contains("shelf")).collect();
    assert_eq!(shelves, ["removed shelf S1", "removed shelf S2", "added shelf S4"]);
}

#[tokio::test]
async fn board_on_two_shelves_is_refused() {
    let fixture = ImportFixture::new().await;
    fixture.import(SAMPLE, &[], 0).await;
    let report = fixture.import("sn: S9\nboards:\n  - sn: C\n  - sn: Z\n", &[], 1).await;
    let [problem] = &report["problems"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(problem["line"], 3);
    let text = problem["text"].as_str().unwrap();
    assert!(text.starts_with("board \"C\" is on shelf \"S9\" here and on shelf \"S2\""), "{text}");
    assert_eq!(fixture.rows("shelf_sn", "layout_shelf where shelf_sn = 'S9'").await.len(), 0);
    // Both shelves in one import: the board moves.
    let [first, second] = ["sn: S2\nboards: []\n", "sn: S9\nboards: [{sn: C}]\n"];
    let (first, second) = (fixture.write("a.yaml", first), fixture.write("b.yaml", second));
    let report = fixture.store.run_json(&["import-layout", &first, &second], 0).await;
    assert!(words(&report).contains(&"changed board C".to_owned()), "{report}");
}

#[tokio::test]
async fn problems_of_all_files_are_printed_at_once() {
    let fixture = ImportFixture::new().await;
    let first = fixture.write("a.yaml", "sn: S1\nboards:\n\t- sn: A\n");
    let second = fixture.write("b.yaml", "sn: S1\nfloor: high\nboards: [{sn: A}, {}]\n");
    let third = fixture.folder.path().join("c.yaml");
    std::fs::write(&third, b"sn: \xff").unwrap();
    let third = third.to_str().unwrap();
    let output = fixture.store.run(&["import-layout", &first, &second, third]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "a.yaml:",
        "not with tabs",
        "b.yaml:2: floor: expected a number, found \"high\"",
        "b.yaml:3: boards[1].sn: expected a text, found nothing",
        "c.yaml:1: expected UTF-8",
        "4 problems in the files; nothing was changed",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(fixture.rows("shelf_sn", "layout_shelf").await.len(), 0);
    let missing = fixture.store.run(&["import-layout", "/nowhere/layout.yaml"]).await;
    assert_eq!(missing.status.code(), Some(1));
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(text.contains("could not read /nowhere/layout.yaml; nothing was changed"), "{text}");
    assert_eq!(fixture.store.run(&["import-layout"]).await.status.code(), Some(64));
}

#[tokio::test]
async fn report_counts_boards_of_new_shelves() {
    let fixture = ImportFixture::new().await;
    let file = fixture.write("layout.yaml", SAMPLE);
    let output = fixture.store.run(&["import-layout", &file, "--dry-run"]).await;
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "added   furniture F1\n\
         added   shelf S1 with 2 boards and 2 locations\n\
         added   shelf S2 with 1 board and 1 location\n\
         added   shelf S3 with 1 board and 0 locations\n\
         11 added, 0 changed, 0 removed (dry run: nothing was changed)\n\
         resulting layout: 1 piece of furniture, 3 shelves, 4 boards, 3 locations\n"
    );
    let remarks = String::from_utf8(output.stderr).unwrap();
    assert!(remarks.contains("layout.yaml:9: furniture[0].colour: kept in column extra"));
}

#[tokio::test]
async fn simulated_layout_is_imported_from_standard_input() {
    let fixture = ImportFixture::new().await;
    let folder = database_only(&fixture.store.db.socket_url());
    let config = folder.join("config.toml");
    let mut pipe = Command::new("bash");
    pipe.args([
        "-c",
        "\"$0\" simulate --print-layout --boards 45 | \"$0\" import-layout - -c \"$1\"",
    ]);
    pipe.arg(command([""]).get_program()).arg(config);
    let output = finish(pipe).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
    assert_eq!(fixture.store.db.count("centiloc.layout_board").await, 45);
}

#[tokio::test]
async fn views_compare_layout_with_events() {
    let fixture = ImportFixture::new().await;
    fixture.import(SAMPLE, &[], 0).await;
    let on = |uid: &str, board: &str, shelf: &str, location: Option<&str>, seconds| ItemEvent {
        shelf_sn: Some(shelf.into()),
        loc_reference: location.map(Into::into),
        ..arrives(uid, board, seconds)
    };
    let moved = [
        on("U", "A", "S9", None, 1),
        on("U", "A", "S1", Some("RIGHT"), 5),
        on("V", "B", "S1", None, 2),
        on("V", "B", "S7", None, 3),
        on("W", "X", "S1", None, 4),
    ];
    fixture.store.items(&moved).await;
    fixture.store.commit(&[of_board(board("D", 6, "CONNECTED"))]).await;
    fixture.store.store.compute_all_stays().await.unwrap();
    let missing =
        fixture.rows("board_sn, problem, reported_shelf_sn", "layout_missing_board").await;
    assert_eq!(
        missing,
        [
            json!({ "board_sn": "B", "problem": "reported on another shelf",
                    "reported_shelf_sn": "S7" }),
            json!({ "board_sn": "C", "problem": "never reported", "reported_shelf_sn": null }),
        ]
    );
    let unknown = fixture.rows("board_sn", "layout_unknown_board").await;
    assert_eq!(unknown, [json!({ "board_sn": "X" })]);
    let empty = fixture.rows("loc_reference, shelf_sns, last_seen_at", "empty_location").await;
    assert_eq!(
        empty,
        [json!({ "loc_reference": "LEFT", "shelf_sns": ["S1", "S2"], "last_seen_at": null })]
    );
}

#[tokio::test]
async fn erasing_a_board_leaves_its_layout() {
    let fixture = ImportFixture::new().await;
    fixture.import(SAMPLE, &[], 0).await;
    let output = fixture.store.run(&["erase", "--board", "A"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fixture.rows("board_sn", "layout_board where board_sn = 'A'").await.len(), 1);
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop::option::of(prop_oneof![-1e7..1e7_f64, (-9999..9999_i32).prop_map(f64::from)])
}

fn text() -> impl Strategy<Value = String> {
    "[A-Za-z0-9é'\"\\\\,{}-]{1,12}"
}

fn extra() -> impl Strategy<Value = Option<Map<String, Value>>> {
    let value = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        text().prop_map(Value::from),
        prop::collection::vec(text(), 0..3).prop_map(Value::from),
        Just(json!({ "a": [null, { "b": 1 }] })),
    ];
    let map = prop::collection::btree_map(text(), value, 1..4);
    prop::option::of(map.prop_map(|map| map.into_iter().collect()))
}

fn place() -> impl Strategy<Value = LayoutPlace> {
    prop::array::uniform9(number()).prop_map(|n| LayoutPlace {
        x_mm: n[0],
        y_mm: n[1],
        z_mm: n[2],
        x_rotation: n[3],
        y_rotation: n[4],
        z_rotation: n[5],
        width_mm: n[6],
        depth_mm: n[7],
        height_mm: n[8],
    })
}

/// Shelves with one board and one location each, and furniture.
fn any_layout() -> impl Strategy<Value = SiteLayout> {
    let row = (place(), prop::option::of(text()), prop::option::of(any::<i32>()), extra());
    let labels = prop::option::of(prop::collection::vec(text(), 1..3));
    let rows = prop::collection::vec((row, labels), 1..6);
    rows.prop_map(|rows| {
        let mut layout = SiteLayout::default();
        for (n, ((place, name, floor, extra), labels)) in rows.into_iter().enumerate() {
            let shelf_sn = format!("S{n}");
            layout.furniture.push(LayoutFurniture {
                furniture_sn: format!("F{n}"),
                name: name.clone(),
                floor: name.clone(),
                place,
                extra: extra.clone(),
            });
            layout.boards.push(LayoutBoard {
                board_sn: format!("B{n}"),
                shelf_sn: shelf_sn.clone(),
                x_mm: place.x_mm,
                y_mm: place.y_mm,
                z_rotation: place.z_rotation,
                width_mm: place.width_mm,
                depth_mm: place.depth_mm,
                extra: extra.clone(),
            });
            layout.locations.push(LayoutLocation {
                loc_reference: format!("L{n}"),
                shelf_sn: shelf_sn.clone(),
                weight: place.z_mm,
                x_mm: place.x_mm,
                y_mm: place.y_mm,
                width_mm: place.width_mm,
                depth_mm: place.depth_mm,
                labels,
                extra: extra.clone(),
            });
            layout.shelves.push(LayoutShelf {
                shelf_sn,
                furniture_sn: name.clone(),
                name,
                floor,
                place,
                led_strips: extra.clone().map(Value::Object),
                extra,
            });
        }
        layout
    })
}

#[tokio::test]
async fn any_layout_reads_back_the_same() {
    let fixture = StoreFixture::new().await;
    let mut runner = TestRunner::default();
    for case in 0..runner.config().cases {
        let layout = any_layout().new_tree(&mut runner).unwrap().current();
        // Each case has a tenant of its own, and no import changes those of others.
        let tenant = format!("T{case}");
        let findings = LayoutFindings { layout: layout.clone(), ..LayoutFindings::default() };
        let import = fixture.store.import_layout(&tenant, &findings, false).await.unwrap();
        let LayoutImport::Done { layout: imported, .. } = import else { panic!("{import:?}") };
        assert_eq!(imported, layout);
        assert_eq!(fixture.store.layout(&tenant).await.unwrap(), layout);
    }
    let mut sample = read([("layout.yaml", SAMPLE.as_bytes())]);
    fixture.store.import_layout("T", &sample, false).await.unwrap();
    sample.layout.locations.sort_by_key(|l| [l.loc_reference.clone(), l.shelf_sn.clone()]);
    assert_eq!(fixture.store.layout("T").await.unwrap(), sample.layout);
}
