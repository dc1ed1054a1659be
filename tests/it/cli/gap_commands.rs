//! The `gaps` command, as built.

use serde_json::{Value, json};

use crate::support::store::StoreFixture;

async fn fixture() -> StoreFixture {
    let fixture = StoreFixture::new().await;
    fixture
        .db
        .execute(
            "insert into centiloc.gap (client_id, started_at, ended_at, cause, detail) values
                 ('T-bridge', '2026-01-01 10:00Z', '2026-01-01 13:00Z', 'absence', 'away'),
                 ('T-bridge', '2026-01-02 10:00Z', null, 'backpressure', 'held')",
        )
        .await;
    fixture
}

#[tokio::test]
async fn acknowledged_gap_keeps_its_note() {
    let fixture = fixture().await;
    let list = fixture.run_json(&["gaps", "list"], 0).await;
    let causes: Vec<_> = list.as_array().unwrap().iter().map(|gap| &gap["cause"]).collect();
    assert_eq!(causes, ["backpressure", "absence"], "newest first");
    assert_eq!(list[1]["ended_at"], "2026-01-01T13:00:00Z");
    let id = list[1]["id"].to_string();
    let args = ["gaps", "acknowledge", &id, "--note", "compared with the gRPC API: complete"];
    let report = fixture.run_json(&args, 0).await;
    assert_eq!(report, json!({ "acknowledged": [list[1]["id"]], "unknown": [] }));
    let row: Value = fixture
        .db
        .value("select to_jsonb(g) from centiloc.data_gap g where cause = 'absence'")
        .await;
    assert_eq!(row["note"], "compared with the gRPC API: complete");
    assert!(row["acknowledged_at"].is_string(), "{row}");
    assert_eq!(fixture.run_json(&["gaps", "list"], 0).await.as_array().unwrap().len(), 1);
    let all = fixture.run(&["gaps", "list", "--all"]).await;
    let text = String::from_utf8(all.stdout).unwrap();
    assert!(text.contains("2026-01-01T10:00:00Z to 2026-01-01T13:00:00Z  absence"), "{text}");
    assert!(text.contains("compared with the gRPC API: complete"), "{text}");
}

#[tokio::test]
async fn unknown_gap_is_named_and_fails() {
    let fixture = fixture().await;
    let report = fixture.run_json(&["gaps", "acknowledge", "1", "99", "--note", "x"], 1).await;
    assert_eq!(report, json!({ "acknowledged": [1], "unknown": [99] }));
    for wrong in [&["gaps", "acknowledge", "1"][..], &["gaps", "acknowledge", "1", "--note", ""]] {
        let output = fixture.run(wrong).await;
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {output:?}");
    }
}
