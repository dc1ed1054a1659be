//! The plan of a run: which faults occur when, derived from a seed alone.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::backlog::PACKET_IDS;
use crate::support::proxy::Direction;

/// `mqtt.queue_grace` of the bridge.
pub const QUEUE_GRACE: Duration = Duration::from_secs(1);

/// Duration of the outage in a [`Phase::Outage`]. Three times the grace must have passed for
/// certain, on a busy machine too.
const OUTAGE: Duration = Duration::from_millis(4_500);

/// Duration of a [`Phase::Drain`] in addition to its storm.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Messages of a backlog: more than MQTT has packet ids, so that ids are reused.
const BACKLOG: usize = PACKET_IDS + 1_000;

/// Slowdown factor of the database during a drain.
const SLOWER: Range<u32> = 2..11;

/// Approximate duration of one storm in a long run.
const STORM: Duration = Duration::from_secs(20);

/// Additional time for stopping and starting a victim.
const RESTART: Duration = Duration::from_millis(300);

/// Pause between two storms of a long run, so that backlogs are drained again and again.
const CALM: Range<u64> = 1_000..4_000;

/// The setup of the bridge, and whether the broker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChaosMode {
    /// Without a spool: acknowledged means committed.
    Direct,
    /// With a spool.
    Spool,
    /// Without a spool, and with a broker that is killed and then forgets its unsaved state.
    BrokerKill,
}

/// A component that faults are applied to. Each has one fault at a time, all of them concurrently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The bridge process.
    Bridge,
    /// The PostgreSQL server.
    Postgres,
    /// The Mosquitto broker.
    Broker,
    /// The link between bridge and broker.
    BrokerLink,
    /// The link between bridge and database.
    DatabaseLink,
}

/// A fault of a victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VictimFault {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// The broker saves its state. This is no fault, but it determines the state left after a kill.
    Save,
    /// Inserts take ten times as long.
    Slow,
    /// All connections are reset.
    Cut,
    /// All connections are reset and new ones refused.
    Refuse,
    /// Nothing passes for a while. Then the bytes held back are delivered.
    Stall(StallWay),
    /// Existing connections go silent without notice, and new ones pass. At the end both sides see
    /// a reset.
    HalfOpen,
    /// All connections are cut after that many bytes, most likely in the middle of a packet.
    Tear(Direction, u64),
}

/// The directions that are stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StallWay {
    /// One direction.
    One(Direction),
    /// Both directions.
    Both,
}

/// A fault with its timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultStep {
    /// Pause before the fault.
    pub after: Duration,
    pub fault: VictimFault,
    /// Time until the victim has recovered.
    pub lasts: Duration,
}

/// The faults of one storm, of all victims concurrently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StormPlan(pub Vec<(Victim, Vec<FaultStep>)>);

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Random faults.
    Storm(StormPlan),
    /// No faults.
    Calm(Duration),
    /// The database alone is away, for longer than the broker's queue can be trusted.
    Outage(VictimFault, Duration),
    /// The broker forgets the session while it holds nothing for it.
    LoseSession,
    /// A long backlog with a slow database.
    Drain(DrainPlan),
}

/// A backlog that is drained with a slow database, at first in a storm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainPlan {
    /// Number of waiting messages.
    pub backlog: usize,
    /// Slowdown factor of the database until the storm is over.
    pub slower: u32,
    /// The storm at its beginning.
    pub storm: StormPlan,
}

/// The phases of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChaosPlan(pub Vec<Phase>);

