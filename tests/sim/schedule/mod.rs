//! One schedule: all of its events, chosen by a seed, and the rules that must hold afterwards.

mod rest;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use centiloc_bridge::service::leadership::Leadership;

use crate::bridge::{ModelProcess, ModelSettings, ModelSurroundings};
use crate::broker::{BrokerBehavior, IdPolicy, ModelBroker};
use crate::database::{ModelDatabase, ModelDisk};
use crate::message::{MessageKind, payload};
use crate::spool::ModelSpool;
use crate::world::{ScheduleResult, SimulatedWorld};

/// The faults that may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScheduleFault {
    Cut,
    HalfOpen,
    StalledWrites,
    LiveRetry,
    BrokerDoor,
    SessionLost,
    ForeignTakeover,
    WindowChanged,
    Database,
    ClockJump,
    Kill,
    Stop,
    Rebuild,
    SecondProcess,
    Renewal,
    LongWait,
    SpoolDisk,
    SpoolDamage,
}

impl ScheduleFault {
    const ALL: [Self; 18] = [
        Self::Cut,
        Self::HalfOpen,
        Self::StalledWrites,
        Self::LiveRetry,
        Self::BrokerDoor,
        Self::SessionLost,
        Self::ForeignTakeover,
        Self::WindowChanged,
        Self::Database,
        Self::ClockJump,
        Self::Kill,
        Self::Stop,
        Self::Rebuild,
        Self::SecondProcess,
        Self::Renewal,
        Self::LongWait,
        Self::SpoolDisk,
        Self::SpoolDamage,
    ];
}

struct FaultSchedule {
    around: ModelSurroundings,
    world: Arc<SimulatedWorld>,
    broker: Arc<ModelBroker>,
    database: Arc<ModelDatabase>,
    /// The processes. The first holds the session, and the others are on standby.
    processes: Vec<ModelProcess>,
    enabled: Vec<ScheduleFault>,
    /// Faults per 1,000 steps.
    fault_rate: u64,
    events: u64,
    payloads: BTreeMap<u64, (Bytes, MessageKind)>,
    /// True if a process ended before it knew the result of a commit.
    unclean_ends: bool,
    /// True if the session went to another process, and perhaps back.
    handovers: bool,
}

/// Runs the schedule of a seed to its end. Returns the number of steps too.
pub fn run(seed: u64) -> (ScheduleResult, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = SimulatedWorld::new(seed);
        let mut schedule = FaultSchedule::draw(&world);
        let steps = schedule.play().await;
        (world.ended(), steps)
    })
}

impl FaultSchedule {
    fn draw(world: &Arc<SimulatedWorld>) -> Self {
        let settings = ModelSettings {
            keep_alive: Duration::from_secs(world.draw(2..=60)),
            max_unacked: usize::try_from(world.draw(600..=20_000)).unwrap(),
            max_packet_size: 1024,
            queue_grace: Duration::from_secs(world.draw(3..=30)),
            max_events: usize::try_from(world.draw(1..=40)).unwrap(),
            spool: world.chance(400).then(|| world.pick(&[3_000, 30_000, 1_000_000])),
        };
        let window = world.draw(1..=50);
        let behavior = BrokerBehavior {
            ids: world.pick(&[
                IdPolicy::LowestFree,
                IdPolicy::InTurn,
                IdPolicy::InTurn,
                IdPolicy::Blind,
            ]),
            id_space: u16::try_from(world.draw(4..=90)).unwrap(),
            window: world.chance(600).then(|| usize::try_from(window).unwrap()),
            keeps_order: world.chance(700),
            renumbers: world.chance(200),
            // The bridge polls once a second, and packets and answers take their time.
            overflows_after: world
                .chance(500)
                .then(|| settings.queue_grace + Duration::from_secs(5)),
            qos2: if world.chance(200) { 200 } else { 0 },
            keep_alive: settings.keep_alive,
        };
        world.note(format_args!("{settings:?} {behavior:?}"));
        let enabled: Vec<_> =
            ScheduleFault::ALL.into_iter().filter(|_| world.chance(400)).collect();
        world.note(format_args!("{enabled:?}"));
        let silent_commits = if world.chance(300) { 100 } else { 0 };
        let around = ModelSurroundings {
            world: Arc::clone(world),
            broker: ModelBroker::new(world, behavior),
            database: ModelDatabase::new(world, silent_commits),
            disk: ModelDisk::new(world),
            spool: ModelSpool::new(world),
            settings,
        };
        Self {
            world: Arc::clone(world),
            broker: Arc::clone(&around.broker),
            database: Arc::clone(&around.database),
            processes: Vec::new(),
            fault_rate: world.draw(5..=200),
            enabled,
            around,
            events: 0,
            payloads: BTreeMap::new(),
            unclean_ends: false,
            handovers: false,
        }
    }

