//! Rows that the database refuses are found and set aside, and the rest commits, unless the tables
//! themselves are at fault.

use centiloc_bridge::event::{EventKind, ItemEvent};
use centiloc_bridge::store::StoreError;
use sqlx::Row;

use crate::support::store::{StoreFixture, arrives, at, board, item, malformed, of_board, of_item};

/// Text that no index entry can hold: compression does not help.
fn incompressible(length: usize) -> String {
    let mut state = 1u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
        })
        .collect()
}

fn with_nul(seconds: i64) -> ItemEvent {
    let mut event = arrives("U", "A", seconds);
    event.loc_reference = Some("a\0b".into());
    event
}

#[tokio::test]
async fn refused_row_is_dead_lettered_alone() {
    let fixture = StoreFixture::new().await;
    let mut in_json = arrives("V", "A", 2);
    in_json.extra = serde_json::json!({"k": "\0"}).as_object().cloned();
    let mut batch: Vec<_> = (10..60).map(|i| of_item(arrives("U", "A", i))).collect();
    batch.insert(7, of_item(with_nul(1)));
    batch.insert(33, of_item(in_json));
    batch.push(of_item(arrives(&incompressible(6000), "A", 3)));
    batch.push(of_item(item("W", "A", time::macros::datetime!(-4800-01-01 00:00 UTC), true)));
    batch.push(of_board(board("A\0", 4, "CONNECTED")));
    batch.push(of_board(board("A", 5, "CONNECTED")));
    batch.push(malformed(b"garbage"));
    let outcome = fixture.commit(&batch).await;
    assert_eq!(
        (outcome.of(EventKind::Item).inserted, outcome.of(EventKind::Item).duplicates),
        (50, 0)
    );
    assert_eq!(
        (outcome.of(EventKind::Board).inserted, outcome.of(EventKind::Board).duplicates),
        (1, 0)
    );
    assert_eq!(outcome.dead_letters["refused_by_database"], 5);
    assert_eq!(outcome.dead_letters["malformed"], 1);
    let codes: Vec<Option<String>> =
        fixture.db.column("select sqlstate from centiloc.dead_letter order by sqlstate, id").await;
    let codes: Vec<&str> = codes.iter().map(|c| c.as_deref().unwrap_or("none")).collect();
    assert_eq!(codes, ["22008", "22021", "22021", "22P05", "54000", "none"]);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 50);
}

#[tokio::test]
async fn rows_commit_together_with_dead_letters() {
    let fixture = StoreFixture::new().await;
    fixture.db.execute("drop table centiloc.dead_letter").await;
    let batch = [of_item(arrives("U", "A", 2)), of_item(with_nul(1))];
    let error = fixture.store.commit(&batch).await.unwrap_err();
    assert!(matches!(&error, StoreError::Stop(f) if f.sqlstate.as_deref() == Some("42P01")));
    assert_eq!(fixture.db.count("centiloc.item_event").await, 0);
}

#[tokio::test]
async fn refused_row_keeps_bytes_and_reason() {
    let fixture = StoreFixture::new().await;
    let entry = of_item(with_nul(1));
    let payload = entry.0.payload.clone();
    fixture.commit(&[entry]).await;
    let rows = fixture.db.rows("select * from centiloc.dead_letter").await.unwrap();
    assert_eq!(rows[0].get::<Vec<u8>, _>("payload"), payload.to_vec());
    assert_eq!(rows[0].get::<String, _>("reason"), "refused_by_database");
    assert_eq!(rows[0].get::<String, _>("topic"), "centiloc/T");
    assert!(rows[0].get::<String, _>("detail").contains("0x00"));
}

#[tokio::test]
async fn each_format_of_refused_event_is_tried() {
    let fixture = StoreFixture::new().await;
    let outcome = fixture.commit(&[of_item(with_nul(1)), of_item(arrives("U", "A", 1))]).await;
    assert_eq!(
        (outcome.of(EventKind::Item).inserted, outcome.of(EventKind::Item).duplicates),
        (1, 0)
    );
    assert_eq!(outcome.dead_letters["refused_by_database"], 1);
    assert_eq!(fixture.db.count("centiloc.item_state").await, 1);
}

#[tokio::test]
async fn refused_event_does_not_become_state() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[arrives("U", "A", 1), with_nul(9), arrives("U", "A", 5)]).await;
    let momentum: time::OffsetDateTime =
        fixture.db.value("select momentum from centiloc.item_state").await;
    assert_eq!(momentum, at(5));
}

