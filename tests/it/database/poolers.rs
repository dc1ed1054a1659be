//! Poolers between the bridge and PostgreSQL, and servers other than PostgreSQL. Poolers that lend
//! whole sessions work without any setting of theirs. Others are refused, as are servers whose
//! locks lock nothing. An answer is never treated as an outage.

use std::time::Duration;

use sqlx::PgConnection;

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Postgres, ROLE};
use crate::support::publisher::TestPublisher;
use crate::support::wait::{SOON, until, until_eq};

/// Each of the bridge's connections is used at least once in this time.
const GIVEN_BACK: Duration = Duration::from_secs(2);

async fn services() -> (Mosquitto, Database) {
    tokio::join!(Mosquitto::start(), async { Postgres::shared().await.database().await })
}

fn through(port: u16, broker: &Mosquitto, database: &Database) -> Config {
    Config::new(broker, database).set("database.url", database.url_at(port))
}

/// Waits for `/readyz` to give a reason that contains all of `words`.
async fn until_refused(bridge: &Bridge, words: &[&str]) {
    until("the reason in /readyz", SOON, || async {
        match bridge.get("/readyz").await {
            Ok((503, text)) if words.iter().all(|word| text.contains(word)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

const REFUSED: &str = "the database answers but does not give the single-writer lock";

/// Asserts that the bridge refuses for the given reason and never connects to the broker meanwhile.
async fn assert_refused(bridge: &Bridge, words: &[&str]) {
    let line = bridge.until_logged(&["ERROR", REFUSED]).await;
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    until_refused(bridge, words).await;
    assert_eq!(bridge.log().count("the broker accepted the connection"), 0);
}

#[tokio::test]
async fn session_pooling_needs_no_pooler_setting() {
    let (broker, database) = services().await;
    let pooler = PgBouncer::start(Postgres::shared().await, &["pool_mode = session"]).await;
    let config = through(pooler.port(), &broker, &database);
    let mut first = Bridge::ready(&config).await;
    let platform = TestPublisher::connect(&broker).await;
    let events = ItemEvent::series(TENANT, 40);
    platform.publish_json(&events[..20]).await;
    until_eq("the rows", SOON, 20, || database.count("centiloc.item_event")).await;
    let second = Bridge::start(&through(pooler.port(), &broker, &database));
    until_refused(&second, &["standing by: centiloc-bridge on "]).await;
    first.kill();
    platform.publish_json(&events[20..]).await;
    until_eq("the rows", SOON, 40, || database.count("centiloc.item_event")).await;
}

#[tokio::test]
async fn transaction_pooling_is_refused_with_explanation() {
    let (broker, database) = services().await;
    let pooler = PgBouncer::start(Postgres::shared().await, &["pool_mode = transaction"]).await;
    let bridge = Bridge::start(&through(pooler.port(), &broker, &database));
    assert_refused(&bridge, &["by transaction", "pool_mode = session"]).await;
}

#[tokio::test]
async fn pooler_becoming_unsuitable_is_detected() {
    let (broker, database) = services().await;
    let postgres = Postgres::shared().await;
    let mut pooler = PgBouncer::start(postgres, &["pool_mode = session"]).await;
    let bridge = Bridge::ready(&through(pooler.port(), &broker, &database)).await;
    pooler.change("pool_mode = session", "pool_mode = transaction");
    // Others take the server processes that the bridge's connections return.
    let mut others: Vec<PgConnection> = Vec::new();
    let refusal = ["ERROR", REFUSED, "by transaction"];
    while tokio::time::timeout(GIVEN_BACK, bridge.until_logged(&refusal)).await.is_err() {
        assert!(others.len() < 15, "it was not noticed");
        let mut other = pooler.connect(&database).await;
        sqlx::raw_sql("begin; select 1").execute(&mut other).await.unwrap();
        others.push(other);
    }
    until_refused(&bridge, &["by transaction"]).await;
}

/// First line of `version()` of `CockroachDB`, found before PostgreSQL's own function.
pub async fn pretend_cockroachdb(database: &Database) {
    let name = database.name();
    database
        .execute(&format!(
            "create schema pretended;
             grant usage on schema pretended to {ROLE};
             create function pretended.version() returns text language sql
                 as $$ select 'CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu)' $$;
             alter database {name} set search_path = pretended, pg_catalog"
        ))
        .await;
}

#[tokio::test]
async fn server_with_stub_locks_is_refused() {
    let (broker, database) = services().await;
    pretend_cockroachdb(&database).await;
    let bridge = Bridge::start(&Config::new(&broker, &database));
    assert_refused(&bridge, &["CockroachDB", "name a PostgreSQL server"]).await;
}

#[tokio::test]
async fn wrong_credentials_count_as_no_outage() {
    let (broker, database) = services().await;
    let url = database.url().replace(ROLE, "nobody_knows");
    let bridge = Bridge::start(&Config::new(&broker, &database).set("database.url", url));
    assert_refused(&bridge, &["28P01"]).await;
}
