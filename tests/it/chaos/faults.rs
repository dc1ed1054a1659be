//! Applies the faults of a storm to each victim: one after the other, each with its end.

use tokio::time::sleep;

use super::fault_log::FaultLog;
use super::plan::{FaultStep, StallWay, Victim, VictimFault};
use crate::support::bridge::Bridge;
use crate::support::database::Database;
use crate::support::mosquitto::Mosquitto;
use crate::support::postgres::Postgres;
use crate::support::proxy::TcpProxy;
use crate::support::slow_database;

/// Slowdown factor of a slow database.
const SLOWER: u32 = 10;

/// Applies faults to the bridge process.
pub async fn bridge(bridge: &mut Bridge, steps: &[FaultStep], fault_log: &FaultLog) {
    for step in steps {
        sleep(step.after).await;
        bridge.assert_running();
        fault_log.suffers(Victim::Bridge, step);
        fault_log.weighed(bridge.peak_memory());
        if step.fault == VictimFault::Kill {
            bridge.kill();
        } else {
            // Exit code 1: messages that could not be committed in time stay with the broker.
            let code = bridge.terminate().await;
            assert!([0, 1].contains(&code), "the bridge stopped with {code}");
        }
        sleep(step.lasts).await;
        bridge.start_again();
    }
}

/// Applies faults to the database server.
pub async fn postgres(
    server: &mut Postgres,
    database: &Database,
    steps: &[FaultStep],
    fault_log: &FaultLog,
) {
    for step in steps {
        sleep(step.after).await;
        fault_log.suffers(Victim::Postgres, step);
        if step.fault == VictimFault::Slow {
            slow_database::slow_down(database, SLOWER).await;
            sleep(step.lasts).await;
            slow_database::slow_down(database, 1).await;
            continue;
        }
        server.kill();
        sleep(step.lasts).await;
        server.start().await;
    }
}

/// Applies faults to Mosquitto.
pub async fn broker(broker: &mut Mosquitto, steps: &[FaultStep], fault_log: &FaultLog) {
    for step in steps {
        sleep(step.after).await;
        fault_log.suffers(Victim::Broker, step);
        match step.fault {
            VictimFault::Save => {
                fault_log.broker_saves();
                broker.save().await;
                continue;
            }
            VictimFault::Kill => {
                broker.kill();
                fault_log.broker_forgets();
            }
            _ => {
                fault_log.broker_saves();
                broker.stop().await;
            }
        }
        sleep(step.lasts).await;
        broker.start_again().await;
    }
}

/// Applies faults to one of the two links.
pub async fn link(link: &TcpProxy, victim: Victim, steps: &[FaultStep], fault_log: &FaultLog) {
    for step in steps {
        sleep(step.after).await;
        fault_log.suffers(victim, step);
        match step.fault {
            VictimFault::Refuse => link.refuse().await,
            VictimFault::Stall(StallWay::Both) => link.stall_both().await,
            VictimFault::Stall(StallWay::One(direction)) => link.stall(direction).await,
            VictimFault::HalfOpen => link.half_open().await,
            VictimFault::Tear(direction, bytes) => link.limit(direction, bytes),
            _ => link.cut().await,
        }
        sleep(step.lasts).await;
        if step.fault == VictimFault::HalfOpen {
            link.reset_half_open().await;
        }
        link.pass().await;
    }
}
