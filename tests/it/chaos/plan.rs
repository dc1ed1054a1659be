//! What goes wrong when: drawn from a seed, and from nothing else.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::backlog::PACKET_IDS;
use crate::support::proxy::Direction;

/// `mqtt.queue_grace` of the bridge.
pub const QUEUE_GRACE: Duration = Duration::from_secs(1);

/// How long the database is away in a [`Phase::Outage`]: three times the grace must have passed for
/// certain, on a busy machine too.
const OUTAGE: Duration = Duration::from_millis(4_500);

/// How long a [`Phase::Drain`] takes beside its storm.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Messages of a backlog: more than MQTT has packet ids, so that they are given out again.
const BACKLOG: usize = PACKET_IDS + 1_000;

/// How many times slower the database is while a backlog is worked off.
const SLOWER: Range<u32> = 2..11;

/// About how long one storm lasts in a long run.
const STORM: Duration = Duration::from_secs(20);

/// What ending and starting a victim takes beside.
const RESTART: Duration = Duration::from_millis(300);

/// Between two storms of a long run, so that backlogs are worked off again and again.
const CALM: Range<u64> = 1_000..4_000;

/// How the bridge is set up, and what is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without a spool: acknowledged is committed.
    Direct,
    /// With a spool.
    Spool,
    /// Without a spool, and the broker is killed too. It then forgets what it had not saved.
    BrokerKill,
}

/// One of those that something happens to. Each suffers one thing at a time, all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The process.
    Bridge,
    /// The server.
    Postgres,
    /// Mosquitto.
    Broker,
    /// Between bridge and broker.
    BrokerLink,
    /// Between bridge and database.
    DatabaseLink,
}

/// What happens to a victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`.
    Kill,
    /// SIGTERM.
    Stop,
    /// The broker saves its state, which is no fault, but decides what a kill makes it forget.
    Save,
    /// Inserts take ten times as long.
    Slow,
    /// All connections are reset.
    Cut,
    /// All connections are reset, new ones refused.
    Refuse,
    /// Nothing passes for a while, then what was held back does.
    Stall(Way),
    /// The connections there are die without a word; new ones pass. At the end both sides hear.
    HalfOpen,
    /// All connections are cut after so many bytes, most likely in the middle of a packet.
    Tear(Direction, u64),
}

/// Which directions are stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One.
    One(Direction),
    /// Both.
    Both,
}

/// One thing that happens to a victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Peace before it.
    pub after: Duration,
    /// What.
    pub fault: Fault,
    /// How long until the victim is as before.
    pub lasts: Duration,
}

/// What happens during one storm, to all victims at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storm(pub Vec<(Victim, Vec<Step>)>);

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Everything at random.
    Storm(Storm),
    /// Nothing.
    Calm(Duration),
    /// The database alone is away, longer than the broker's queue may be trusted.
    Outage(Fault, Duration),
    /// The broker forgets the session, while it holds nothing for it.
    LoseSession,
    /// A long backlog for a slow database.
    Drain(Drain),
}

/// A backlog that is worked off, by a slow database and in a storm at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Messages that wait.
    pub backlog: usize,
    /// How many times slower the database is until the storm is over.
    pub slower: u32,
    /// Meanwhile.
    pub storm: Storm,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan(pub Vec<Phase>);

impl Plan {
    /// For about so long.
    pub fn new(mode: Mode, seed: u64, lasts: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let storms = u32::try_from(lasts.as_secs() / STORM.as_secs()).unwrap().clamp(3, 1_000);
        let outages = if mode == Mode::BrokerKill { 0 } else { storms.div_ceil(3) };
        let drains = |index: u32| mode != Mode::BrokerKill && index % 6 == 1;
        let extra = (0..storms).filter(|index| drains(*index)).map(|_| DRAIN).sum::<Duration>();
        let each = lasts.saturating_sub(OUTAGE * outages + extra) / storms;
        let calm = each >= STORM / 2;
        let peace = if calm { Duration::from_millis(CALM.end) } else { Duration::ZERO };
        let each = each.saturating_sub(peace);
        let mut phases = Vec::new();
        for index in 0..storms {
            let storm = storm(&mut rng, mode, each);
            phases.push(if drains(index) {
                Phase::Drain(Drain { backlog: BACKLOG, slower: rng.random_range(SLOWER), storm })
            } else {
                Phase::Storm(storm)
            });
            if mode != Mode::BrokerKill && index % 3 == 0 {
                phases.push(Phase::Outage(outage(&mut rng), OUTAGE));
            }
            if index % 3 == 0 {
                phases.push(Phase::Storm(coincidence(&mut rng)));
            }
            if mode != Mode::BrokerKill && index == storms - 2 {
                phases.push(Phase::LoseSession);
            }
            if calm {
                phases.push(Phase::Calm(Duration::from_millis(rng.random_range(CALM))));
            }
        }
        Self(phases)
    }
}

fn storm(rng: &mut StdRng, mode: Mode, lasts: Duration) -> Storm {
    use Victim::{Bridge, Broker, BrokerLink, DatabaseLink, Postgres};
    let victims = [Bridge, Postgres, Broker, BrokerLink, DatabaseLink];
    Storm(victims.map(|victim| (victim, timeline(rng, mode, victim, lasts))).to_vec())
}