impl ChaosPlan {
    /// Draws the plan of a run of about this duration.
    pub fn new(mode: ChaosMode, seed: u64, lasts: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let storms = u32::try_from(lasts.as_secs() / STORM.as_secs()).unwrap().clamp(3, 1_000);
        let outages = if mode == ChaosMode::BrokerKill { 0 } else { storms.div_ceil(3) };
        let drains = |index: u32| mode != ChaosMode::BrokerKill && index % 6 == 1;
        let extra = (0..storms).filter(|index| drains(*index)).map(|_| DRAIN).sum::<Duration>();
        let each = lasts.saturating_sub(OUTAGE * outages + extra) / storms;
        let calm = each >= STORM / 2;
        let peace = if calm { Duration::from_millis(CALM.end) } else { Duration::ZERO };
        let each = each.saturating_sub(peace);
        let mut phases = Vec::new();
        for index in 0..storms {
            let storm = storm(&mut rng, mode, each);
            phases.push(if drains(index) {
                Phase::Drain(DrainPlan {
                    backlog: BACKLOG,
                    slower: rng.random_range(SLOWER),
                    storm,
                })
            } else {
                Phase::Storm(storm)
            });
            if mode != ChaosMode::BrokerKill && index % 3 == 0 {
                phases.push(Phase::Outage(outage(&mut rng), OUTAGE));
            }
            if index % 3 == 0 {
                phases.push(Phase::Storm(coincidence(&mut rng)));
            }
            if mode != ChaosMode::BrokerKill && index == storms - 2 {
                phases.push(Phase::LoseSession);
            }
            if calm {
                phases.push(Phase::Calm(Duration::from_millis(rng.random_range(CALM))));
            }
        }
        Self(phases)
    }
}

fn storm(rng: &mut StdRng, mode: ChaosMode, lasts: Duration) -> StormPlan {
    use Victim::{Bridge, Broker, BrokerLink, DatabaseLink, Postgres};
    let victims = [Bridge, Postgres, Broker, BrokerLink, DatabaseLink];
    StormPlan(victims.map(|victim| (victim, timeline(rng, mode, victim, lasts))).to_vec())
}

/// Returns a storm that loses messages acknowledged too early: the bridge is killed while the
/// database is away.
fn coincidence(rng: &mut StdRng) -> StormPlan {
    let mut milliseconds = |range: Range<u64>| Duration::from_millis(rng.random_range(range));
    let away = FaultStep {
        after: Duration::ZERO,
        fault: VictimFault::Kill,
        lasts: milliseconds(1_200..1_500),
    };
    let killed = FaultStep {
        after: milliseconds(300..1_000),
        fault: VictimFault::Kill,
        lasts: milliseconds(0..300),
    };
    StormPlan(vec![(Victim::Postgres, vec![away]), (Victim::Bridge, vec![killed])])
}

fn timeline(rng: &mut StdRng, mode: ChaosMode, victim: Victim, lasts: Duration) -> Vec<FaultStep> {
    let peace = match victim {
        Victim::Bridge => 500..4_000,
        Victim::BrokerLink => 300..3_000,
        Victim::Broker if mode == ChaosMode::BrokerKill => 300..2_000,
        Victim::Postgres | Victim::Broker => 500..7_000,
        Victim::DatabaseLink => 500..5_000,
    };
    let mut steps = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        let after = Duration::from_millis(rng.random_range(peace.clone()));
        let fault = fault(rng, mode, victim);
        let lasts_for = Duration::from_millis(rng.random_range(duration(fault)));
        at += after + lasts_for + RESTART;
        if at > lasts {
            return steps;
        }
        steps.push(FaultStep { after, fault, lasts: lasts_for });
    }
}

fn fault(rng: &mut StdRng, mode: ChaosMode, victim: Victim) -> VictimFault {
    let dice = rng.random_range(0..10);
    match (victim, dice) {
        (Victim::Postgres, 0..=3) => VictimFault::Slow,
        (Victim::Bridge, 0..=7) | (Victim::Postgres, _) => VictimFault::Kill,
        // Messages not stored between two saves are lost, which shows nothing, so the broker saves
        // often.
        (Victim::Broker, 0..=3) if mode == ChaosMode::BrokerKill => VictimFault::Kill,
        (Victim::Broker, 4..=8) if mode == ChaosMode::BrokerKill => VictimFault::Save,
        (Victim::Bridge | Victim::Broker, _) => VictimFault::Stop,
        (_, 0..=2) => VictimFault::Cut,
        (_, 3) => VictimFault::Refuse,
        (_, 4) => VictimFault::Stall(StallWay::One(direction(rng))),
        (_, 5) => VictimFault::Stall(StallWay::Both),
        (_, 6..=7) => VictimFault::HalfOpen,
        (_, _) => VictimFault::Tear(direction(rng), rng.random_range(1..3_000)),
    }
}

fn direction(rng: &mut StdRng) -> Direction {
    if rng.random() { Direction::Up } else { Direction::Down }
}

