//! The rule for where a tag is, and the stays, which a background task computes.

use std::collections::{BTreeMap, BTreeSet};

use centiloc_bridge::event::ItemEvent;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::support::store::{STAYS_BY_WINDOWS, StoreFixture, arrives, item, leaves};

pub(super) type Stay = (String, Option<String>, OffsetDateTime, Option<OffsetDateTime>);

pub(super) async fn stays(fixture: &StoreFixture, from: &str) -> Vec<Stay> {
    let sql =
        format!("select uid, board_sn, entered_at, left_at from ({from}) stay order by 1, 3, 4, 2");
    let rows = fixture.db.rows(&sql).await.unwrap();
    rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3))).collect()
}

/// Location of a tag: its board, whether it is there, and the event that says so.
type Location = (Option<String>, bool, Uuid);

/// Applies the rule to all events of each tag.
fn locations_by_rule(events: &[ItemEvent]) -> BTreeMap<String, Location> {
    let mut by_tag: BTreeMap<String, Vec<&ItemEvent>> = BTreeMap::new();
    for event in events {
        by_tag.entry(event.uid.clone()).or_default().push(event);
    }
    let age = |e: &&&ItemEvent| (e.momentum, e.event_id);
    let location = |(uid, events): (String, Vec<&ItemEvent>)| {
        let arrival = events.iter().filter(|e| e.is_in).max_by_key(age);
        let newest = events.iter().max_by_key(age).unwrap();
        let board = arrival.unwrap_or(newest).board_sn.clone();
        let there = events.iter().filter(|e| e.board_sn == board).max_by_key(age).unwrap();
        (uid, (board, there.is_in, there.event_id))
    };
    by_tag.into_iter().map(location).collect()
}

async fn locations(fixture: &StoreFixture) -> BTreeMap<String, Location> {
    let sql = "select uid, board_sn, is_in, event_id from centiloc.item_location";
    let rows = fixture.db.rows(sql).await.unwrap();
    let locations: BTreeMap<_, _> =
        rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2), r.get(3)))).collect();
    assert_eq!(locations.len(), rows.len(), "one row a tag");
    locations
}

/// Compares `board_content`, `board_health` and the open stays with `item_location`.
async fn assert_views_agree(fixture: &StoreFixture) {
    let located = locations(fixture).await;
    let on_boards: BTreeSet<(String, String)> = located
        .iter()
        .filter(|(_, (_, is_in, _))| *is_in)
        .filter_map(|(uid, (board, ..))| Some((board.clone()?, uid.clone())))
        .collect();
    let content = "select board_sn, uid from centiloc.board_content";
    let content: BTreeSet<(String, String)> =
        fixture.db.rows(content).await.unwrap().iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(content, on_boards);
    let open = "select board_sn, uid from centiloc.item_stay
                 where left_at is null and board_sn is not null";
    let open: BTreeSet<(String, String)> =
        fixture.db.rows(open).await.unwrap().iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(open, on_boards);
    let wrong = "select count(*) from centiloc.board_health h
                  where items <> (select count(*) from centiloc.board_content c
                                   where c.board_sn = h.board_sn)
                     or last_item_at <> (select max(momentum) from centiloc.item_event e
                                          where e.board_sn = h.board_sn)";
    assert_eq!(fixture.db.value::<i64>(wrong).await, 0);
}

/// Makes a history with few tags, boards and momenta, so that leaves are missing, momenta are equal
/// and tags are seen by two boards. Events come out of order and some twice.
pub(super) fn history(rng: &mut StdRng) -> Vec<ItemEvent> {
    let mut events = Vec::new();
    for _ in 0..rng.random_range(20..120) {
        let uid = format!("U{}", rng.random_range(0..4));
        let board = *["A", "B", "C", ""].choose(rng).unwrap();
        let at = rng.random_range(0..40);
        let event = if rng.random_bool(0.6) { arrives } else { leaves };
        let mut event = event(&uid, board, at);
        if event.board_sn.as_deref() == Some("") {
            event.board_sn = None;
        }
        event.event_id = Uuid::from_u128(rng.random());
        events.push(event);
    }
    if rng.random_bool(0.7) {
        events.sort_by_key(|e| e.momentum);
    }
    for _ in 0..events.len() / 5 {
        let at = rng.random_range(0..events.len());
        events.insert(rng.random_range(0..=at), events[at].clone());
    }
    if rng.random_bool(0.5) {
        events.shuffle(rng);
    }
    events
}

