//! Listing and replaying dead letters, and their retention.

use centiloc_bridge::event::{Event, Reject, RejectReason};
use centiloc_bridge::store::dead_letters::{DeadLetterFilter, ReplayOutcome};

use crate::support::store::{StoreFixture, arrives, at, board, malformed};

#[tokio::test]
async fn dead_letters_are_listed_newest_first() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"one")]).await;
    fixture.commit(&[malformed(b"three")]).await;
    let list = fixture.store.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap();
    assert_eq!(list.iter().map(|l| l.size).collect::<Vec<_>>(), [5, 3]);
    assert_eq!(list[0].reason, "malformed");
    assert_eq!(fixture.store.dead_letters(&DeadLetterFilter::default(), 1).await.unwrap().len(), 1);
    let (letter, payload) = fixture.store.dead_letter(list[1].id).await.unwrap().unwrap();
    assert_eq!((letter, &payload[..]), (list[1].clone(), &b"one"[..]));
    assert!(fixture.store.dead_letter(-1).await.unwrap().is_none());
}

#[tokio::test]
async fn replay_stores_event_and_marks_dead_letter() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"item"), malformed(b"board")]).await;
    let ids = fixture.store.dead_letter_ids(&DeadLetterFilter::default()).await.unwrap();
    assert_eq!(ids.len(), 2);
    for id in &ids {
        let replay = fixture.store.replay(*id, |topic, payload, received_at| {
            assert_eq!((topic, received_at), ("centiloc/T", at(0)));
            Ok(if &payload[..] == b"item" {
                Event::Item(arrives("U", "A", 1))
            } else {
                Event::Board(board("A", 1, "CONNECTED"))
            })
        });
        assert_eq!(replay.await.unwrap(), ReplayOutcome::Stored);
    }
    assert_eq!(fixture.db.count("centiloc.item_event").await, 1);
    assert_eq!(fixture.db.count("centiloc.board_event").await, 1);
    assert!(fixture.store.dead_letter_ids(&DeadLetterFilter::default()).await.unwrap().is_empty());
    assert!(fixture.store.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap().is_empty());
    let everything = DeadLetterFilter { replayed: true, ..DeadLetterFilter::default() };
    assert_eq!(fixture.store.dead_letters(&everything, 10).await.unwrap().len(), 2);
    let again = fixture.store.replay(ids[0], |_, _, _| Ok(Event::Item(arrives("U", "A", 1))));
    assert_eq!(again.await.unwrap(), ReplayOutcome::Duplicate);
}

#[tokio::test]
async fn failed_replay_changes_nothing() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"x")]).await;
    let id = fixture.store.dead_letter_ids(&DeadLetterFilter::default()).await.unwrap()[0];
    let before = fixture.store.dead_letter(id).await.unwrap();
    let reject = Reject::new(RejectReason::Malformed, "still not");
    let replay = fixture.store.replay(id, |_, _, _| Err(reject.clone())).await.unwrap();
    assert_eq!(replay, ReplayOutcome::Rejected(reject));
    let mut bad = arrives("U", "A", 1);
    bad.loc_reference = Some("\0".into());
    let replay = fixture.store.replay(id, |_, _, _| Ok(Event::Item(bad))).await.unwrap();
    assert!(matches!(replay, ReplayOutcome::Refused(detail) if detail.contains("22021")));
    assert_eq!(fixture.store.dead_letter(id).await.unwrap(), before);
    assert_eq!(
        fixture.store.replay(-1, |_, _, _| unreachable!()).await.unwrap(),
        ReplayOutcome::Unknown
    );
}

#[tokio::test]
async fn seen_count_at_limit_stops_nothing() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"x")]).await;
    fixture.db.execute("update centiloc.dead_letter set seen = 2147483646").await;
    for _ in 0..3 {
        let outcome = fixture.commit(&[malformed(b"x"), malformed(b"x")]).await;
        assert_eq!(outcome.messages(), 2);
    }
    assert_eq!(
        fixture.store.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap()[0].seen,
        i32::MAX
    );
}

#[tokio::test]
async fn times_beyond_calendar_are_shown_and_replayed() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"x")]).await;
    for (received, seen) in [("-infinity", "infinity"), ("infinity", "200000-01-01")] {
        let update = format!(
            "update centiloc.dead_letter
                set received_at = '{received}', last_seen_at = '{seen}', replayed_at = '{seen}'"
        );
        fixture.db.execute(&update).await;
        let everything = DeadLetterFilter { replayed: true, ..DeadLetterFilter::default() };
        let list = fixture.store.dead_letters(&everything, 10).await.unwrap();
        assert_eq!(list[0].last_seen_at.year(), 9999);
        let replay = fixture.store.replay(list[0].id, |_, _, received_at| {
            assert!([1, 9999].contains(&received_at.year()));
            Ok(Event::Item(arrives("U", "A", 1)))
        });
        assert!(matches!(replay.await, Ok(ReplayOutcome::Stored | ReplayOutcome::Duplicate)));
    }
}

#[tokio::test]
async fn dead_letters_expire_90_days_after_replay() {
    let fixture = StoreFixture::new().await;
    fixture.commit(&[malformed(b"x"), malformed(b"y")]).await;
    let id = fixture.store.dead_letter_ids(&DeadLetterFilter::default()).await.unwrap()[0];
    fixture.store.replay(id, |_, _, _| Ok(Event::Item(arrives("U", "A", 1)))).await.unwrap();
    let now = time::OffsetDateTime::now_utc();
    let delete = async |days| {
        let later = now + time::Duration::days(days);
        fixture.store.delete_expired(None, later).await.unwrap().dead_letters
    };
    assert_eq!(delete(89).await, 0);
    assert_eq!(delete(91).await, 1);
    assert_eq!(delete(10_000).await, 0, "dead letters without a replay are kept");
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 1);
}