    async fn play(&mut self) -> u64 {
        if self.world.chance(200) {
            // Before anything was ever stored.
            self.database.change_mood();
        }
        self.start_process();
        let steps = self.world.draw(30..=250);
        for step in 0..steps {
            self.step().await;
            if self.world.is_broken() {
                return step;
            }
        }
        self.world.calm();
        self.come_to_rest().await;
        if !self.world.is_broken() {
            self.check_rows();
        }
        for process in self.processes.drain(..) {
            process.kill().await;
        }
        steps
    }

    async fn step(&mut self) {
        match self.world.draw(0..=9) {
            0..=2 => self.publish(),
            3..=5 => self.broker.deliver(self.world.draw(1..=40)),
            6..=8 => self.receive(),
            _ => {}
        }
        if !self.enabled.is_empty() && self.world.fault_chance(self.fault_rate) {
            let fault = self.world.pick(&self.enabled);
            self.make(fault).await;
        }
        match self.world.draw(0..=19) {
            0..=9 => self.world.step_aside(0..=6).await,
            10..=17 => self.world.sleep(0..=8).await,
            18 => self.world.sleep(0..=300).await,
            _ => self.world.sleep(0..=3_000).await,
        }
        self.broker.enforce_keep_alive();
        self.database.after_loss(self.broker.losses());
        self.check_processes();
    }

    fn receive(&self) {
        self.broker.receive(self.world.draw(1..=40), &self.around);
    }

    fn publish(&mut self) {
        for _ in 0..self.world.draw(1..=12) {
            let again = self.world.chance(50) && self.events > 0;
            let event = if again { self.world.draw(1..=self.events) } else { self.events + 1 };
            if !again {
                self.events += 1;
                let kind = match self.world.draw(0..=29) {
                    0 => MessageKind::Garbage,
                    1 => MessageKind::Refused,
                    _ => MessageKind::Good,
                };
                let padding = if self.world.chance(100) { 400 } else { 0 };
                let made = payload(event, kind, self.world.now_utc(), padding);
                self.payloads.insert(event, (made, kind));
            }
            let payload = self.payloads[&event].0.clone();
            let qos = u8::from(!self.world.chance(40));
            let retain = qos == 1 && self.world.chance(10);
            self.broker.publish(event, payload, qos, retain);
        }
        // Before time passes, in which a gap that covers the losses may end.
        self.database.after_loss(self.broker.losses());
    }

    /// Lets time pass, with the broker active now and then.
    async fn wait_busy(&mut self, millis: u64) {
        let mut left = millis;
        while left > 0 {
            let part = left.min(self.world.draw(200..=2_500));
            self.world.sleep(part..=part).await;
            left -= part;
            if self.world.chance(400) {
                self.publish();
            }
            if self.world.chance(500) {
                self.broker.deliver(30);
            }
            if self.world.chance(700) {
                self.receive();
            }
            self.broker.enforce_keep_alive();
            self.check_processes();
        }
    }

    fn start_process(&mut self) {
        let process = ModelProcess::start(&self.around);
        let led = if self.database.is_well() { Leadership::Held } else { Leadership::Unknown };
        process.lead(led);
        self.processes.insert(0, process);
    }

    fn check_processes(&mut self) {
        for process in &mut self.processes {
            process.check_accounts();
            if let Some(how) = process.ended_unasked() {
                let name = process.name();
                self.world.violated(format_args!("a stage of {name} ended unasked: {how}"));
            }
        }
    }
}