#[tokio::test]
async fn uniformly_refused_batch_holds_the_stream() {
    let fixture = StoreFixture::new().await;
    fixture.db.execute("alter table centiloc.item_state add hall text not null").await;
    let batch: Vec<_> = (0..20).map(|i| of_item(arrives("U", "A", i))).collect();
    let error = fixture.store.commit(&batch).await.unwrap_err();
    assert!(matches!(&error, StoreError::Stop(f) if f.sqlstate.as_deref() == Some("23502")));
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 0);
    fixture.db.execute("alter table centiloc.item_state drop hall").await;
    assert_eq!(fixture.commit(&batch).await.of(EventKind::Item).inserted, 20);
}

#[tokio::test]
async fn small_batches_do_not_drain_into_dead_letters() {
    let fixture = StoreFixture::new().await;
    fixture.db.execute("alter table centiloc.item_event add hall text not null").await;
    let mut held = 0;
    for i in 0..20 {
        held += i64::from(fixture.store.commit(&[of_item(arrives("U", "A", i))]).await.is_err());
    }
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 7);
    assert_eq!(held, 13);
}

/// A trigger as a table's owner may add for their own purposes.
const TRIGGER: &str = "
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.uid like 'bad%' then raise exception 'not in my house'; end if;
        return new;
    end $$;
    create trigger house before insert on centiloc.item_state
       for each row execute function refuse();
    grant execute on function refuse() to public";

#[tokio::test]
async fn repeated_unknown_error_sets_row_aside() {
    let fixture = StoreFixture::new().await;
    fixture.db.execute(TRIGGER).await;
    let bad = || of_item(arrives("bad", "A", 1));
    for _ in 0..7 {
        let error = fixture.store.commit(&[bad()]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Retry(f) if f.sqlstate.as_deref() == Some("P0001")));
    }
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 0);
    let batch = || [bad(), of_item(arrives("good", "A", 2))];
    let mut outcome = fixture.store.commit(&batch()).await;
    for _ in 0..2 {
        if outcome.is_err() {
            outcome = fixture.store.commit(&batch()).await;
        }
    }
    let outcome = outcome.unwrap();
    assert_eq!(outcome.of(EventKind::Item).inserted, 1);
    assert_eq!(outcome.dead_letters["refused_by_database"], 1);
    let code: String = fixture.db.value("select sqlstate from centiloc.dead_letter").await;
    assert_eq!(code, "P0001");
}

#[tokio::test]
async fn slow_statement_requests_half_batch() {
    let fixture = StoreFixture::new().await;
    let mut config = crate::support::store::config(&fixture.db.socket_url());
    config.statement_timeout = std::time::Duration::from_millis(300);
    let store =
        centiloc_bridge::store::Store::new(&config, centiloc_bridge::config::PartitionSpan::Month)
            .unwrap();
    store.commit(&[of_item(arrives("U", "A", 1))]).await.unwrap();
    fixture
        .db
        .execute(
            "create function slow() returns trigger language plpgsql as
             $$ begin perform pg_sleep(0.1); return new; end $$;
             create trigger slow before insert on centiloc.item_event
                for each row execute function slow();",
        )
        .await;
    let batch: Vec<_> = (2..12).map(|i| of_item(arrives("U", "A", i))).collect();
    let error = store.commit(&batch).await.unwrap_err();
    assert!(matches!(error, StoreError::Halve(_)), "{error}");
    assert_eq!(store.commit(&batch[..1]).await.unwrap().of(EventKind::Item).inserted, 1);
}

#[tokio::test]
async fn missing_privileges_hold_stream_with_hint() {
    let fixture = StoreFixture::new().await;
    fixture.db.execute("alter table centiloc.item_state owner to postgres").await;
    let error = fixture.store.commit(&[of_item(arrives("U", "A", 1))]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Stop(f) if f.sqlstate.as_deref() == Some("42501")));
    assert!(error.to_string().contains("grant"), "{error}");
}

#[tokio::test]
async fn timed_out_row_is_not_set_aside() {
    let fixture = StoreFixture::new().await;
    let trigger = TRIGGER.replace("exception 'not in my house'", "'slow' using errcode = '57014'");
    fixture.db.execute(&trigger).await;
    let batch = [of_item(with_nul(1)), of_item(arrives("bad", "A", 2))];
    let error = fixture.store.commit(&batch).await.unwrap_err();
    assert!(matches!(&error, StoreError::Halve(f) if f.sqlstate.as_deref() == Some("57014")));
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 0);
    fixture.db.execute("drop trigger house on centiloc.item_state").await;
    fixture.commit(&batch).await;
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 1);
}
