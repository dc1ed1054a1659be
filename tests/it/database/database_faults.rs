//! Faults of PostgreSQL: it accepts and hangs, answers too late or not at all, fails over, has no
//! connection or disk space left, or lost a partition. Meanwhile nothing is acknowledged that is
//! not stored. Afterwards every event is in exactly one row, and there is no dead letter.

use sqlx::{Connection, PgConnection};

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::{ItemEvent, board_protobuf, board_topic};
use crate::support::expect::until_count;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::proxy::{Direction, TcpProxy};
use crate::support::rig::{Rig, TableLock, until_settled_in};
use crate::support::small_disk::SmallDisk;
use crate::support::wait::{SOON, until, until_eq};

/// Mosquitto's default window: the number of messages delivered while nothing is acknowledged.
const WINDOW: usize = 20;

/// Creates a link to the rig's database, and the configuration that connects through it.
async fn linked(rig: &Rig, postgres: &Postgres) -> (TcpProxy, Config) {
    let link = TcpProxy::to(postgres.port()).await;
    let config = rig.config().set("database.url", rig.database.url_at(link.port()));
    (link, config)
}

#[tokio::test]
async fn hanging_database_holds_acks_until_it_answers() {
    let postgres = Postgres::shared().await;
    let rig = Rig::on(postgres).await;
    let (link, config) = linked(&rig, postgres).await;
    link.stall_both().await;
    let mut bridge = Bridge::start(&config.set("database.statement_timeout", "1s"));
    let events = ItemEvent::series(TENANT, 100);
    let platform = rig.platform().await;
    bridge.until_logged(&["subscribed at QoS 1"]).await;
    platform.publish_json(&events[..50]).await;
    rig.until_delivered(WINDOW).await;
    bridge.until_logged(&["WARN", "PostgreSQL did not answer within"]).await;
    assert_eq!(rig.tap.pubacks(), 0);
    link.cut().await;
    link.pass().await;
    rig.until_kept(&events[..50]).await;
    // Once more in the middle of the work, with connections that worked so far.
    link.stall_both().await;
    let before = link.accepted();
    platform.publish_json(&events[50..]).await;
    until("a hanging connection to be given up for another that hangs", SOON, || async {
        let now = link.accepted();
        if now > before { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(rig.tap.pubacks(), 50);
    link.cut().await;
    link.pass().await;
    rig.until_kept(&events).await;
    assert_eq!(rig.tap.proxy.accepted(), 1, "the session to the broker was kept");
    bridge.assert_running();
}

/// Blocks a COMMIT that contains a board event while another session has advisory lock 1.
const GATE: &str = "
    create function gate() returns trigger language plpgsql as $$
    begin
        perform pg_advisory_xact_lock_shared(1);
        return null;
    end $$;
    create constraint trigger gate after insert on centiloc.board_event
        deferrable initially deferred for each row execute function gate()";

async fn locked(database: &Database) -> PgConnection {
    let mut session = database.connect().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(1)").execute(&mut session).await.unwrap();
    session
}

#[tokio::test]
async fn lost_commit_answer_stores_event_once() {
    const MIXED: usize = 9;
    let postgres = Postgres::shared().await;
    let rig = Rig::on(postgres).await;
    let (link, config) = linked(&rig, postgres).await;
    let bridge = Bridge::ready(&config).await;
    rig.database.execute(GATE).await;
    let events = ItemEvent::series(TENANT, 1 + MIXED);
    let platform = rig.platform().await;
    // Messages that arrive while the first is blocked are the next batch, of both kinds: a
    // transaction with a COMMIT of its own.
    let mut first = TableLock::take(&rig.database, "item_event").await;
    platform.publish_json(&events[..1]).await;
    first.until_waited_for().await;
    platform.publish_json(&events[1..]).await;
    for (n, event) in events[1..].iter().enumerate() {
        let board = board_protobuf(&format!("B-{n}"), event.momentum, 0);
        assert!(platform.publish(&board_topic(TENANT), board).await);
    }
    rig.until_delivered(1 + 2 * MIXED).await;
    let gate = locked(&rig.database).await;
    first.release().await;
    rig.until_acked(1).await;
    let waiting = "pg_locks where locktype = 'advisory' and not granted and database = \
                   (select oid from pg_database where datname = current_database())";
    until_eq("the COMMIT to be under way", SOON, 1, || rig.database.count(waiting)).await;
    link.stall(Direction::Down).await;
    gate.close().await.unwrap();
    rig.until_rows("board_event", MIXED).await;
    assert_eq!(rig.tap.pubacks(), 1, "the answer is lost");
    link.cut().await;
    link.pass().await;
    rig.until_acked(1 + 2 * MIXED).await;
    rig.until_kept(&events).await;
    rig.until_rows("board_event", MIXED).await;
    for kind in ["kind=\"item\"", "kind=\"board\""] {
        until_count(&bridge, "centiloc_bridge_duplicates_total", kind, MIXED).await;
    }
}

/// Makes each row cost time.
const SLOW: &str = "
    create function slow() returns trigger language plpgsql as $$
    begin perform pg_sleep(0.15); return new; end $$;
    create trigger slow before insert on centiloc.item_event for each row execute function slow()";

#[tokio::test]
async fn slow_batches_shrink_until_they_pass() {
    let rig = Rig::new().await;
    let config = rig.config().set("database.statement_timeout", "1s");
    let bridge = Bridge::ready(&config).await;
    let mut first = TableLock::take(&rig.database, "item_state").await;
    rig.database.execute(SLOW).await;
    let events = ItemEvent::series(TENANT, 40);
    rig.platform().await.publish_json(&events).await;
    first.until_waited_for().await;
    rig.until_delivered(WINDOW).await;
    first.release().await;
    bridge.until_logged(&["57014"]).await;
    rig.until_kept(&events).await;
    bridge.until_logged(&["database is available again"]).await;
}

#[tokio::test]
async fn failover_loses_and_doubles_nothing() {
    let postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let (link, config) = linked(&rig, &postgres).await;
    let mut bridge = Bridge::ready(&config).await;
    let platform = rig.platform().await;
    until_settled_in(&rig.database).await;
    let events = ItemEvent::series(TENANT, 400);
    let (before, during) = events.split_at(300);
    let reset = async {
        until("some PUBACKs", SOON, || async {
            if rig.tap.pubacks() >= 50 { Ok(()) } else { Err(rig.tap.pubacks()) }
        })
        .await;
        link.refuse().await;
        postgres.set_read_only(true).await;
    };
    tokio::join!(platform.publish_protobuf(before), reset);
    platform.publish_protobuf(during).await;
    link.pass().await;
    bridge.until_logged(&["database error; retrying", "25006"]).await;
    let (status, body) = bridge.get("/readyz").await.unwrap();
    assert_eq!(status, 503, "{body}");
    let acked = i64::try_from(rig.tap.pubacks()).unwrap();
    let stored = rig.database.count("centiloc.item_event").await;
    assert!((50..=stored).contains(&acked), "{acked} are acknowledged, {stored} stored");
    postgres.set_read_only(false).await;
    rig.until_kept(&events).await;
    assert_eq!(rig.tap.proxy.accepted(), 1, "the session to the broker was kept");
    bridge.until_ready().await;
}

/// Opens sessions until the server has none left.
async fn crowd(database: &Database) -> Vec<PgConnection> {
    let mut crowd = Vec::new();
    loop {
        match PgConnection::connect(&database.url()).await {
            Ok(session) => crowd.push(session),
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("53300") => return crowd,
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn too_many_connections_hold_acks() {
    let postgres = Postgres::own_with(&["max_connections = 20"]).await;
    let rig = Rig::on(&postgres).await;
    let (link, config) = linked(&rig, &postgres).await;
    let mut bridge = Bridge::ready(&config).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 50);
    platform.publish_json(&events[..10]).await;
    rig.until_kept(&events[..10]).await;
    link.refuse().await;
    let crowd = crowd(&rig.database).await;
    link.pass().await;
    platform.publish_json(&events[10..]).await;
    bridge.until_logged(&["WARN", "53300"]).await;
    rig.until_delivered(10 + WINDOW).await;
    assert_eq!(rig.tap.pubacks(), 10);
    drop(crowd);
    rig.until_kept(&events).await;
    bridge.until_ready().await;
}

#[tokio::test]
async fn full_database_disk_holds_acks() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let postgres = Postgres::own().await;
    let rig = Rig::around(Mosquitto::start().await, disk.database(&postgres).await).await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    until_settled_in(&rig.database).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 500);
    platform.publish_json(&events[..50]).await;
    rig.until_kept(&events[..50]).await;
    disk.fill();
    platform.publish_json(&events[50..]).await;
    bridge.until_logged(&["WARN", "53100"]).await;
    // Everything acknowledged is stored, also on a disk that is nearly full.
    let acked = i64::try_from(rig.tap.pubacks()).unwrap();
    assert!((50..500).contains(&acked), "{acked} of 500 are acknowledged");
    assert!(rig.database.count("centiloc.item_event").await >= acked);
    bridge.assert_running();
    disk.free();
    rig.until_kept(&events).await;
    bridge.until_ready().await;
    drop(postgres);
}

/// Removes all partitions except the default one, whatever they hold.
const DROP_PARTITIONS: &str = "
    do $$ declare p regclass; begin
        for p in select inhrelid from pg_inherits join pg_class on oid = inhrelid
                  where inhparent = 'centiloc.item_event'::regclass
                    and pg_get_expr(relpartbound, oid) <> 'DEFAULT'
        loop execute 'drop table ' || p; end loop;
    end $$";

#[tokio::test]
async fn dropped_partition_costs_no_later_event() {
    let rig = Rig::new().await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    let platform = rig.platform().await;
    until_settled_in(&rig.database).await;
    let events = ItemEvent::series(TENANT, 90);
    for (round, events) in events.chunks(30).enumerate() {
        platform.publish_json(events).await;
        rig.until_acked(30 * (round + 1)).await;
        rig.until_rows("item_event", 30).await;
        if round == 1 {
            rig.database.execute("drop table centiloc.item_event_default").await;
        }
        rig.database.execute(DROP_PARTITIONS).await;
        rig.until_rows("item_event", 0).await;
    }
    let last = ItemEvent::series(TENANT, 30);
    platform.publish_json(&last).await;
    rig.until_acked(120).await;
    rig.until_rows("item_event", 30).await;
    rig.until_rows("item_event_default", 0).await;
    assert_eq!(rig.database.count("centiloc.dead_letter").await, 0, "no row is at fault");
    rig.assert_promises_kept().await;
    bridge.until_ready().await;
}
