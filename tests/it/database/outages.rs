//! The database is away, slow or read-only. Nothing is acknowledged meanwhile, and nothing is lost.

use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::postgres::Postgres;
use crate::support::proxy::TcpProxy;
use crate::support::rig::{Rig, TableLock};
use crate::support::wait::{SOON, until};

#[tokio::test]
async fn stopped_postgresql_holds_acks_until_it_returns() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 100);
    platform.publish_json(&events[..10]).await;
    rig.until_acked(10).await;
    postgres.stop().await;
    platform.publish_json(&events[10..]).await;
    bridge.until_logged(&["WARN", "database"]).await;
    // The broker's window is open and stays so.
    rig.until_delivered(30).await;
    assert_eq!(rig.tap.pubacks(), 10);
    bridge.assert_running();
    postgres.start().await;
    rig.until_acked(100).await;
    rig.until_rows("item_event", 100).await;
    assert_eq!(rig.tap.proxy.accepted(), 1, "the session to the broker was kept");
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn postgresql_restart_loses_and_doubles_nothing() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let _bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 60);
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    platform.publish_protobuf(&events[..30]).await;
    lock.until_waited_for().await;
    // Ends the bridge's statement and our lock, in any order. The batch may yet be committed, and
    // every acknowledgement that the tap sees is looked up in the database.
    postgres.stop().await;
    drop(lock);
    postgres.start().await;
    platform.publish_protobuf(&events[30..]).await;
    rig.until_acked(60).await;
    rig.until_rows("item_event", 60).await;
    rig.until_rows("item_state", 60).await;
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn postgresql_kill_loses_and_doubles_nothing() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 900);
    for (round, events) in events.chunks(300).enumerate() {
        let publish = platform.publish_protobuf(events);
        let kill = async {
            let acked = round * 300 + 100;
            until("a third of the round to be acknowledged", SOON, || async {
                let pubacks = rig.tap.pubacks();
                if pubacks > acked { Ok(()) } else { Err(pubacks) }
            })
            .await;
            postgres.kill();
            postgres.start().await;
        };
        tokio::join!(publish, kill);
        // Not more either: acknowledged messages were not redelivered.
        rig.until_acked((round + 1) * 300).await;
        // Everything acknowledged survived the kill.
        rig.until_rows("item_event", (round + 1) * 300).await;
    }
    bridge.assert_running();
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn unreachable_database_delays_no_broker_connection() {
    let rig = Rig::new().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    proxy.refuse().await;
    let config = rig.config().set("database.url", rig.database.url_at(proxy.port()));
    let bridge = Bridge::start(&config);
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    let events = ItemEvent::series(TENANT, 40);
    rig.platform().await.publish_json(&events).await;
    rig.until_delivered(20).await;
    assert_eq!(rig.tap.pubacks(), 0);
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "{body}");
    proxy.pass().await;
    rig.until_acked(40).await;
    rig.until_rows("item_event", 40).await;
    assert_eq!(rig.database.count("centiloc.gap").await, 0);
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn locked_table_delays_and_loses_nothing() {
    let postgres = Postgres::shared().await;
    let rig = Rig::on(postgres).await;
    let config = rig.config().set("database.statement_timeout", "1s");
    let bridge = Bridge::ready(&config).await;
    let mut lock = TableLock::take(&rig.database, "item_event").await;
    let events = ItemEvent::series(TENANT, 50);
    rig.platform().await.publish_json(&events).await;
    lock.until_waited_for().await;
    let cancelled = format!("bridge@{} ERROR:  canceling statement", rig.database.name());
    until("two statements to be given up", SOON, || async {
        let count = postgres.log().count(&cancelled);
        if count >= 2 { Ok(()) } else { Err(count) }
    })
    .await;
    assert_eq!(rig.tap.pubacks(), 0);
    assert!(bridge.log().find(&["57014"]).is_some(), "the log names the cause");
    lock.release().await;
    rig.until_acked(50).await;
    rig.until_rows("item_event", 50).await;
    assert_eq!(rig.database.count("centiloc.dead_letter").await, 0, "no row is at fault");
    rig.assert_promises_kept().await;
}

#[tokio::test]
async fn read_only_database_holds_acks() {
    let postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 50);
    platform.publish_json(&events[..1]).await;
    rig.until_acked(1).await;
    postgres.set_read_only(true).await;
    // The setting takes effect when the sessions next check it.
    until("writing to be refused", SOON, || async {
        match rig.database.rows("create table centiloc.probe ()").await {
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("25006") => Ok(()),
            other => Err(other.map(|_| "accepted")),
        }
    })
    .await;
    platform.publish_json(&events[1..]).await;
    bridge.until_logged(&["25006"]).await;
    rig.until_delivered(21).await;
    assert_eq!(rig.tap.pubacks(), 1);
    postgres.set_read_only(false).await;
    rig.until_acked(50).await;
    rig.until_rows("item_event", 50).await;
    assert_eq!(rig.database.count("centiloc.dead_letter").await, 0, "no row is at fault");
    rig.assert_promises_kept().await;
}