/// What must be lost if it was acknowledged too early: the bridge is killed while the database is
/// away.
fn coincidence(rng: &mut StdRng) -> Storm {
    let mut milliseconds = |range: Range<u64>| Duration::from_millis(rng.random_range(range));
    let away =
        Step { after: Duration::ZERO, fault: Fault::Kill, lasts: milliseconds(1_200..1_500) };
    let killed =
        Step { after: milliseconds(300..1_000), fault: Fault::Kill, lasts: milliseconds(0..300) };
    Storm(vec![(Victim::Postgres, vec![away]), (Victim::Bridge, vec![killed])])
}

fn timeline(rng: &mut StdRng, mode: Mode, victim: Victim, lasts: Duration) -> Vec<Step> {
    let peace = match victim {
        Victim::Bridge => 500..4_000,
        Victim::BrokerLink => 300..3_000,
        Victim::Broker if mode == Mode::BrokerKill => 300..2_000,
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
        steps.push(Step { after, fault, lasts: lasts_for });
    }
}

fn fault(rng: &mut StdRng, mode: Mode, victim: Victim) -> Fault {
    let dice = rng.random_range(0..10);
    match (victim, dice) {
        (Victim::Postgres, 0..=3) => Fault::Slow,
        (Victim::Bridge, 0..=7) | (Victim::Postgres, _) => Fault::Kill,
        // Between two saves whatever is not stored yet is lost, which shows nothing: save often.
        (Victim::Broker, 0..=3) if mode == Mode::BrokerKill => Fault::Kill,
        (Victim::Broker, 4..=8) if mode == Mode::BrokerKill => Fault::Save,
        (Victim::Bridge | Victim::Broker, _) => Fault::Stop,
        (_, 0..=2) => Fault::Cut,
        (_, 3) => Fault::Refuse,
        (_, 4) => Fault::Stall(Way::One(direction(rng))),
        (_, 5) => Fault::Stall(Way::Both),
        (_, 6..=7) => Fault::HalfOpen,
        (_, _) => Fault::Tear(direction(rng), rng.random_range(1..3_000)),
    }
}

fn direction(rng: &mut StdRng) -> Direction {
    if rng.random() { Direction::Up } else { Direction::Down }
}

/// Milliseconds. Stalls last from less than a keepalive to more than it and a time-out.
fn duration(fault: Fault) -> Range<u64> {
    match fault {
        Fault::Kill | Fault::Stop => 0..1_500,
        Fault::Save | Fault::Cut => 0..1,
        Fault::Refuse | Fault::Tear(..) => 50..1_500,
        Fault::Slow | Fault::Stall(_) | Fault::HalfOpen => 200..5_000,
    }
}

fn outage(rng: &mut StdRng) -> Fault {
    [Fault::Kill, Fault::Refuse, Fault::Stall(Way::Both)][rng.random_range(0..3)]
}

impl Mode {
    /// One of each.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Spool, Self::BrokerKill];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Spool => "spool",
            Self::BrokerKill => "broker-kill",
        })
    }
}

impl Victim {
    /// What the report calls `fault` of this victim.
    pub fn suffers(self, fault: Fault) -> String {
        let what = match fault {
            Fault::Kill => "kill -9",
            Fault::Stop => "SIGTERM",
            Fault::Save => "saved",
            Fault::Slow => "slow",
            Fault::Cut => "cut",
            Fault::Refuse => "refused",
            Fault::Stall(_) => "stalled",
            Fault::HalfOpen => "half-open",
            Fault::Tear(..) => "torn",
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

    fn steps(plan: &Plan) -> impl Iterator<Item = (Victim, Step)> {
        let storms = plan.0.iter().filter_map(|phase| match phase {
            Phase::Storm(storm) | Phase::Drain(Drain { storm, .. }) => Some(&storm.0),
            _ => None,
        });
        storms.flatten().flat_map(|(victim, steps)| steps.iter().map(|step| (*victim, *step)))
    }

    #[test]
    fn a_seed_makes_the_same_plan_again_and_another_makes_another() {
        for mode in Mode::ALL {
            let plan = |seed| Plan::new(mode, seed, Duration::from_secs(60));
            assert_eq!(plan(7), plan(7));
            assert_ne!(plan(7), plan(8));
        }
    }

    #[test]
    fn the_broker_is_killed_in_its_own_mode_alone() {
        for mode in Mode::ALL {
            let plan = Plan::new(mode, 1, Duration::from_secs(600));
            let killed = steps(&plan).any(|(v, s)| (v, s.fault) == (Victim::Broker, Fault::Kill));
            assert_eq!(killed, mode == Mode::BrokerKill, "{mode}");
        }
    }

    #[test]
    fn other_modes_lose_session_and_database_and_drain_backlog() {
        for seconds in [10, 20, 60, 900] {
            let plan = Plan::new(Mode::Direct, seconds, Duration::from_secs(seconds));
            let count = |wanted: fn(&Phase) -> bool| plan.0.iter().filter(|p| wanted(p)).count();
            assert_eq!(count(|phase| matches!(phase, Phase::LoseSession)), 1);
            assert!(count(|phase| matches!(phase, Phase::Outage(..))) >= 1);
            let wraps = |drain: &Drain| drain.backlog > PACKET_IDS && drain.slower > 1;
            let drains = plan.0.iter().filter(|p| matches!(p, Phase::Drain(d) if wraps(d))).count();
            assert!(drains >= 1);
        }
    }

    #[test]
    fn a_long_run_has_every_fault_of_every_victim() {
        let plan = Plan::new(Mode::BrokerKill, 3, Duration::from_secs(900));
        let kinds: std::collections::BTreeSet<String> =
            steps(&plan).map(|(victim, step)| victim.suffers(step.fault)).collect();
        assert_eq!(kinds.len(), 2 + 2 + 3 + 5 + 5, "{kinds:?}");
    }
}
