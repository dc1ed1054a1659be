//! `dead-letters`, as built: filters, JSON, export and purge.

use serde_json::{Value, json};

use crate::support::process::ScratchFolder;
use crate::support::store::{StoreFixture, malformed};

/// Creates five dead letters: 1 and 2 malformed, 3 implausible of another topic, 4 from last year,
/// 5 replayed.
async fn fixture() -> StoreFixture {
    let fixture = StoreFixture::new().await;
    for payload in [&b"one"[..], b"\xff\0two", b"three", b"four", b"five"] {
        fixture.commit(&[malformed(payload)]).await;
    }
    fixture
        .db
        .execute(
            "update centiloc.dead_letter set received_at = now(), last_seen_at = now();
             update centiloc.dead_letter set reason = 'implausible', topic = 'other' where id = 3;
             update centiloc.dead_letter set last_seen_at = now() - interval '1 year' where id = 4;
             update centiloc.dead_letter set replayed_at = now() where id = 5",
        )
        .await;
    fixture
}

fn ids(letters: &Value) -> Vec<i64> {
    letters.as_array().unwrap().iter().map(|letter| letter["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn filters_choose_what_is_listed() {
    let fixture = fixture().await;
    let cases: [(&[&str], &[i64]); 7] = [
        (&[], &[4, 3, 2, 1]),
        (&["--all"], &[5, 4, 3, 2, 1]),
        (&["--reason", "implausible"], &[3]),
        (&["--topic", "other", "--reason", "malformed"], &[]),
        (&["--since", "2d"], &[3, 2, 1]),
        (&["--since", "2020-01-01T00:00:00Z", "--limit", "1"], &[4]),
        (&["--topic", "centiloc/T", "--since", "2d", "--all"], &[5, 2, 1]),
    ];
    for (filter, expected) in cases {
        let args = [&["dead-letters", "list"], filter].concat();
        assert_eq!(ids(&fixture.run_json(&args, 0).await), expected, "{filter:?}");
    }
    for wrong in [["--reason", "bad"], ["--since", "yesterday"]] {
        let output = fixture.run(&[&["dead-letters", "list"], &wrong[..]].concat()).await;
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {output:?}");
    }
}

#[tokio::test]
async fn show_prints_json_with_bytes() {
    let fixture = fixture().await;
    let letter = fixture.run_json(&["dead-letters", "show", "2"], 0).await;
    assert_eq!((&letter["id"], &letter["reason"]), (&json!(2), &json!("malformed")));
    assert_eq!(
        (&letter["payload_hex"], &letter["payload_text"]),
        (&json!("ff0074776f"), &Value::Null)
    );
    assert_eq!(fixture.run(&["dead-letters", "show", "99"]).await.status.code(), Some(1));
}

#[tokio::test]
async fn replay_takes_filters_and_reports_json() {
    let fixture = fixture().await;
    let args = ["dead-letters", "replay", "--reason", "implausible"];
    let report = fixture.run_json(&args, 1).await;
    assert_eq!(report["stored"], 0);
    assert_eq!(ids(&report["left"]), [3], "{report}");
    let output = fixture.run(&["dead-letters", "replay", "1", "--all"]).await;
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

#[tokio::test]
async fn export_holds_every_byte_and_overwrites_nothing() {
    let fixture = fixture().await;
    let folder = ScratchFolder::new("export");
    let file = folder.join("letters.jsonl");
    let args = ["dead-letters", "export", "--since", "2d", "--out", file.to_str().unwrap()];
    let output = fixture.run(&args).await;
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ids(&lines.clone().into()), [1, 2, 3]);
    assert_eq!(lines[0]["payload_text"], "one");
    assert_eq!(fixture.run(&args).await.status.code(), Some(1), "the file exists");
    let output = fixture.run(&["dead-letters", "export", "--all"]).await;
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 5);
}

#[tokio::test]
async fn purge_deletes_only_the_selected() {
    let fixture = fixture().await;
    let left = async || fixture.db.count("centiloc.dead_letter").await;
    for nothing_chosen in [&["dead-letters", "purge"][..], &["dead-letters", "purge", "--dry-run"]]
    {
        let output = fixture.run(nothing_chosen).await;
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
    let dry = fixture.run_json(&["dead-letters", "purge", "--all", "--dry-run"], 0).await;
    assert_eq!(dry, json!({ "purged": 5, "dry_run": true }));
    assert_eq!(left().await, 5);
    let purge = async |args: &[&str], code| {
        let report = fixture.run_json(&[&["dead-letters", "purge"], args].concat(), code).await;
        report["purged"].as_u64().unwrap()
    };
    assert_eq!(purge(&["--reason", "implausible"], 0).await, 1);
    assert_eq!(purge(&["1", "99"], 1).await, 1, "there is no 99");
    assert_eq!(purge(&["--topic", "centiloc/T"], 0).await, 2, "the replayed one stays");
    assert_eq!(left().await, 1);
    assert_eq!(purge(&["--all"], 0).await, 1);
}
