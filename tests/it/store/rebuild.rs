//! `rebuild`: derived tables become what the events say, whatever they held before.

use std::process::Stdio;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::stays::{history, stays};
use crate::support::bridge::command;
use crate::support::config::database_only;
use crate::support::process::Process;
use crate::support::store::{STAYS_BY_WINDOWS, StoreFixture, arrives, leaves};
use crate::support::wait::{SOON, until_true};

/// Keeps every process from computing while a transaction holds it.
pub(super) const LOCK: &str = "begin; select pg_advisory_xact_lock(7161677110969590389)";

const STAYS: &str = "select to_jsonb(s)::text from centiloc.stay s order by 1";

const BOARDS: &str = "select to_jsonb(b)::text from centiloc.item_board b order by 1";

/// Makes stays and boards wrong in every way: missing, extra, and with other values.
const CORRUPT: &str = "
    delete from centiloc.stay where uid = 'U0';
    update centiloc.stay
       set board_sn = 'Z', left_at = left_at + interval '3 s', product_reference = 'wrong',
           loc_reference = 'wrong'
     where uid = 'U1';
    update centiloc.stay set left_at = null where uid = 'U2';
    insert into centiloc.stay (tenant, uid, board_sn, entered_at, entered_id, left_at)
    values ('T', 'U3', 'A', '2025-03-10 00:00:07', gen_random_uuid(), '2025-03-10 00:00:09'),
           ('T', 'nobody', 'A', '2025-03-10 00:00:07', gen_random_uuid(), null);
    update centiloc.item_board set board_sn = 'Z' where uid = 'U0';
    delete from centiloc.item_board where uid = 'U1';
    insert into centiloc.item_board values ('T', 'nobody', 'A')";

async fn history_of(fixture: &StoreFixture, seed: u64) {
    for events in history(&mut StdRng::seed_from_u64(seed)).chunks(9) {
        fixture.items(events).await;
    }
    fixture.store.compute_all_stays().await.unwrap();
    fixture.store.compute_all_rollups().await.unwrap();
}

#[tokio::test]
async fn rebuilt_stays_match_all_events() {
    let fixture = StoreFixture::new().await;
    history_of(&fixture, 11).await;
    let (rows, boards) =
        (fixture.db.column::<String>(STAYS).await, fixture.db.column::<String>(BOARDS).await);
    fixture.db.execute(CORRUPT).await;
    assert_ne!(fixture.db.column::<String>(STAYS).await, rows);
    let rebuilt = fixture.run_json(&["rebuild", "stays"], 0).await;
    assert_eq!((&rebuilt["rebuilt"], &rebuilt["total"]), (&"stays".into(), &5.into()));
    let expected = stays(&fixture, STAYS_BY_WINDOWS).await;
    assert_eq!(stays(&fixture, "table centiloc.item_stay").await, expected);
    assert_eq!(fixture.db.column::<String>(STAYS).await, rows);
    assert_eq!(fixture.db.column::<String>(BOARDS).await, boards);
    assert_eq!(fixture.db.count("centiloc.rebuild").await, 0);
    let output = fixture.run(&["rebuild", "stays"]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "rebuilt stays: 4 tags\n");
    assert!(output.stderr.is_empty(), "no bar without a terminal: {output:?}");
}

#[tokio::test]
async fn rebuilt_rollups_match_all_events() {
    const TABLES: [&str; 3] = ["board_hour", "location_hour", "product_day"];
    let fixture = StoreFixture::new().await;
    history_of(&fixture, 12).await;
    let rows = async || {
        let mut all = Vec::new();
        for table in TABLES {
            let sql = format!("select to_jsonb(t)::text from centiloc.{table} t order by 1");
            all.push(fixture.db.column::<String>(&sql).await);
        }
        all
    };
    let before = rows().await;
    fixture
        .db
        .execute(
            "update centiloc.board_hour set movements = movements + 7;
             insert into centiloc.board_hour
             select hour - interval '9 h', tenant, 'nobody', 1, 1, 1, 1, 1, 1, '1 h'
               from centiloc.board_hour limit 1;
             delete from centiloc.product_day",
        )
        .await;
    assert_ne!(rows().await, before);
    fixture.run_json(&["rebuild", "rollups"], 0).await;
    assert_eq!(rows().await, before);
}

