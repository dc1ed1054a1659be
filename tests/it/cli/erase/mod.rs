//! `erase` removes a trace everywhere, and nothing else.

mod spool;

use std::process::Output;

use centiloc_bridge::erase::TraceSelector;
use centiloc_bridge::store::erase::{EraseMode, Eraser};
use serde_json::Value;
use time::macros::datetime;

use crate::support::bridge::{command, finish};
use crate::support::config::Config;
use crate::support::mosquitto::Mosquitto;
use crate::support::postgres::ROLE;
use crate::support::store::{
    StoreFixture, arrives, at, board, item, leaves, malformed, of_board, of_item, state,
};
use crate::support::wait::{SOON, until_eq};

/// A uid in the vendor's form.
const TAG: &str = "e004015012345678";
const OTHER: &str = "e004015087654321";

/// Returns the configuration of a bridge on the database of a fixture.
async fn config(fixture: &StoreFixture) -> Config {
    // Neither command connects to the broker.
    Config::new(&Mosquitto::start().await, &fixture.db).plain(1)
}

async fn erase(config: &Config, args: &[&str]) -> Output {
    let mut erase = command(["erase"].iter().chain(args));
    erase.arg("-c").arg(config.write());
    finish(erase).await
}

async fn erased(config: &Config, args: &[&str]) -> String {
    let output = erase(config, args).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the number that a report gives for a place.
fn number(report: &str, place: &str) -> u64 {
    let line = report.lines().find(|line| line.split_whitespace().next() == Some(place));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap()
}

/// Returns all rows of the tables as text.
async fn everything(fixture: &StoreFixture) -> String {
    let mut all = String::new();
    for table in [
        "item_event",
        "board_event",
        "item_state",
        "board_state",
        "dead_letter",
        "gap",
        "stay",
        "stay_pending",
        "change_batch",
        "item_board",
        "board_activity",
    ] {
        let rows = format!("select to_jsonb(t)::text from centiloc.{table} t order by 1");
        all += &fixture.db.column::<String>(&rows).await.join("\n");
    }
    all
}

/// Computes all stays, and returns what is computed from the events.
async fn computed(fixture: &StoreFixture) -> Vec<String> {
    fixture.store.compute_all_stays().await.unwrap();
    let sql = "select to_jsonb(s)::text from centiloc.stay s
                union all select to_jsonb(b)::text from centiloc.item_board b
                union all select (to_jsonb(l) - 'received_at')::text from centiloc.item_location l
                order by 1";
    fixture.db.column(sql).await
}

async fn newest_erasure(fixture: &StoreFixture) -> Value {
    fixture.db.value("select to_jsonb(e) from centiloc.erasure e order by id desc limit 1").await
}

/// Stores two tags on two boards, a status of each board, and dead letters with and without the
/// tag.
async fn fill(fixture: &StoreFixture) {
    let spring = |uid, board, days: i64, is_in| item(uid, board, at(days * 86_400), is_in);
    fixture
        .items(&[
            spring(TAG, "B1", 0, true),
            spring(TAG, "B1", 40, false),
            spring(TAG, "B2", 41, true),
            spring(TAG, "", 80, true),
            spring(OTHER, "B1", 1, true),
            spring(OTHER, "B2", 60, true),
        ])
        .await;
    let escaped = TAG.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<Vec<_>>();
    let escaped = escaped.concat();
    fixture
        .commit(&[
            of_board(board("B1", 5, "ONERROR")),
            of_board(board("B2", 5, "CONNECTED")),
            malformed(format!("{{\"uid\":\"{TAG}\",").as_bytes()),
            malformed(format!("{{\"uid\":\"{escaped}\",\"board_sn\":\"B2\"").as_bytes()),
            malformed(format!("\x12\x10{OTHER}\x2a\x02B1").as_bytes()),
        ])
        .await;
}

#[tokio::test]
async fn erases_one_tag_and_nothing_else() {
    let fixture = StoreFixture::new().await;
    fill(&fixture).await;
    let config = config(&fixture).await;
    let before = everything(&fixture).await;
    let dry = erased(&config, &["--uid", TAG, "--dry-run"]).await;
    assert_eq!(everything(&fixture).await, before, "a dry run changes nothing");
    assert_eq!(fixture.db.count("centiloc.erasure").await, 0);

    let report = erased(&config, &["--uid", TAG]).await;
    for (place, rows) in
        [("item_event", 4), ("item_state", 3), ("dead_letter", 2), ("board_event", 0)]
    {
        assert_eq!(
            (number(&dry, place), number(&report, place)),
            (rows, rows),
            "{place}: {report}"
        );
    }
    let after = everything(&fixture).await;
    assert!(!after.contains(TAG), "{after}");
    assert_eq!(fixture.db.count("centiloc.item_event").await, 2);
    assert_eq!(fixture.db.count("centiloc.board_event").await, 2);
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 1);
    let left = StoreFixture::new().await;
    left.items(&[item(OTHER, "B1", at(86_400), true), item(OTHER, "B2", at(60 * 86_400), true)])
        .await;
    assert_eq!(state(&fixture.db).await, state(&left.db).await);
    assert_eq!(computed(&fixture).await, computed(&left).await);

    let again = erased(&config, &["--uid", TAG]).await;
    assert!(again.contains("0 erased"), "{again}");
}

