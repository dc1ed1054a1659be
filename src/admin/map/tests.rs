//! Properties of the plan and of the changes of the map.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use time::OffsetDateTime;

use super::feed::{MapFeed, NextFrames};
use super::plan::MapPlan;
use super::state::{MapAssembly, MapDelta, MapState};
use super::*;
use crate::store::map_reads::{
    ChangePosition, LayoutBoard, LayoutFurniture, LayoutShelf, PlacedItem, ReportedBoard,
    ShelfPlace, SiteLayout, TagPlace, WholeRead,
};
use crate::telemetry::Metrics;

fn serial(prefix: &'static str, numbers: u32) -> impl Strategy<Value = String> {
    (0..numbers).prop_map(move |number| format!("{prefix}{number}"))
}

fn place() -> impl Strategy<Value = ShelfPlace> {
    (0u32..4, option::of(0u32..2), option::of(0i32..3)).prop_map(|(shelf, furniture, level)| {
        ShelfPlace {
            shelf_sn: format!("S{shelf}"),
            furniture_sn: furniture.map(|furniture| format!("F{furniture}")),
            level,
        }
    })
}

prop_compose! {
    fn item()(
        board_sn in serial("B", 6),
        position in option::of((-10i32..900, 0i32..700)),
        product in option::of(serial("P", 3)),
        seconds in 0i64..100,
        place in option::of(place()),
    ) -> PlacedItem {
        let momentum = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        PlacedItem {
            board_sn, position, product, location: None, momentum, entered_at: None, place,
        }
    }
}

prop_compose! {
    fn board()(status in option::of("[A-Z]{2}"), is_silent: bool, place in option::of(place()))
        -> ReportedBoard {
        ReportedBoard {
            board_sn: String::new(),
            status,
            status_at: None,
            fw_version: None,
            last_item_at: None,
            is_silent,
            place,
        }
    }
}

fn boards() -> impl Strategy<Value = Vec<ReportedBoard>> {
    btree_map(serial("B", 8), board(), 0..8).prop_map(|boards| {
        let named = |(board_sn, board)| ReportedBoard { board_sn, ..board };
        boards.into_iter().map(named).collect()
    })
}

fn items() -> impl Strategy<Value = Vec<TagPlace>> {
    btree_map(serial("U", 12), item(), 0..12)
        .prop_map(|items| items.into_iter().map(|(uid, item)| (uid, Some(item))).collect())
}

fn changes() -> impl Strategy<Value = Vec<TagPlace>> {
    btree_map(serial("U", 12), option::of(item()), 0..6)
        .prop_map(|items| items.into_iter().collect())
}

fn length() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        Just(None),
        (-500.0..3_000.0).prop_map(Some),
        Just(Some(f64::NAN)),
        Just(Some(1e300))
    ]
}

fn layout() -> impl Strategy<Value = SiteLayout> {
    let furniture = btree_map(serial("F", 3), (length(), length(), option::of("[ab]")), 0..3);
    let shelves = btree_map(serial("S", 4), (option::of(serial("F", 3)), length(), length()), 0..4);
    let boards =
        btree_map(serial("B", 10), (serial("S", 4), length(), length(), length(), length()), 0..8);
    (furniture, shelves, boards).prop_map(|(furniture, shelves, boards)| {
        let furniture = furniture.into_iter().map(|(sn, (x, y, storey))| LayoutFurniture {
            sn,
            storey,
            corner: (x, y),
            name: None,
        });
        let boards = boards.into_iter().filter(|(_, board)| shelves.contains_key(&board.0));
        let boards = boards.map(|(sn, (shelf_sn, x, y, w, rotation))| LayoutBoard {
            sn,
            shelf_sn,
            corner: (x, y),
            rotation,
            size: (w, w),
        });
        let boards = boards.collect();
        let shelves = shelves.into_iter().map(|(sn, (furniture_sn, w, h))| LayoutShelf {
            sn,
            furniture_sn,
            size: (w, h),
            ..LayoutShelf::default()
        });
        SiteLayout {
            furniture: furniture.collect(),
            shelves: shelves.collect(),
            boards,
            locations: Vec::new(),
        }
    })
}

fn read(items: Vec<TagPlace>, boards: Vec<ReportedBoard>, layout: SiteLayout) -> WholeRead {
    WholeRead { position: ChangePosition::default(), items, boards, layout }
}