#[tokio::test]
async fn stays_and_locations_match_all_events() {
    let fixture = StoreFixture::new().await;
    for seed in 0..25 {
        let mut rng = StdRng::seed_from_u64(seed);
        let events = history(&mut rng);
        let mut sent = 0;
        while sent < events.len() {
            let next = (sent + rng.random_range(1..20)).min(events.len());
            fixture.items(&events[sent..next]).await;
            sent = next;
            let known = locations_by_rule(&events[..sent]);
            assert_eq!(locations(&fixture).await, known, "seed {seed}, {sent} events");
            if rng.random_bool(0.6) {
                fixture.store.compute_stays(rng.random_range(1..60)).await.unwrap();
                assert_eq!(locations(&fixture).await, known, "seed {seed}, {sent} events");
            }
        }
        fixture.store.compute_all_stays().await.unwrap();
        let expected = stays(&fixture, STAYS_BY_WINDOWS).await;
        assert_eq!(stays(&fixture, "table centiloc.item_stay").await, expected, "seed {seed}");
        assert_views_agree(&fixture).await;
        let reset = "truncate centiloc.item_event, centiloc.item_state, centiloc.stay,
                              centiloc.item_board, centiloc.board_activity";
        fixture.db.execute(reset).await;
    }
}

#[tokio::test]
async fn missing_leave_does_not_return_item() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 1), arrives("U", "B", 2), leaves("U", "B", 3)]).await;
    for _ in 0..2 {
        let (board, is_in, _) = locations(&fixture).await["U"].clone();
        assert_eq!((board.as_deref(), is_in), (Some("B"), false), "nowhere, last seen on B");
        fixture.store.compute_all_stays().await.unwrap();
    }
    // A late arrival on another board that was left since.
    fixture.items(&[arrives("V", "A", 1), leaves("V", "B", 9)]).await;
    fixture.items(&[arrives("V", "B", 5)]).await;
    let (board, is_in, _) = locations(&fixture).await["V"].clone();
    assert_eq!((board.as_deref(), is_in), (Some("B"), false));
}

#[tokio::test]
async fn event_dated_ahead_never_decides() {
    let fixture = StoreFixture::new().await;
    let ago = |hours| OffsetDateTime::now_utc() - time::Duration::hours(hours);
    // Stored ten days ago, when its date was far ahead: it is in no state.
    let ahead = "insert into centiloc.item_event
                     (momentum, event_id, received_at, tenant, uid, board_sn, is_in)
                 values (now() - interval '1 hour', gen_random_uuid(), now() - interval '10 days',
                         'T', 'U', 'X', true)";
    fixture.db.execute(ahead).await;
    fixture.items(&[item("U", "A", ago(3), true)]).await;
    for _ in 0..2 {
        let (board, is_in, _) = locations(&fixture).await["U"].clone();
        assert_eq!((board.as_deref(), is_in), (Some("A"), true));
        fixture.store.compute_all_stays().await.unwrap();
        let boards = "select board_sn from centiloc.item_stay";
        assert!(!fixture.db.column::<String>(boards).await.contains(&"X".to_owned()));
    }
    // Stored long after it happened, as after an outage.
    let mut spooled = item("U", "B", ago(2), true);
    spooled.received_at = ago(24 * 10);
    fixture.items(&[spooled]).await;
    fixture.store.compute_all_stays().await.unwrap();
    assert_eq!(locations(&fixture).await["U"].0.as_deref(), Some("B"));
    assert_views_agree(&fixture).await;
}

#[tokio::test]
async fn progress_shows_what_is_not_computed() {
    let fixture = StoreFixture::new().await;
    let progress = "select pending_batches from centiloc.item_stay_progress";
    let complete = "select complete_until = now() from centiloc.item_stay_progress";
    assert!(fixture.db.value::<bool>(complete).await);
    fixture.items(&[arrives("U", "A", 1)]).await;
    fixture.items(&[arrives("U", "A", 1)]).await;
    assert_eq!(fixture.db.value::<i64>(progress).await, 1, "a duplicate changes no stay");
    assert!(!fixture.db.value::<bool>(complete).await);
    let round = fixture.store.compute_stays(1_000).await.unwrap();
    assert_eq!((round.tags, round.pending), (1, 0));
    assert!(fixture.db.value::<bool>(complete).await);
}

#[tokio::test]
async fn stays_outlive_their_events() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 1), arrives("U", "A", 5)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    fixture.db.execute("delete from centiloc.item_event").await;
    fixture.items(&[leaves("U", "A", 9), arrives("U", "B", 12)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let seconds = "select board_sn || ' ' || coalesce(extract(epoch from duration)::int::text, '')
                     from centiloc.item_stay where left_at is not null";
    assert_eq!(fixture.db.column::<String>(seconds).await, ["A 8"]);
}

#[tokio::test]
async fn concurrent_computations_wait_for_each_other() {
    let fixture = StoreFixture::new().await;
    let other = fixture.another_store(centiloc_bridge::config::PartitionSpan::Month);
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..10 {
        for event in history(&mut rng).chunks(7) {
            fixture.items(event).await;
            let (one, two) = tokio::join!(fixture.store.compute_stays(30), other.compute_stays(30));
            assert!(one.is_ok() && two.is_ok(), "{one:?}, {two:?}");
        }
    }
    fixture.store.compute_all_stays().await.unwrap();
    let expected = stays(&fixture, STAYS_BY_WINDOWS).await;
    assert_eq!(stays(&fixture, "table centiloc.item_stay").await, expected);
}