/// Draws a duration, milliseconds. Stalls last from less than a keepalive to more than it and a
/// time-out.
fn duration(fault: VictimFault) -> Range<u64> {
    match fault {
        VictimFault::Kill | VictimFault::Stop => 0..1_500,
        VictimFault::Save | VictimFault::Cut => 0..1,
        VictimFault::Refuse | VictimFault::Tear(..) => 50..1_500,
        VictimFault::Slow | VictimFault::Stall(_) | VictimFault::HalfOpen => 200..5_000,
    }
}

fn outage(rng: &mut StdRng) -> VictimFault {
    [VictimFault::Kill, VictimFault::Refuse, VictimFault::Stall(StallWay::Both)]
        [rng.random_range(0..3)]
}

impl ChaosMode {
    pub const ALL: [Self; 3] = [Self::Direct, Self::Spool, Self::BrokerKill];
}

impl fmt::Display for ChaosMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Spool => "spool",
            Self::BrokerKill => "broker-kill",
        })
    }
}

impl Victim {
    /// Returns the report's name for a `fault` of this victim.
    pub fn suffers(self, fault: VictimFault) -> String {
        let what = match fault {
            VictimFault::Kill => "kill -9",
            VictimFault::Stop => "SIGTERM",
            VictimFault::Save => "saved",
            VictimFault::Slow => "slow",
            VictimFault::Cut => "cut",
            VictimFault::Refuse => "refused",
            VictimFault::Stall(_) => "stalled",
            VictimFault::HalfOpen => "half-open",
            VictimFault::Tear(..) => "torn",
        };
        let who = match self {
            Self::Bridge => "bridge",
            Self::Postgres => "PostgreSQL",
            Self::Broker => "broker",
            Self::BrokerLink => "link to the broker",
            Self::DatabaseLink => "link to the database",
        };
        format!("{who} {what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(plan: &ChaosPlan) -> impl Iterator<Item = (Victim, FaultStep)> {
        let storms = plan.0.iter().filter_map(|phase| match phase {
            Phase::Storm(storm) | Phase::Drain(DrainPlan { storm, .. }) => Some(&storm.0),
            _ => None,
        });
        storms.flatten().flat_map(|(victim, steps)| steps.iter().map(|step| (*victim, *step)))
    }

    #[test]
    fn plan_follows_from_seed() {
        for mode in ChaosMode::ALL {
            let plan = |seed| ChaosPlan::new(mode, seed, Duration::from_secs(60));
            assert_eq!(plan(7), plan(7));
            assert_ne!(plan(7), plan(8));
        }
    }

    #[test]
    fn broker_is_killed_only_in_its_mode() {
        for mode in ChaosMode::ALL {
            let plan = ChaosPlan::new(mode, 1, Duration::from_secs(600));
            let killed =
                steps(&plan).any(|(v, s)| (v, s.fault) == (Victim::Broker, VictimFault::Kill));
            assert_eq!(killed, mode == ChaosMode::BrokerKill, "{mode}");
        }
    }

    #[test]
    fn other_modes_include_every_provoked_loss() {
        for seconds in [10, 20, 60, 900] {
            let plan = ChaosPlan::new(ChaosMode::Direct, seconds, Duration::from_secs(seconds));
            let count = |wanted: fn(&Phase) -> bool| plan.0.iter().filter(|p| wanted(p)).count();
            assert_eq!(count(|phase| matches!(phase, Phase::LoseSession)), 1);
            assert!(count(|phase| matches!(phase, Phase::Outage(..))) >= 1);
            let wraps = |drain: &DrainPlan| drain.backlog > PACKET_IDS && drain.slower > 1;
            let drains = plan.0.iter().filter(|p| matches!(p, Phase::Drain(d) if wraps(d))).count();
            assert!(drains >= 1);
        }
    }

    #[test]
    fn long_run_includes_every_fault() {
        let plan = ChaosPlan::new(ChaosMode::BrokerKill, 3, Duration::from_secs(900));
        let kinds: std::collections::BTreeSet<String> =
            steps(&plan).map(|(victim, step)| victim.suffers(step.fault)).collect();
        assert_eq!(kinds.len(), 2 + 2 + 3 + 5 + 5, "{kinds:?}");
    }
}
