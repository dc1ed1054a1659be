//! The host's clock is set while the bridge runs, as by NTP after a start without it, or by hand:
//! days ahead and back. The events' times are the platform's and stay right. Nothing that uses the
//! host's clock may lose, reject, delete or hide anything.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use crate::support::bridge::Bridge;
use crate::support::clock::Clock;
use crate::support::event::ItemEvent;
use crate::support::expect::assert_never_reconnected;
use crate::support::mosquitto::TENANT;
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until, until_eq};

const DAYS: Duration = Duration::days(3);

/// Waits until the bridge shows that its clock differs from the database's by this much.
async fn until_known(bridge: &Bridge, ahead: Duration) {
    until(&format!("a skew of {ahead}"), SOON, || async {
        let (_, status) = bridge.get("/api/status").await?;
        let status: serde_json::Value = serde_json::from_str(&status).map_err(|e| e.to_string())?;
        let skew = status["database"]["clock_skew_seconds"].as_f64();
        let off = skew.ok_or("not measured")? - ahead.as_seconds_f64();
        if off.abs() < 60.0 { Ok(()) } else { Err(format!("{skew:?}")) }
    })
    .await;
}

#[tokio::test]
async fn clock_jumps_lose_and_reject_nothing() {
    let (rig, clock) = (Rig::new().await, Arc::new(Clock::new().await));
    let mut bridge = Bridge::start_under(&clock, &rig.config());
    bridge.until_ready().await;
    until_known(&bridge, Duration::ZERO).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 240);
    let mut left = events.chunks(20);
    let mut stored = 0;
    for ahead in [DAYS, Duration::ZERO, -DAYS, Duration::ZERO] {
        clock.set_ahead(ahead);
        // Immediately, while the clocks were last seen to agree, or to differ by another amount.
        platform.publish_protobuf(left.next().unwrap()).await;
        platform.publish_json(left.next().unwrap()).await;
        until_known(&bridge, ahead).await;
        platform.publish_protobuf(left.next().unwrap()).await;
        stored += 60;
        rig.until_kept(&events[..stored]).await;
    }
    assert_never_reconnected(&bridge).await;
    assert_eq!(rig.database.count("centiloc.gap").await, 0);
    assert_eq!(rig.database.count("centiloc.item_event_default").await, 0);
    bridge.assert_running();
    assert_eq!(bridge.get("/livez").await.map(|(status, _)| status), Ok(200));
    assert_eq!(bridge.terminate().await, 0);
}

#[tokio::test]
async fn slow_clock_events_find_their_partition() {
    let (rig, clock) = (Rig::new().await, Arc::new(Clock::new().await));
    clock.set_ahead(Duration::days(-400));
    let mut bridge = Bridge::start_under(&clock, &rig.config());
    bridge.until_ready().await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, 80);
    platform.publish_protobuf(&events[..20]).await;
    rig.until_kept(&events[..20]).await;
    // By the database's clock these momenta are not in the future.
    assert_eq!(rig.database.count("centiloc.item_event_default").await, 0);
    clock.set_ahead(Duration::ZERO);
    platform.publish_protobuf(&events[20..]).await;
    rig.until_kept(&events).await;
    let default = || rig.database.count("centiloc.item_event_default");
    until_eq("the rows in the default partition", SOON, 0, default).await;
}

#[tokio::test]
async fn fast_clock_deletes_no_event_early() {
    let (rig, clock) = (Rig::new().await, Arc::new(Clock::new().await));
    let mut config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    let platform = rig.platform().await;
    let mut events = ItemEvent::series(TENANT, 20);
    for event in &mut events[10..] {
        event.momentum -= Duration::days(30);
    }
    platform.publish_json(&events).await;
    rig.until_kept(&events).await;
    let old = OffsetDateTime::now_utc() - Duration::days(1000);
    platform.publish_json(&[ItemEvent::new(TENANT, "OLD", "B-0001", old)]).await;
    rig.until_rows("item_event", 21).await;
    assert_eq!(bridge.terminate().await, 0);
    clock.set_ahead(Duration::days(1500));
    config = config.set("retention.events", "700d");
    let bridge = Bridge::start_under(&clock, &config);
    bridge.until_logged(&["deleted rows past their retention"]).await;
    rig.until_rows("item_event", 20).await;
    rig.database.execute("delete from centiloc.item_state where uid = 'OLD'").await;
    rig.until_kept(&events).await;
}

#[tokio::test]
async fn absence_after_clock_jump_is_recorded() {
    let (rig, clock) = (Rig::new().await, Arc::new(Clock::new().await));
    let mut bridge = Bridge::start_under(&clock, &rig.config());
    bridge.until_ready().await;
    let events = ItemEvent::series(TENANT, 20);
    rig.platform().await.publish_json(&events).await;
    rig.until_kept(&events).await;
    clock.set_ahead(DAYS);
    let seen = "centiloc.connection where disconnected_at is null and last_seen_at > now()";
    let days_ahead = format!("{seen} + interval '2 days'");
    until_eq("to be seen in the future", SOON, 1, || rig.database.count(&days_ahead)).await;
    clock.set_ahead(Duration::ZERO);
    until_eq("to be seen now", SOON, 0, || rig.database.count(&days_ahead)).await;
    bridge.kill();
    // It starts again after longer than the broker keeps a session.
    clock.set_ahead(Duration::hours(3));
    bridge.start_again();
    bridge.until_ready().await;
    let gaps = "select cause from centiloc.gap where started_at < ended_at";
    until_eq("the gap", SOON, vec!["absence".to_owned()], || rig.database.column::<String>(gaps))
        .await;
    rig.until_kept(&events).await;
}
