//! The bridge is killed with SIGKILL at random moments.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::bridge::Bridge;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until_eq};

/// Events published while the bridge is killed repeatedly.
const EVENTS: usize = 3000;
/// Number of kills.
const KILLS: usize = 8;

#[tokio::test]
async fn random_kills_lose_and_double_nothing() {
    let seed: u64 = StdRng::from_os_rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    // The platform goes on while the bridge is down.
    let rig =
        Rig::with(Mosquitto::builder().max_queued_messages(0), Postgres::shared().await).await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    let platform = rig.platform().await;
    let events = ItemEvent::series(TENANT, EVENTS);
    let (first, rest) = events.split_at(EVENTS / 10);
    platform.publish_protobuf(first).await;
    let kills = async {
        for kill in 0..KILLS {
            // Some of the work must get done between two kills, or only the start is tested.
            let goal = (kill + 1) * EVENTS / (KILLS + 2);
            until_eq("the bridge to get on", SOON, true, || async {
                rig.database.count("centiloc.item_event").await >= i64::try_from(goal).unwrap()
            })
            .await;
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
            bridge.kill();
            bridge.start_again();
            if rng.random_bool(0.3) {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
                bridge.kill();
                bridge.start_again();
            }
        }
    };
    tokio::join!(platform.publish_protobuf(rest), kills);
    rig.until_rows("item_event", EVENTS).await;
    // The successor's first connection records the end of the one that died.
    bridge.until_ready().await;
    until_eq("nothing unacknowledged", SOON, Some(0.0), || {
        bridge.metric("centiloc_bridge_unacked", "")
    })
    .await;
    // The next one closes the transactions that a killed process had open in the server.
    bridge.kill();
    bridge.start_again();
    bridge.until_ready().await;
    assert_eq!(bridge.terminate().await, 0);
    assert_eq!(rig.database.count("centiloc.item_event").await, i64::try_from(EVENTS).unwrap());
    assert_eq!(rig.database.count("centiloc.item_state").await, i64::try_from(EVENTS).unwrap());
    assert_eq!(rig.database.count("centiloc.dead_letter").await, 0);
    let gaps =
        "select format('%s %s %s %s', started_at, ended_at, cause, detail) from centiloc.gap";
    assert_eq!(rig.database.column::<String>(gaps).await, [""; 0], "the session was never lost");
    // Every killed process has its end recorded.
    let open = "select c::text from centiloc.connection c where disconnected_at is null";
    assert_eq!(rig.database.column::<String>(open).await, [""; 0]);
    rig.assert_promises_kept().await;
}
