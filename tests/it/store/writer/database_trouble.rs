//! The writer stage while the database refuses, stalls or goes away.

use std::time::Duration;

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::store::Store;
use centiloc_bridge::store::writer;

use super::{event, rig, rows};
use crate::support::postgres::Postgres;
use crate::support::proxy::{Direction, TcpProxy};
use crate::support::store::{StoreFixture, arrives, config, of_item, with_token};
use crate::support::wait::{SOON, until_eq, until_true};

#[tokio::test]
async fn intermittent_database_gets_every_event_once() {
    let fixture = StoreFixture::new().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    proxy.refuse().await;
    let url = fixture.db.url_at(proxy.port());
    let (parts, mut rig) = rig(Store::new(&config(&url), PartitionSpan::Month).unwrap());
    let script = async {
        rig.send(event(0)).await;
        until_true("the outage to be noticed", SOON, || {
            let database = rig.health.snapshot().database;
            database.problem.is_some_and(|p| p.contains("database.url")) && !database.up
        })
        .await;
        proxy.pass().await;
        rig.acknowledged(0..1).await;
        for round in 0..10 {
            for n in 0..10 {
                rig.send(event(1 + round * 10 + n)).await;
                if n == 5 {
                    proxy.cut().await;
                }
            }
            rig.acknowledged(1 + round * 10..11 + round * 10).await;
        }
        assert!(rig.health.snapshot().database.up);
        drop(rig.decoded);
    };
    tokio::join!(writer::run(parts), script).0.unwrap();
    assert_eq!(rows(&fixture).await, 101);
}

#[tokio::test]
async fn lost_commit_answer_makes_no_second_row() {
    let fixture = StoreFixture::new().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    let url = fixture.db.url_at(proxy.port());
    let (parts, mut rig) = rig(Store::new(&config(&url), PartitionSpan::Month).unwrap());
    let script = async {
        rig.send(event(0)).await;
        rig.acknowledged(0..1).await;
        proxy.stall(Direction::Down).await;
        rig.send(event(1)).await;
        until_eq("the server to commit", SOON, 2, || rows(&fixture)).await;
        proxy.cut().await;
        proxy.pass().await;
        rig.acknowledged(1..2).await;
        drop(rig.decoded);
        rig.metrics
    };
    let (result, metrics) = tokio::join!(writer::run(parts), script);
    result.unwrap();
    assert_eq!(rows(&fixture).await, 2);
    assert!(metrics.encode_text().contains("duplicates_total{kind=\"item\"} 1"));
}

#[tokio::test]
async fn half_open_connection_is_replaced() {
    let fixture = StoreFixture::new().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    let mut config = config(&fixture.db.url_at(proxy.port()));
    config.statement_timeout = Duration::from_millis(500);
    let (parts, mut rig) = rig(Store::new(&config, PartitionSpan::Month).unwrap());
    let script = async {
        rig.send(event(0)).await;
        rig.acknowledged(0..1).await;
        proxy.stall_both().await;
        let connections = proxy.accepted();
        rig.send(event(1)).await;
        until_true("a second connection", SOON, || proxy.accepted() > connections).await;
        proxy.cut().await;
        proxy.pass().await;
        rig.acknowledged(1..2).await;
        drop(rig.decoded);
    };
    tokio::join!(writer::run(parts), script).0.unwrap();
    assert_eq!(rows(&fixture).await, 2);
}

#[tokio::test]
async fn operator_fix_resumes_a_held_stream() {
    let fixture = StoreFixture::new().await;
    let (parts, mut rig) = rig(fixture.another_store(PartitionSpan::Month));
    let script = async {
        rig.send(event(0)).await;
        rig.acknowledged(0..1).await;
        fixture.db.execute("alter table centiloc.item_state rename to hidden").await;
        rig.send(event(1)).await;
        until_true("the stream to be held", SOON, || {
            let problem = rig.health.snapshot().database.problem;
            problem.is_some_and(|p| p.contains("SQLSTATE 42P01"))
        })
        .await;
        assert!(rig.feedback.try_recv().is_err());
        assert!(rig.metrics.encode_text().contains("database_up 0"));
        fixture.db.execute("alter table centiloc.hidden rename to item_state").await;
        rig.acknowledged(1..2).await;
        assert_eq!(rig.health.snapshot().database.problem, None);
        drop(rig.decoded);
    };
    tokio::join!(writer::run(parts), script).0.unwrap();
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 0);
}

#[tokio::test]
async fn slow_batches_shrink_until_they_pass() {
    let fixture = StoreFixture::new().await;
    fixture
        .db
        .execute(
            "create function slow() returns trigger language plpgsql as
             $$ begin perform pg_sleep(0.06); return new; end $$;
             create trigger slow before insert on centiloc.item_event
                for each row execute function slow();",
        )
        .await;
    let mut config = config(&fixture.db.socket_url());
    config.statement_timeout = Duration::from_millis(500);
    let (parts, mut rig) = rig(Store::new(&config, PartitionSpan::Month).unwrap());
    for n in 0..40 {
        rig.send(event(n)).await;
    }
    let script = async {
        rig.acknowledged(0..40).await;
        drop(rig.decoded);
    };
    tokio::join!(writer::run(parts), script).0.unwrap();
    assert_eq!(rows(&fixture).await, 40);
}

#[tokio::test]
async fn unknown_row_error_does_not_block_stream() {
    let fixture = StoreFixture::new().await;
    fixture
        .db
        .execute(
            "create function refuse() returns trigger language plpgsql as $$
             begin
                 if new.uid = 'bad' then raise exception 'not in my house'; end if;
                 return new;
             end $$;
             create trigger house before insert on centiloc.item_state
                for each row execute function refuse();",
        )
        .await;
    let (parts, mut rig) = rig(fixture.another_store(PartitionSpan::Month));
    let script = async {
        rig.send(with_token(of_item(arrives("bad", "A", 1)), 0)).await;
        until_true("the error to be reported", SOON, || {
            rig.health.snapshot().database.problem.is_some_and(|p| p.contains("P0001"))
        })
        .await;
        assert_eq!(fixture.db.count("centiloc.dead_letter").await, 0, "it alone proves nothing");
        rig.send(event(1)).await;
        rig.acknowledged(0..2).await;
        drop(rig.decoded);
    };
    tokio::join!(writer::run(parts), script).0.unwrap();
    assert_eq!(rows(&fixture).await, 1);
    assert_eq!(fixture.db.count("centiloc.dead_letter").await, 1);
}

#[tokio::test]
async fn abandoning_ends_retries_immediately() {
    let fixture = StoreFixture::new().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    let url = fixture.db.url_at(proxy.port());
    let (parts, mut rig) = rig(Store::new(&config(&url), PartitionSpan::Month).unwrap());
    let script = async {
        rig.send(event(0)).await;
        rig.acknowledged(0..1).await;
        proxy.stall_both().await;
        rig.send(event(1)).await;
        until_true("the batch to be under way", SOON, || {
            rig.decoded.capacity() == rig.decoded.max_capacity()
        })
        .await;
        rig.abandon.cancel();
        rig.feedback
    };
    let stage = tokio::time::timeout(SOON, writer::run(parts));
    let (result, mut feedback) = tokio::join!(stage, script);
    result.expect("it must not wait for the database").unwrap();
    assert!(feedback.recv().await.is_none(), "messages that are not durable are not acknowledged");
}
