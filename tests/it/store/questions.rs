//! The views and functions that answer the questions of dashboards.

use centiloc_bridge::event::ItemEvent;
use time::{Duration, OffsetDateTime};

use crate::support::store::{StoreFixture, arrives, board, item, leaves, of_board};

/// Start of the tests' time, for comparing times as seconds after it.
const START: &str = "timestamptz '2025-03-10 00:00:00+00'";

/// Returns the SQL of a time in seconds after the start.
fn t(seconds: i64) -> String {
    format!("({START} + interval '{seconds} seconds')")
}

/// Returns rows as PostgreSQL writes records, with times and intervals as seconds.
async fn rows(fixture: &StoreFixture, columns: &str, from: &str) -> Vec<String> {
    let columns: Vec<String> = columns.split_whitespace().map(column).collect();
    let sql = format!("select row({})::text from {from}", columns.join(", "));
    fixture.db.column(&sql).await
}

/// Returns the SQL of a column. `x@` is a time, `x~` an interval.
fn column(name: &str) -> String {
    if let Some(time) = name.strip_suffix('@') {
        format!("extract(epoch from {time} - {START})::float8")
    } else if let Some(interval) = name.strip_suffix('~') {
        format!("extract(epoch from {interval})::float8")
    } else {
        name.to_owned()
    }
}

/// Stores events and computes stays.
async fn filled(events: &[ItemEvent]) -> StoreFixture {
    let fixture = StoreFixture::new().await;
    fixture.items(events).await;
    fixture.store.compute_all_stays().await.unwrap();
    fixture
}

fn labelled(uid: &str, seconds: i64, location: &str, labels: &[&str]) -> ItemEvent {
    ItemEvent {
        loc_reference: Some(location.into()),
        loc_labels: Some(labels.iter().map(|&label| label.into()).collect()),
        shelf_sn: Some("S1".into()),
        ..arrives(uid, uid, seconds)
    }
}

#[tokio::test]
async fn technical_labels_are_hidden() {
    let fixture = StoreFixture::new().await;
    let visible = "centiloc.visible_labels(labels)";
    let from = "(values (1, array['b', '.x', null, 'a', '']), (2, array['.x']), (3, '{}'),
                        (4, null)) as v (n, labels) order by n";
    let expected = [r#"("{b,a,""""}")"#, "()", "()", "()"];
    assert_eq!(rows(&fixture, visible, from).await, expected);
}

#[tokio::test]
async fn uid_is_reversed_by_bytes() {
    let fixture = StoreFixture::new().await;
    let from = "(values (1, 'E00401aB'), (2, 'E0'), (3, 'E00'), (4, 'E0-4'), (5, ''), (6, null),
                        (7, 'E004' || chr(10))) as v (n, uid) order by n";
    let expected = ["(aB0104E0)", "(E0)", "()", "()", "()", "()", "()"];
    assert_eq!(rows(&fixture, "centiloc.uid_reversed(uid)", from).await, expected);
}

#[tokio::test]
async fn stock_counts_items_that_are_somewhere() {
    let bare = ItemEvent { product_reference: None, ..arrives("W", "B", 7) };
    let fixture =
        filled(&[arrives("U", "A", 1), arrives("V", "B", 5), bare, arrives("X", "C", 2)]).await;
    fixture.items(&[leaves("X", "C", 9)]).await;
    let columns = "product_reference items boards oldest_entered_at@";
    let stock = "centiloc.stock_by_product order by 1";
    assert_eq!(rows(&fixture, columns, stock).await, ["(,1,1,7)", "(scalpel,2,2,1)"]);
}

#[tokio::test]
async fn stock_by_location_has_newest_visible_labels() {
    let fixture = filled(&[
        labelled("U", 1, "L", &["old", ".t"]),
        labelled("V", 3, "L", &["new", ".t"]),
        labelled("W", 2, "M", &[".t"]),
    ])
    .await;
    let columns = "loc_reference loc_labels items boards oldest_entered_at@";
    let stock = "centiloc.stock_by_location order by 1";
    assert_eq!(rows(&fixture, columns, stock).await, ["(L,{new},2,2,1)", "(M,,1,1,2)"]);
    let shelves = rows(&fixture, "shelf_sn items", "centiloc.stock_by_shelf").await;
    assert_eq!(shelves, ["(S1,3)"]);
}