#[tokio::test]
async fn killed_rebuild_is_shown_and_continued() {
    let fixture = StoreFixture::new().await;
    history_of(&fixture, 13).await;
    let rows = fixture.db.column::<String>(STAYS).await;
    fixture.db.execute(CORRUPT).await;
    let corrupt = fixture.db.column::<String>(STAYS).await;
    let mut other = fixture.db.connect().await.unwrap();
    sqlx::raw_sql(LOCK).execute(&mut other).await.unwrap();
    let folder = database_only(&fixture.db.socket_url());
    let mut killed = command(["rebuild", "stays", "-c"]);
    killed.arg(folder.join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Process::start("rebuild", &mut killed, "KILL");
    let pending = "select pending_batches from centiloc.item_stay_progress";
    crate::support::wait::until("the queue", SOON, || async {
        let batches = fixture.db.value::<i64>(pending).await;
        (batches > 0).then_some(()).ok_or(batches)
    })
    .await;
    process.kill();
    until_true("its end", SOON, || process.status().is_some()).await;
    assert_eq!(fixture.db.column::<String>(STAYS).await, corrupt, "the old rows are there");
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
    let rebuilt = fixture.run_json(&["rebuild", "stays"], 0).await;
    assert_eq!((&rebuilt["continued"], &rebuilt["total"]), (&true.into(), &5.into()));
    assert_eq!(fixture.db.column::<String>(STAYS).await, rows);
    assert_eq!(fixture.db.value::<i64>(pending).await, 0);
}

#[tokio::test]
async fn stays_without_their_events_are_kept() {
    let fixture = StoreFixture::new().await;
    let day = 86_400;
    fixture.items(&[arrives("U", "A", 1), leaves("U", "A", 9), arrives("U", "B", 20)]).await;
    fixture.items(&[arrives("U", "C", 2 * day), leaves("U", "C", 2 * day + 9)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let rows = fixture.db.column::<String>(STAYS).await;
    assert_eq!(rows.len(), 3);
    fixture
        .db
        .execute(
            "delete from centiloc.item_event where momentum < '2025-03-11';
             update centiloc.rollup_floor set kept = '2025-03-11'",
        )
        .await;
    fixture.run_json(&["rebuild", "stays"], 0).await;
    assert_eq!(fixture.db.column::<String>(STAYS).await, rows);
}

#[tokio::test]
async fn rebuild_without_events_ends() {
    let fixture = StoreFixture::new().await;
    for target in ["stays", "rollups"] {
        let rebuilt = fixture.run_json(&["rebuild", target], 0).await;
        assert_eq!(rebuilt["total"], 0, "{target}");
    }
}

#[tokio::test]
async fn event_before_retained_ones_keeps_stays() {
    let fixture = StoreFixture::new().await;
    let day = 86_400;
    fixture.items(&[arrives("U", "A", 2 * day)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    let rows = fixture.db.column::<String>(STAYS).await;
    assert_eq!(rows.len(), 1);
    fixture
        .db
        .execute(
            "delete from centiloc.item_event;
             delete from centiloc.rollup_pending;
             update centiloc.rollup_floor set kept = now() - interval '1 day'",
        )
        .await;
    fixture.items(&[arrives("U", "B", day)]).await;
    fixture.store.compute_all_stays().await.unwrap();
    assert_eq!(fixture.db.column::<String>(STAYS).await, rows);
    let board = "select board_sn from centiloc.item_location where uid = 'U'";
    assert_eq!(fixture.db.column::<String>(board).await, ["A"]);
    let marked = "(select from centiloc.rollup_pending where start < now() - interval '3 days') p";
    assert_eq!(fixture.db.count(marked).await, 0);
}