/// Asserts that furniture does not overlap, and that every board is on the plan once.
fn check(plan: &MapPlan, expected: &[&str]) {
    for (index, one) in plan.furniture.iter().enumerate() {
        for other in &plan.furniture[index + 1..] {
            assert!(!one.rect.overlaps(&other.rect), "{one:?} and {other:?}");
        }
    }
    for shelf in &plan.shelves {
        let bearer = plan.furniture.iter().find(|furniture| furniture.rect.contains(&shelf.rect));
        assert!(bearer.is_some(), "{shelf:?} is outside of {:?}", plan.furniture);
    }
    let mut sns: Vec<_> = plan.boards.iter().map(|board| board.sn.as_str()).collect();
    sns.sort_unstable();
    assert_eq!(sns, expected);
    for board in &plan.boards {
        assert!([board.x, board.y, board.w, board.h, board.r].iter().all(|v| v.is_finite()));
        assert!(board.w > 0.0 && board.h > 0.0, "{board:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn snapshot_and_changes_are_later_snapshot(
        first in (items(), boards(), layout()),
        steps in vec((changes(), boards()), 0..6),
        last in (items(), boards(), layout()),
    ) {
        let mut assembly = MapAssembly::default();
        let mut server = MapState::default();
        let mut viewer = MapState::default();
        let mut step = |delta: &MapDelta, server: &mut MapState| {
            server.apply(delta);
            viewer.apply(delta);
            assert_eq!(viewer, *server);
        };
        let delta = assembly.whole(&server, read(first.0, first.1, first.2));
        step(&delta, &mut server);
        for (items, boards) in steps {
            let mut expected = server.items.clone();
            for (uid, item) in &items {
                match item {
                    Some(item) => expected.insert(uid.clone(), item.clone().into()),
                    None => expected.remove(uid),
                };
            }
            let delta = assembly.changed(&server, items, boards);
            step(&delta, &mut server);
            prop_assert_eq!(&server.items, &expected);
        }
        let whole = read(last.0.clone(), last.1.clone(), last.2.clone());
        let delta = assembly.whole(&server, whole);
        step(&delta, &mut server);
        let expected: Vec<_> = last.0.iter().map(|(uid, _)| uid).collect();
        prop_assert_eq!(server.items.keys().collect::<Vec<_>>(), expected);
        let again = assembly.whole(&server, read(last.0, last.1, last.2));
        prop_assert!(again.is_empty(), "{:?}", again);
    }

    #[test]
    fn nothing_overlaps_and_no_board_is_missing(
        items in items(), boards in boards(), layout in layout()
    ) {
        let mut state = MapState::default();
        let mut expected: std::collections::BTreeSet<_> =
            boards.iter().map(|board| board.board_sn.clone()).collect();
        expected.extend(layout.boards.iter().map(|board| board.sn.clone()));
        expected.extend(items.iter().filter_map(|(_, item)| Some(item.clone()?.board_sn)));
        let delta = MapAssembly::default().whole(&state, read(items, boards, layout));
        state.apply(&delta);
        check(&state.plan, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

fn feed() -> MapFeed {
    MapFeed::new("e".into(), Arc::new(Metrics::new()))
}

fn gone(uid: &str) -> MapDelta {
    MapDelta { gone: vec![uid.into()], ..MapDelta::default() }
}

#[test]
fn viewer_gets_each_frame_once() {
    let feed = feed();
    for uid in ["a", "b", "c"] {
        feed.publish(&gone(uid));
    }
    feed.publish(&MapDelta::default());
    let NextFrames::Frames { bytes, number } = feed.after(1) else { panic!("frames are kept") };
    assert_eq!((bytes.len(), number), (2, 3), "no frame without a change");
    assert!(bytes[0].starts_with(b"id: e-2\nevent: delta\ndata: {"));
    assert!(matches!(feed.after(3), NextFrames::Frames { bytes, .. } if bytes.is_empty()));
    assert!(matches!(feed.after(4), NextFrames::TooOld), "a number of the future");
    assert_eq!(feed.number_of(&feed.name_of(3)), Some(3));
    assert_eq!(feed.number_of("f-3"), None, "another process");
}

#[test]
fn slow_viewer_is_reset_and_history_bounded() {
    let feed = feed();
    let large = "u".repeat(1024 * 1024);
    for _ in 0..20 {
        feed.publish(&gone(&large));
    }
    assert!(matches!(feed.after(1), NextFrames::TooOld));
    let NextFrames::Frames { bytes, .. } = feed.after(19) else { panic!("the newest is kept") };
    assert_eq!(bytes.len(), 1);
    for _ in 0..1_000 {
        feed.publish(&gone("u"));
    }
    assert!(matches!(feed.after(700), NextFrames::TooOld));
    let NextFrames::Frames { bytes, .. } = feed.after(800) else { panic!("these are kept") };
    assert_eq!(bytes.len(), 220);
}

#[test]
fn outage_keeps_content_and_is_a_frame() {
    let feed = feed();
    feed.publish(&gone("a"));
    feed.publish_problem("no answer");
    feed.publish_problem("no answer");
    let NextFrames::Frames { bytes, number } = feed.after(1) else { panic!("frames are kept") };
    assert_eq!((bytes.len(), number), (1, 2));
    assert!(String::from_utf8_lossy(&bytes[0]).contains("\"problem\":\"no answer\""));
    feed.publish(&MapDelta::default());
    assert!(matches!(feed.after(2), NextFrames::Frames { number: 3, .. }), "the end is a frame");
}