#[tokio::test]
async fn item_seen_on_any_board_is_seen() {
    let fixture = filled(&[
        arrives("U", "A", 1),
        arrives("V", "A", 2),
        arrives("V", "B", 10),
        leaves("V", "A", 50), // late, by the board before
    ])
    .await;
    let columns = "uid last_seen_at@ is_in board_sn product_reference";
    let since = |seconds| format!("centiloc.items_not_seen_since({}) order by 1", t(seconds));
    assert_eq!(rows(&fixture, columns, &since(50)).await, ["(U,1,t,A,scalpel)"]);
    let all = ["(U,1,t,A,scalpel)", "(V,50,t,B,scalpel)"];
    assert_eq!(rows(&fixture, columns, &since(51)).await, all);
    assert!(rows(&fixture, columns, &since(1)).await.is_empty(), "not older, but equal");
}

/// Stays on board A of 10, 20, 30 and 40 s, one on B, and one that lasts.
async fn with_stays() -> StoreFixture {
    let mut events = Vec::new();
    for (uid, length) in [("U", 10), ("V", 20), ("W", 30), ("X", 40)] {
        events.extend([arrives(uid, "A", 100 - length), leaves(uid, "A", 100)]);
    }
    events.extend([arrives("Y", "B", 0), leaves("Y", "B", 200), arrives("Z", "A", 50)]);
    filled(&events).await
}

#[tokio::test]
async fn dwell_has_percentiles_of_ended_stays() {
    let fixture = with_stays().await;
    let columns = "key stays p50~ p90~ p95~ max~ mean~";
    let dwell = |since, until, by: &str| {
        format!("centiloc.dwell({}, {}, {by}) order by 1", t(since), t(until))
    };
    let a = "(A,4,25,37,38.5,40,25)";
    assert_eq!(
        rows(&fixture, columns, &dwell(100, 201, "'board'")).await,
        [a, "(B,1,200,200,200,200,200)"]
    );
    assert_eq!(rows(&fixture, columns, &dwell(100, 200, "'board'")).await, [a]);
    assert!(rows(&fixture, columns, &dwell(101, 200, "'board'")).await.is_empty());
    let by_product = rows(&fixture, columns, &dwell(0, 300, "'product'")).await;
    assert_eq!(by_product, ["(scalpel,5,30,136,168,200,60)"]);
    assert_eq!(rows(&fixture, "key stays", &dwell(0, 300, "'shelf'")).await, ["(,5)"]);
}

#[tokio::test]
async fn occupancy_counts_and_averages_each_bucket() {
    let fixture = filled(&[
        arrives("U", "A", -30),
        leaves("U", "A", 90),
        arrives("V", "A", 30),
        leaves("V", "A", 45),
        arrives("W", "A", 60), // as the second bucket begins
        arrives("W", "B", 150),
    ])
    .await;
    let columns = "board_sn bucket_start@ items_at_start mean_items";
    let from = format!(
        "centiloc.occupancy('1 minute', {}, {}) order by bucket_start, board_sn",
        t(10),
        t(130)
    );
    let expected = [
        "(A,0,1,1.25)",
        "(B,0,0,0)",
        "(A,60,1,1.5)",
        "(B,60,0,0)",
        "(A,120,1,0.5)",
        "(B,120,0,0.5)",
    ];
    assert_eq!(rows(&fixture, columns, &from).await, expected);
    let ever = "centiloc.occupancy('100 days', '-infinity') where board_sn = 'B'";
    let newest = format!("{ever} order by bucket_start desc limit 1");
    assert_eq!(rows(&fixture, "items_at_start mean_items", &newest).await, ["(1,1)"]);
}

/// Asserts that occupancy is the same whether the stays that last are found by board, up to now, or
/// by item, up to an earlier time.
#[tokio::test]
async fn occupancy_agrees_for_past_and_present_periods() {
    let now = OffsetDateTime::now_utc();
    let mut events = Vec::new();
    for n in 0..60i64 {
        let momentum = now - Duration::minutes(600 - 9 * n);
        let (uid, board) = (format!("U{}", n * 7 % 11), format!("B{}", n * 5 % 3));
        events.push(item(&uid, &board, momentum, n % 4 != 3));
    }
    let fixture = filled(&events).await;
    let occupancy = |until: &str| {
        format!(
            "select * from centiloc.occupancy('30 minutes', now() - interval '9 hours', {until})"
        )
    };
    let end = "date_trunc('hour', now() - interval '2 hours')";
    let different = format!(
        "(({}) except all (select * from ({}) o where bucket_start < {end})) d",
        occupancy(end),
        occupancy("'infinity'")
    );
    assert_eq!(fixture.db.count(&different).await, 0);
    assert!(fixture.db.count(&format!("({}) o where mean_items > 0", occupancy(end))).await > 20);
}

