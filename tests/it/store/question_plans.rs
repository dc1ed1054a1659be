//! No question of a dashboard reads all events, on a database with events of 90 days.

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::store::Store;

use crate::support::database::Database;
use crate::support::postgres::Postgres;
use crate::support::questions::{GENERATE, questions};
use crate::support::store::config;

async fn filled() -> Database {
    let postgres = Postgres::shared().await;
    let db = postgres.database().await;
    let store = Store::new(&config(&db.socket_url()), PartitionSpan::Month).unwrap();
    store.migrate().await.unwrap();
    let script = format!("\\set each 200\n\\set tags 300\n\\set boards 30\n{GENERATE}");
    postgres.psql("postgres", db.name(), &script).unwrap();
    store.compute_all_stays().await.unwrap();
    store.compute_all_rollups().await.unwrap();
    while store.learn_usual_intervals(20).await.unwrap() > 0 {}
    db.execute("vacuum analyze").await;
    db
}

/// Returns true if a plan reads a partition as a whole. The default partition is empty.
fn reads_whole_partition(plan: &[String]) -> bool {
    plan.iter()
        .filter_map(|line| line.split_once("Seq Scan on "))
        .any(|(_, relation)| relation.starts_with("item_event_2"))
}

#[tokio::test]
async fn questions_read_no_partition_as_a_whole() {
    let db = filled().await;
    for question in questions() {
        assert!(db.count(&format!("({}) q", question.now)).await > 0, "{}", question.name);
        let plan: Vec<String> = db.column(&format!("explain {}", question.now)).await;
        assert!(!reads_whole_partition(&plan), "{}:\n{}", question.name, plan.join("\n"));
        // Positions and the shelf of a board are in the events, and rates of hours that are not computed
        // are counted. Everything else is answered from stays and states.
        let may_read_events = ["heat map", "content of", "boards of the layout", "hourly", "daily"]
            .iter()
            .any(|name| question.name.starts_with(name));
        let looks_up = plan.iter().any(|line| line.contains("item_event"));
        assert_eq!(looks_up, may_read_events, "{}:\n{}", question.name, plan.join("\n"));
    }
    // The check itself finds a query that does.
    let all = "explain select count(x_mm) from centiloc.item_event";
    assert!(reads_whole_partition(&db.column(all).await));
}