#[tokio::test]
async fn audit_keeps_counts_and_no_uid() {
    let fixture = StoreFixture::new().await;
    fill(&fixture).await;
    let config = config(&fixture).await;
    erased(&config, &["--uid", TAG]).await;
    let row = newest_erasure(&fixture).await;
    assert!(!row.to_string().contains(TAG), "{row}");
    assert_eq!((&row["selector"], &row["role"]), (&"uid".into(), &ROLE.into()), "{row}");
    assert_eq!((&row["item_events"], &row["item_states"]), (&4.into(), &3.into()), "{row}");
    assert_eq!(row["dead_letters"], 2, "{row}");
    assert!(row["finished_at"].is_string(), "{row}");
    // Anyone who knows the uid can verify that it was erased.
    let is_of = |uid: &str| {
        format!(
            "select uid_digest = sha256(uid_salt || convert_to('{uid}', 'UTF8'))
               from centiloc.erasure"
        )
    };
    assert!(fixture.db.value::<bool>(&is_of(TAG)).await);
    assert!(!fixture.db.value::<bool>(&is_of(OTHER)).await);
}

#[tokio::test]
async fn erases_one_board_and_nothing_else() {
    let fixture = StoreFixture::new().await;
    fill(&fixture).await;
    let config = config(&fixture).await;
    let dry = erased(&config, &["--board", "B1", "--dry-run"]).await;
    let report = erased(&config, &["--board", "B1"]).await;
    for (place, rows) in [
        ("item_event", 3),
        ("board_event", 1),
        ("item_state", 2),
        ("board_state", 1),
        ("dead_letter", 1),
    ] {
        assert_eq!(
            (number(&dry, place), number(&report, place)),
            (rows, rows),
            "{place}: {report}"
        );
    }
    let after = everything(&fixture).await;
    assert!(!after.contains("B1"), "{after}");
    assert_eq!(fixture.db.count("centiloc.item_event").await, 3);
    // The tag that was on B1 and B2 is still on B2.
    let place = format!("select board_sn from centiloc.item_location where uid = '{OTHER}'");
    assert_eq!(fixture.db.value::<String>(&place).await, "B2");
    assert_eq!(newest_erasure(&fixture).await["board_sn"], "B1");
}