#[tokio::test]
async fn heat_map_counts_arrivals_and_moves() {
    let on =
        |seconds, x, y| ItemEvent { x_mm: Some(x), y_mm: Some(y), ..arrives("U", "A", seconds) };
    let nowhere = ItemEvent { x_mm: None, ..arrives("V", "A", 3) };
    let fixture = filled(&[
        on(1, 0, 0),
        on(2, 49, 99),
        on(3, 50, -1),
        leaves("U", "A", 4),
        on(5, -50, -51),
        arrives("U", "B", 6),
        on(7, 10, 10),
        nowhere,
    ])
    .await;
    let columns = "x_mm y_mm arrivals moves";
    let map = |since, until| {
        format!("centiloc.board_heat_map('A', 50, {}, {}) order by x_mm, y_mm", t(since), t(until))
    };
    assert_eq!(
        rows(&fixture, columns, &map(0, 10)).await,
        ["(-50,-100,1,0)", "(0,0,2,0)", "(0,50,0,1)", "(50,-50,0,1)"]
    );
    assert_eq!(rows(&fixture, columns, &map(2, 3)).await, ["(0,50,0,1)"]);
    assert_eq!(rows(&fixture, columns, &map(7, 8)).await, ["(0,0,1,0)"]);
}

#[tokio::test]
async fn content_at_past_moment_has_positions_of_then() {
    let at_x = |seconds, x| ItemEvent { x_mm: Some(x), ..arrives("U", "A", seconds) };
    let fixture = filled(&[
        at_x(10, 1),
        at_x(20, 2),
        at_x(30, 3),
        leaves("U", "A", 40),
        arrives("V", "A", 15),
        arrives("V", "B", 25),
    ])
    .await;
    let columns = "uid entered_at@ momentum@ x_mm";
    let at = |seconds| format!("centiloc.board_content_at('A', {}) order by uid", t(seconds));
    assert!(rows(&fixture, columns, &at(9)).await.is_empty());
    assert_eq!(rows(&fixture, columns, &at(10)).await, ["(U,10,10,1)"]);
    assert_eq!(rows(&fixture, columns, &at(24)).await, ["(U,10,20,2)", "(V,15,15,12)"]);
    assert_eq!(rows(&fixture, columns, &at(39)).await, ["(U,10,30,3)"]);
    assert!(rows(&fixture, columns, &at(40)).await.is_empty());
    let now = "centiloc.board_content_at('B', now())";
    assert_eq!(rows(&fixture, "uid", now).await, ["(V)"]);
}

#[tokio::test]
async fn path_has_gaps_between_stays() {
    let fixture = filled(&[
        arrives("U", "A", 1),
        leaves("U", "A", 5),
        arrives("U", "B", 8),
        arrives("U", "", 20),
        arrives("V", "A", 3),
    ])
    .await;
    let columns = "board_sn entered_at@ left_at@ gap_before~";
    let all = ["(A,1,5,)", "(B,8,20,3)", "(,20,,0)"];
    assert_eq!(rows(&fixture, columns, "centiloc.item_path('U')").await, all);
    let part = |since, until| format!("centiloc.item_path('U', {}, {})", t(since), t(until));
    assert_eq!(rows(&fixture, columns, &part(5, 20)).await, ["(B,8,20,3)"]);
    assert_eq!(rows(&fixture, columns, &part(4, 8)).await, ["(A,1,5,)"]);
    assert!(rows(&fixture, columns, "centiloc.item_path('W')").await.is_empty());
}

#[tokio::test]
async fn busiest_boards_come_first() {
    let fixture = with_stays().await;
    let columns = "board_sn arrivals departures";
    let busiest = |args: String| format!("centiloc.busiest_boards({args})");
    let all = busiest(t(0));
    assert_eq!(rows(&fixture, columns, &all).await, ["(A,5,4)", "(B,1,1)"]);
    let one = busiest(format!("{}, 'infinity', 1", t(0)));
    assert_eq!(rows(&fixture, columns, &one).await, ["(A,5,4)"]);
    let part = busiest(format!("{}, {}", t(70), t(100)));
    assert_eq!(rows(&fixture, columns, &part).await, ["(A,3,0)"]);
}

#[tokio::test]
async fn weeks_are_compared_up_to_now() {
    let ago = |hours| OffsetDateTime::now_utc() - Duration::hours(hours);
    let fixture = filled(&[
        item("U", "A", ago(21 * 24 + 1), true),
        item("U", "A", ago(13 * 24), false),
        item("U", "A", ago(12 * 24), true),
        item("U", "B", ago(5), true),
    ])
    .await;
    let columns = "board_sn arrivals departures arrivals_before departures_before";
    let from = "centiloc.week_against_week(3) order by board_sn, week_start";
    assert_eq!(
        rows(&fixture, columns, from).await,
        ["(A,0,0,,)", "(A,1,1,0,0)", "(A,0,1,1,1)", "(B,0,0,,)", "(B,0,0,0,0)", "(B,1,0,0,0)"]
    );
}

