//! `retire` stores the messages that broker and spool hold, and leaves no session behind.

use std::process::Output;

use crate::support::bridge::{Bridge, command, finish};
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::ItemEvent;
use crate::support::expect::until_stored;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::proxy::TcpProxy;
use crate::support::publisher::TestPublisher;
use crate::support::subscriber::TestSubscriber;
use crate::support::wait::{SOON, until_eq};

async fn retire(config: &Config) -> Output {
    let mut retire = command(["retire", "-c"]);
    retire.arg(config.write());
    finish(retire).await
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// Returns the configuration of a member of a share group.
fn member(broker: &Mosquitto, database: &Database, id: &str) -> Config {
    Config::new(broker, database).set("mqtt.share_group", "dock").set("mqtt.client_id", id)
}

/// True if the broker still has a session of this client.
async fn has_session(broker: &Mosquitto, client_id: &str) -> bool {
    let session = TestSubscriber::connect(broker.plain_port(), client_id).await.unwrap();
    session.session_present()
}

const REASON: &str =
    "select reason from centiloc.connection where client_id = 'acme-two' order by id desc limit 1";

#[tokio::test]
async fn retired_member_leaves_nothing_behind() {
    const EVENTS: usize = 300;
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let (one, two) =
        (member(&broker, &database, "acme-one"), member(&broker, &database, "acme-two"));
    let mut leaving = Bridge::ready(&two).await;
    assert_eq!(leaving.terminate().await, 0);
    let publisher = TestPublisher::connect(&broker).await;
    // Into the session of the absent one, because there is no other member yet.
    let events = ItemEvent::series(TENANT, EVENTS);
    publisher.publish_json(&events).await;
    let output = retire(&two).await;
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains(&format!("{EVENTS} messages received")), "{}", text(&output));
    until_stored(&database, EVENTS).await;
    assert_eq!(database.value::<String>(REASON).await, "retired");
    assert!(!has_session(&broker, "acme-two").await);

    // The others receive everything from now on.
    let mut staying = Bridge::ready(&one).await;
    let more = ItemEvent::series(TENANT, EVENTS + 100);
    publisher.publish_json(&more[EVENTS..]).await;
    until_stored(&database, EVENTS + 100).await;
    assert_eq!(staying.terminate().await, 0);

    // If it comes back, it starts with a new session.
    leaving.start_again();
    leaving.until_ready().await;
    assert_eq!(database.count("centiloc.gap").await, 0);
}

#[tokio::test]
async fn running_service_is_not_retired() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = member(&broker, &database, "acme-two");
    let mut bridge = Bridge::ready(&config).await;
    bridge.until_logged(&["holds the single-writer lock"]).await;
    let output = retire(&config).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for part in ["\"acme-two\" is not retired", "holds the client id", "stop and disable"] {
        assert!(text(&output).contains(part), "{part} is not in: {}", text(&output));
    }
    let events = ItemEvent::series(TENANT, 3);
    TestPublisher::connect(&broker).await.publish_json(&events).await;
    until_stored(&database, 3).await;
    bridge.until_subscribed(1).await;
    bridge.assert_running();
}

#[tokio::test]
async fn retire_needs_the_database() {
    let broker = Mosquitto::start().await;
    let postgres = Postgres::shared().await;
    let (database, link) = (postgres.database().await, TcpProxy::to(postgres.port()).await);
    let config = member(&broker, &database, "acme-two");
    let mut bridge = Bridge::ready(&config).await;
    assert_eq!(bridge.terminate().await, 0);
    link.refuse().await;
    let output = retire(&config.set("database.url", database.url_at(link.port()))).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("the database is unavailable"), "{}", text(&output));
    assert!(has_session(&broker, "acme-two").await);
}

#[tokio::test]
async fn spooled_messages_are_stored_before_retirement() {
    const EVENTS: usize = 40;
    let broker = Mosquitto::start().await;
    let postgres = Postgres::shared().await;
    let (database, link) = (postgres.database().await, TcpProxy::to(postgres.port()).await);
    let config = member(&broker, &database, "acme-two");
    let dir = config.folder().join("spool");
    let spooling = config.set("spool.dir", dir.to_str().unwrap());
    let spooling = spooling.set("database.url", database.url_at(link.port()));
    let mut bridge = Bridge::ready(&spooling).await;
    until_eq("the connection's row", SOON, 1, || database.count("centiloc.connection")).await;
    link.refuse().await;
    TestPublisher::connect(&broker).await.publish_json(&ItemEvent::series(TENANT, EVENTS)).await;
    until_eq("the spooled events", SOON, Some(EVENTS), || {
        bridge.count("centiloc_bridge_spool_events", "")
    })
    .await;
    assert_eq!(bridge.terminate().await, 0);
    link.pass().await;
    let output = retire(&spooling).await;
    assert!(output.status.success(), "{}", text(&output));
    until_stored(&database, EVENTS).await;
    assert_eq!(database.value::<String>(REASON).await, "retired");
    assert!(!has_session(&broker, "acme-two").await);
}

#[tokio::test]
async fn other_members_record_a_vanished_one() {
    let broker = Mosquitto::start().await;
    let database = Postgres::shared().await.database().await;
    let config = |id| member(&broker, &database, id).set("mqtt.session_expiry", "12s");
    let (one, two) = (config("acme-one"), config("acme-two"));
    let staying = Bridge::ready(&one).await;
    let mut leaving = Bridge::ready(&two).await;
    until_eq("both connections", SOON, 2, || database.count("centiloc.connection")).await;
    leaving.kill();
    let gap = "centiloc.gap where client_id = 'acme-two' and cause = 'member_vanished'";
    until_eq("the gap", 4 * SOON, 1, || database.count(gap)).await;
    staying.until_logged(&["WARN", "member of the share group vanished", "acme-two"]).await;
    until_eq("the metric", SOON, Some(1), || {
        staying.count("centiloc_bridge_gaps_total", "cause=\"member_vanished\"")
    })
    .await;
    assert_eq!(database.count("centiloc.gap where client_id = 'acme-one'").await, 0);
}