#[tokio::test]
async fn erases_everything_before_a_date() {
    let fixture = StoreFixture::new().await;
    let old = [
        item("GONE", "B1", datetime!(2025-01-10 0:00 UTC), true),
        item("STAYS", "B1", datetime!(2025-01-11 0:00 UTC), true),
        item("BACK", "B1", datetime!(2025-02-01 0:00 UTC), true),
        item("BACK", "B1", datetime!(2025-02-10 0:00 UTC), false),
        item("ODD", "B1", datetime!(2001-01-01 0:00 UTC), true),
    ];
    let new = [
        item("STAYS", "B1", datetime!(2025-02-15 0:00 UTC), true),
        item("STAYS", "B1", datetime!(2025-03-02 0:00 UTC), true),
        item("BACK", "B1", datetime!(2025-02-20 0:00 UTC), true),
    ];
    fixture.items(&[&old[..], &new].concat()).await;
    let config = config(&fixture).await;
    let dry = erased(&config, &["--before", "2025-02-15", "--dry-run"]).await;
    let report = erased(&config, &["--before", "2025-02-15"]).await;
    for (place, rows) in [("item_event", 5), ("item_state", 2)] {
        assert_eq!(
            (number(&dry, place), number(&report, place)),
            (rows, rows),
            "{place}: {report}"
        );
    }
    assert_eq!(fixture.db.count("centiloc.item_event").await, 3);
    // January is dropped as a whole.
    let partitions = "pg_inherits where inhparent = 'centiloc.item_event'::regclass";
    assert_eq!(fixture.db.count(partitions).await, 3, "February, March and the default");
    let left = StoreFixture::new().await;
    left.items(&new).await;
    assert_eq!(state(&fixture.db).await, state(&left.db).await, "as if nothing had been before");
    assert_eq!(computed(&fixture).await, computed(&left).await);
    assert_eq!(newest_erasure(&fixture).await["item_events"], 5);
}

#[tokio::test]
async fn partition_in_use_is_emptied_instead() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[item(TAG, "B1", datetime!(2025-01-10 0:00 UTC), true)]).await;
    let config = config(&fixture).await;
    let mut reader = fixture.db.connect().await.unwrap();
    sqlx::raw_sql("begin; select * from centiloc.item_event").execute(&mut reader).await.unwrap();
    let report = erased(&config, &["--before", "2025-02-01"]).await;
    assert_eq!(number(&report, "item_event"), 1);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 0);
    assert_eq!(fixture.db.count("centiloc.item_event_y2025m01").await, 0, "it is still there");
}

#[tokio::test]
async fn role_without_partition_ownership_erases_rows() {
    let fixture = StoreFixture::new().await;
    fixture.items(&[item(TAG, "B1", datetime!(2025-01-10 0:00 UTC), true)]).await;
    let config = config(&fixture).await;
    let grant = format!(
        "alter table centiloc.item_event_y2025m01 owner to current_user;
         grant select, delete on centiloc.item_event_y2025m01 to {ROLE}"
    );
    fixture.db.execute(&grant).await;
    let report = erased(&config, &["--before", "2025-02-01"]).await;
    assert_eq!(number(&report, "item_event"), 1);
    assert_eq!(fixture.db.count("centiloc.item_event").await, 0);
}

