//! Vanished members of a share group, as the other members record them.

use centiloc_bridge::stream::connection_event::ConnectionEvent;
use centiloc_bridge::stream::gap::GapCause;
use time::OffsetDateTime;

use crate::support::store::{EXPIRY, Process, StoreFixture, at};

const FILTER: &str = "$share/T-dock/centiloc/T";

/// The member `T-bridge` connected at the start and was never seen again.
async fn gone(filter: &str) -> StoreFixture {
    let fixture = StoreFixture::new().await;
    let opened = ConnectionEvent::Opened {
        connection: Process::new().connection(1),
        at: at(0),
        session_present: false,
        filters: vec![filter.to_owned()],
        spool_dir: None,
    };
    fixture.store.note(EXPIRY, None, &opened).await.unwrap();
    fixture
}

/// Returns the gaps that another member records at a time.
async fn noted(fixture: &StoreFixture, now: OffsetDateTime) -> Vec<GapCause> {
    let filters = [FILTER.to_owned(), "centiloc/T/other".to_owned()];
    let gaps = fixture.store.note_vanished("T-other", &filters, EXPIRY, now).await.unwrap();
    gaps.iter().map(|gap| gap.cause).collect()
}

#[tokio::test]
async fn vanished_member_is_one_gap() {
    let fixture = gone(FILTER).await;
    assert!(noted(&fixture, at(7200)).await.is_empty(), "the broker may still have its session");
    assert_eq!(noted(&fixture, at(7201)).await, [GapCause::MemberVanished]);
    assert!(noted(&fixture, at(9000)).await.is_empty(), "it is written down");
    let row = "select client_id = 'T-bridge' and cause = 'member_vanished'
                      and started_at = '2025-03-10 00:00:00+00'
                      and ended_at = '2025-03-10 02:00:00+00' and detail like '%retire%'
                 from centiloc.gap";
    assert!(fixture.db.value::<bool>(row).await);
}

#[tokio::test]
async fn retired_member_is_no_gap() {
    let fixture = gone(FILTER).await;
    fixture.store.retire("T-bridge").await.unwrap();
    assert!(noted(&fixture, at(9000)).await.is_empty());
}

#[tokio::test]
async fn client_of_another_group_is_ignored() {
    for filter in ["centiloc/T/other", "$share/T-ramp/centiloc/T"] {
        let fixture = gone(filter).await;
        assert!(noted(&fixture, at(9000)).await.is_empty(), "{filter}");
    }
}

#[tokio::test]
async fn member_holding_its_lock_is_alive() {
    let fixture = gone(FILTER).await;
    let mut holder = fixture.db.connect().await.unwrap();
    let lock = "select pg_advisory_lock(('x' || left(encode(sha256(convert_to(
                    'centiloc-bridge single writer of client id T-bridge', 'UTF8')), 'hex'), 16)
                )::bit(64)::bigint)";
    sqlx::query(lock).execute(&mut holder).await.unwrap();
    assert!(noted(&fixture, at(9000)).await.is_empty());
    drop(holder);
    assert_eq!(fixture.db.count("centiloc.gap").await, 0);
}