#[tokio::test]
async fn availability_includes_status_from_before() {
    let fixture = StoreFixture::new().await;
    let events = [
        board("A", 0, "CONNECTED"),
        board("A", 50, "DISCONNECTED"),
        board("A", 75, "CONNECTED"),
        board("B", 80, "ONERROR"),
        board("C", 300, "CONNECTED"),
    ];
    fixture.commit(&events.map(of_board)).await;
    let from = |since: &str, until: &str| {
        format!("centiloc.board_availability({since}, {until}) order by board_sn")
    };
    let columns = "board_sn connected~ known~ round(availability::numeric,2)";
    let part = from(&t(10), &t(100));
    assert_eq!(rows(&fixture, columns, &part).await, ["(A,65,90,72.22)", "(B,0,20,0.00)"]);
    let always = from("'-infinity'", "'infinity'");
    let known = "board_sn availability>99 known>interval'1day'";
    assert_eq!(rows(&fixture, known, &always).await, ["(A,t,t)", "(B,f,t)", "(C,t,t)"]);
    assert!(rows(&fixture, columns, &from(&t(-9), &t(0))).await.is_empty());
}

#[tokio::test]
async fn boards_silent_beyond_their_usual_interval_are_found() {
    let now = OffsetDateTime::now_utc();
    let mut events = Vec::new();
    // Both boards are visited every hour. A is silent since five hours, after an outage of three.
    for hours in 5..400i64 {
        let visit = now - Duration::hours(hours);
        events.push(item("B", "B", now - Duration::minutes(60 * (hours - 5) + 20), hours % 2 == 0));
        if !(80..83).contains(&hours) {
            events.extend([
                item("A", "A", visit, true),
                item("A", "A", visit + Duration::MINUTE, false),
            ]);
        }
    }
    events.push(item("C", "C", now - Duration::hours(50), true));
    let fixture = filled(&events).await;
    let columns = "board_sn silent_for>usual_interval usual_interval is_silent status";
    let silence = "centiloc.board_silence order by 1";
    assert_eq!(rows(&fixture, columns, silence).await, ["(A,,,,)", "(B,,,,)", "(C,,,,)"]);
    assert_eq!(fixture.store.count_silent_boards().await.unwrap(), 0);
    assert_eq!(fixture.store.learn_usual_intervals(2).await.unwrap(), 2);
    assert_eq!(fixture.store.learn_usual_intervals(2).await.unwrap(), 1, "the rest");
    assert_eq!(fixture.store.learn_usual_intervals(2).await.unwrap(), 0, "nothing is due");
    fixture.commit(&[of_board(board("A", 0, "CONNECTED"))]).await;
    assert_eq!(
        rows(&fixture, columns, silence).await,
        ["(A,t,01:00:00,t,CONNECTED)", "(B,f,02:00:00,f,)", "(C,,,,)"]
    );
    assert_eq!(fixture.store.count_silent_boards().await.unwrap(), 1);
    // A board that was silent for all of the last 30 days keeps what was learned before.
    let old = "update centiloc.board_usual_interval set learned_at = learned_at - interval '1 day';
               update centiloc.stay set entered_at = entered_at - interval '40 days',
                                        left_at = left_at - interval '40 days'
                where board_sn = 'A'";
    fixture.db.execute(old).await;
    assert_eq!(fixture.store.learn_usual_intervals(9).await.unwrap(), 3);
    let kept = "centiloc.board_silence where board_sn = 'A'";
    assert_eq!(rows(&fixture, "usual_interval is_silent", kept).await, ["(01:00:00,t)"]);
}

#[tokio::test]
async fn lists_name_everything_to_choose_from() {
    let fixture = filled(&[labelled("U", 5, "L", &["x"]), arrives("V", "B", 7)]).await;
    fixture
        .commit(&[of_board(board("B", 1, "ONERROR")), of_board(board("C", 2, "CONNECTED"))])
        .await;
    let list = |view: &str| format!("centiloc.{view} order by 1");
    let boards = rows(&fixture, "board_sn status last_item_at@", &list("board_list")).await;
    assert_eq!(boards, ["(B,ONERROR,7)", "(C,CONNECTED,)", "(U,,5)"]);
    let products = rows(&fixture, "product_reference last_seen_at@", &list("product_list")).await;
    assert_eq!(products, ["(scalpel,7)"]);
    let locations = rows(&fixture, "loc_reference last_seen_at@", &list("location_list")).await;
    assert_eq!(locations, ["(L,5)"]);
    let shelves = rows(&fixture, "shelf_sn last_seen_at@", &list("shelf_list")).await;
    assert_eq!(shelves, ["(S1,5)"]);
}