#[tokio::test]
async fn missing_privilege_is_named_with_remedy() {
    let fixture = StoreFixture::new().await;
    fill(&fixture).await;
    let config = config(&fixture).await;
    fixture.db.execute(&format!("revoke delete on centiloc.dead_letter from {ROLE}")).await;
    let output = erase(&config, &["--uid", TAG]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    for part in ["erasure is incomplete", "dead_letter", "42501", "grant the role"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert!(newest_erasure(&fixture).await["finished_at"].is_null());
}

#[tokio::test]
async fn interrupted_run_is_recorded_and_resumed() {
    const EVENTS: i64 = 23_000;
    let fixture = StoreFixture::new().await;
    let columns = "momentum, event_id, received_at, tenant, uid, is_in, board_sn";
    fixture.items(&[item(TAG, "B1", at(0), true)]).await;
    fixture
        .db
        .execute(&format!(
            "insert into centiloc.item_event ({columns})
             select timestamptz '2025-03-11' + n * interval '1 second', gen_random_uuid(), now(),
                    'T', '{TAG}', true, 'B1'
               from generate_series(2, {EVENTS}) n"
        ))
        .await;
    let config = config(&fixture).await;
    let mut lock = fixture.db.connect().await.unwrap();
    let sql = "begin; lock table centiloc.item_state in access exclusive mode";
    sqlx::raw_sql(sql).execute(&mut lock).await.unwrap();
    let mut run = command(["erase", "--uid", TAG]);
    let mut run = run.arg("-c").arg(config.write()).spawn().unwrap();
    until_eq("the events to be gone", SOON, 0, || fixture.db.count("centiloc.item_event")).await;
    run.kill().unwrap();
    run.wait().unwrap();
    drop(lock);
    let row = newest_erasure(&fixture).await;
    assert_eq!((&row["item_events"], &row["finished_at"]), (&EVENTS.into(), &Value::Null), "{row}");
    let report = erased(&config, &["--uid", TAG]).await;
    assert_eq!((number(&report, "item_event"), number(&report, "item_state")), (0, 1));
    assert!(!everything(&fixture).await.contains(TAG));
}

#[tokio::test]
async fn state_keeps_event_arriving_during_erasure() {
    for selector in [TraceSelector::Uid(TAG.into()), TraceSelector::Board("B1".into())] {
        let fixture = StoreFixture::new().await;
        fixture.items(&[arrives(TAG, "B1", 0), arrives(TAG, "B1", 50)]).await;
        fixture.commit(&[of_board(board("B1", 1, "CONNECTED"))]).await;
        let mut eraser = Eraser::begin(&fixture.store, &selector, EraseMode::Erase).await.unwrap();
        eraser.events(&mut |_| {}).await.unwrap();
        // One is older than the state, so that the state does not show it.
        let late = [arrives(TAG, "B1", 10), leaves(TAG, "B1", 20), arrives(TAG, "B1", 30)];
        for event in &late {
            fixture.commit(&[of_item(event.clone())]).await;
        }
        eraser.states().await.unwrap();
        eraser.stays().await.unwrap();
        eraser.finish().await.unwrap();
        let left = StoreFixture::new().await;
        left.items(&late).await;
        assert_eq!(state(&fixture.db).await, state(&left.db).await, "{selector:?}");
        assert_eq!(computed(&fixture).await, computed(&left).await, "{selector:?}");
    }
}

/// Adds an event of each kind with the content of another one, at a time that the program cannot hold.
async fn add_events_at(fixture: &StoreFixture, time: &str) {
    for table in ["item_event", "board_event"] {
        let add = format!(
            "insert into centiloc.{table}
             select (jsonb_populate_record(
                        null::centiloc.{table},
                        to_jsonb(e) || jsonb_build_object(
                            'event_id', gen_random_uuid(), 'momentum', '{time}'))).*
               from (select * from centiloc.{table} limit 1) e"
        );
        fixture.db.execute(&add).await;
    }
}

#[tokio::test]
async fn times_beyond_calendar_are_erased_too() {
    for selector in [["--uid", TAG], ["--board", "B1"], ["--before", "2026-01-01"]] {
        let fixture = StoreFixture::new().await;
        fill(&fixture).await;
        for time in ["infinity", "-infinity", "200000-01-01", "0044-03-15 BC"] {
            add_events_at(&fixture, time).await;
        }
        let of_selector = match selector[0] {
            "--uid" => format!("uid = '{TAG}'"),
            "--board" => "board_sn = 'B1'".to_owned(),
            _ => "momentum < '2026-01-01'".to_owned(),
        };
        let events = format!("centiloc.item_event where {of_selector}");
        let expected = fixture.db.count(&events).await;
        assert!(expected > 4, "{expected} events for {selector:?}");
        let config = config(&fixture).await;
        let report = erased(&config, &selector).await;
        assert_eq!(number(&report, "item_event"), expected.cast_unsigned(), "{report}");
        assert_eq!(fixture.db.count(&events).await, 0);
    }
}
