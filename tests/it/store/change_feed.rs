//! The feed of committed batches, for programs that follow the events.

use std::collections::BTreeSet;
use std::time::Duration;

use centiloc_bridge::config::{DatabaseConfig, PartitionSpan};
use centiloc_bridge::store::Store;
use sqlx::Row as _;
use sqlx::postgres::PgListener;
use uuid::Uuid;

use crate::support::store::{StoreFixture, arrives, config, leaves};

/// A program that follows the feed.
#[derive(Default)]
struct Follower {
    position: i64,
    seen: BTreeSet<Uuid>,
}

impl Follower {
    /// Reads what is new, two batches at a time.
    async fn read(&mut self, fixture: &StoreFixture) {
        loop {
            let sql = format!(
                "select position, event_id from centiloc.changes_since({}, 2)",
                self.position
            );
            let rows = fixture.db.rows(&sql).await.unwrap();
            let positions: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            assert!(positions.is_sorted() && positions.first().is_none_or(|&p| p > self.position));
            let Some(&last) = positions.last() else { return };
            self.position = last;
            self.seen.extend(rows.iter().filter_map(|row| row.get::<Option<Uuid>, _>(1)));
        }
    }
}

#[tokio::test]
async fn follower_sees_every_event() {
    let fixture = StoreFixture::new().await;
    let mut follower = Follower::default();
    let mut stored = BTreeSet::new();
    for round in 0..12 {
        // Some events are delivered again with the next batch.
        for batch in 0..3 {
            let first = round * 200 + batch * 60;
            let events: Vec<_> = (first..first + 70)
                .map(|n| {
                    let uid = format!("U{}", n % 40);
                    if n % 3 == 0 { leaves(&uid, "A", n) } else { arrives(&uid, "A", n) }
                })
                .collect();
            fixture.items(&events).await;
            stored.extend(events.iter().map(|event| event.event_id));
        }
        // So few events that tags are left for later rounds, from two processes at once.
        let (one, two) =
            tokio::join!(fixture.store.compute_stays(100), fixture.store.compute_stays(100));
        assert!(one.is_ok() && two.is_ok());
        follower.read(&fixture).await;
    }
    fixture.store.compute_all_stays().await.unwrap();
    follower.read(&fixture).await;
    assert_eq!(follower.seen, stored);
    let batches = fixture.db.count("centiloc.change_batch").await;
    assert_eq!(batches, 36, "tags that are computed again are no change");
    let range = "select last_position from centiloc.change_feed";
    assert_eq!(fixture.db.value::<i64>(range).await, follower.position);
}

#[tokio::test]
async fn follower_gets_past_erased_events() {
    let fixture = StoreFixture::new().await;
    for n in 0..5 {
        fixture.items(&[arrives("U", "A", n)]).await;
    }
    fixture.items(&[arrives("V", "A", 9)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let erased = fixture.run(&["erase", "--uid", "U"]).await;
    assert!(erased.status.success(), "{erased:?}");
    let mut follower = Follower::default();
    follower.read(&fixture).await;
    assert_eq!(follower.seen.len(), 1, "V");
    // As retention does.
    fixture.db.execute("delete from centiloc.item_event").await;
    let positions =
        fixture.db.column::<i64>("select position from centiloc.changes_since(0)").await;
    assert_eq!(positions, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn batches_are_kept_for_a_day() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 1)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let aged = "update centiloc.change_batch set committed_at = now() - interval '25 hours'";
    fixture.db.execute(aged).await;
    fixture.items(&[arrives("V", "A", 2)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let uids = fixture.db.column::<String>("select uid from centiloc.changes_since(0)").await;
    assert_eq!(uids, ["V"]);
    let first = "select first_position from centiloc.change_feed";
    assert!(fixture.db.value::<i64>(first).await > 1);
}

#[tokio::test]
async fn notification_names_newest_position() {
    let fixture = StoreFixture::new().await;
    let url = fixture.db.socket_url();
    let mut listener = PgListener::connect(&url).await.unwrap();
    listener.listen("centiloc_change").await.unwrap();
    let config = DatabaseConfig { notify: true, ..config(&url) };
    let notifying = Store::new(&config, PartitionSpan::Month).unwrap();
    // The store of the fixture does not notify.
    for (uid, store) in [("U", &fixture.store), ("V", &notifying)] {
        fixture.items(&[arrives(uid, "A", 1)]).await;
        store.compute_all_stays().await.unwrap();
    }
    let received = tokio::time::timeout(Duration::from_secs(20), listener.recv()).await;
    let last: i64 = fixture.db.value("select last_position from centiloc.change_feed").await;
    assert_eq!(received.unwrap().unwrap().payload(), last.to_string());
}
