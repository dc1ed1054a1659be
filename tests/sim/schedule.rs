//! One schedule: everything that happens, chosen by a seed, and then what must hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use centiloc_bridge::leadership::Leadership;
use centiloc_bridge::message::GapCause;

use crate::bridge::{Process, Settings, Surroundings};
use crate::broker::{Behavior, Broker, Door, Durable as _, Ids};
use crate::database::{ModelDatabase, ModelDisk, Mood};
use crate::message::{Kind, payload};
use crate::spool::{DiskMood, ModelSpool};
use crate::world::{Ended, World};

/// Paused time within which everything must be stored once all faults have ended: the longest wait
/// of the bridge is a minute, and a few may follow each other.
const REST_WITHIN: Duration = Duration::from_secs(900);

/// Times in a row that everything must be found at rest: news may be between two stages.
const QUIET_LOOKS: u32 = 5;

/// The same where processes shared a record of possible losses, which then tells nothing certain.
const QUIET_LOOKS_AFTER_HANDOVER: u32 = 500;

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
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

impl Fault {
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

struct Schedule {
    around: Surroundings,
    world: Arc<World>,
    broker: Arc<Broker>,
    database: Arc<ModelDatabase>,
    /// The first holds the session, the others stand by.
    processes: Vec<Process>,
    enabled: Vec<Fault>,
    /// Faults in 1,000 steps.
    fault_rate: u64,
    events: u64,
    payloads: BTreeMap<u64, (Bytes, Kind)>,
    /// A process ended before it knew what the database had stored.
    unclean_ends: bool,
    /// The session went to another process and perhaps back.
    handovers: bool,
}

/// Runs the schedule of a seed to its end. Returns the number of steps too.
pub fn run(seed: u64) -> (Ended, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(seed);
        let mut schedule = Schedule::draw(&world);
        let steps = schedule.play().await;
        (world.ended(), steps)
    })
}

impl Schedule {
    fn draw(world: &Arc<World>) -> Self {
        let settings = Settings {
            keep_alive: Duration::from_secs(world.draw(2..=60)),
            max_unacked: usize::try_from(world.draw(600..=20_000)).unwrap(),
            max_packet_size: 1024,
            queue_grace: Duration::from_secs(world.draw(3..=30)),
            max_events: usize::try_from(world.draw(1..=40)).unwrap(),
            spool: world.chance(400).then(|| world.pick(&[3_000, 30_000, 1_000_000])),
        };
        let window = world.draw(1..=50);
        let behavior = Behavior {
            ids: world.pick(&[Ids::LowestFree, Ids::InTurn, Ids::InTurn, Ids::Blind]),
            id_space: u16::try_from(world.draw(4..=90)).unwrap(),
            window: world.chance(600).then(|| usize::try_from(window).unwrap()),
            keeps_order: world.chance(700),
            renumbers: world.chance(200),
            // The bridge looks once a second, and packets and answers take their time.
            overflows_after: world
                .chance(500)
                .then(|| settings.queue_grace + Duration::from_secs(10)),
            qos2: if world.chance(200) { 200 } else { 0 },
            keep_alive: settings.keep_alive,
        };
        world.note(format_args!("{settings:?} {behavior:?}"));
        let enabled: Vec<_> = Fault::ALL.into_iter().filter(|_| world.chance(400)).collect();
        world.note(format_args!("{enabled:?}"));
        let silent_commits = if world.chance(300) { 100 } else { 0 };
        let around = Surroundings {
            world: Arc::clone(world),
            broker: Broker::new(world, behavior),
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
                    0 => Kind::Garbage,
                    1 => Kind::Refused,
                    _ => Kind::Good,
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
    }

    async fn make(&mut self, fault: Fault) {
        let world = Arc::clone(&self.world);
        match fault {
            Fault::Cut => {
                world.fault("connection cut");
                self.broker.cut(world.chance(300));
            }
            Fault::HalfOpen => {
                world.fault("connection half-open");
                self.broker.half_open();
            }
            Fault::StalledWrites => {
                world.fault("broker reads nothing");
                self.broker.stall(world.chance(700));
            }
            Fault::LiveRetry => self.broker.retry_live(),
            Fault::BrokerDoor => {
                world.fault("broker refuses");
                let doors =
                    [Door::Refused, Door::Silent, Door::NotAuthorized, Door::NoSubscription];
                self.broker.set_door(world.pick(&doors));
                self.broker.cut(false);
                self.wait_busy(world.draw(0..=20_000)).await;
                self.broker.set_door(Door::Open);
            }
            Fault::SessionLost => {
                if let Some(number) = self.broker.forget_session() {
                    self.database.after_loss(number);
                }
            }
            Fault::ForeignTakeover => {
                world.fault("takeover by a foreign client");
                self.broker.foreign_takeover();
            }
            Fault::WindowChanged => {
                world.fault("window changed");
                let window = usize::try_from(world.draw(1..=50)).unwrap();
                self.broker.change(|b| b.window = Some(window));
            }
            Fault::Database => self.database.change_mood(),
            Fault::ClockJump => {
                world.fault("clock jump");
                world.jump_clock();
            }
            Fault::Kill => {
                world.fault("process killed");
                self.unclean_ends = true;
                world.step_aside(0..=30).await;
                self.replace(|process| Box::pin(process.kill())).await;
            }
            Fault::Stop => {
                world.fault("process stopped");
                let grace = Duration::from_millis(world.draw(0..=20_000));
                self.stop(grace).await;
            }
            Fault::Rebuild => {
                world.fault("pipeline rebuilt");
                self.unclean_ends = true;
                world.step_aside(0..=30).await;
                self.processes[0].rebuild().await;
            }
            Fault::SecondProcess => self.contend().await,
            Fault::Renewal => {
                world.fault("credentials renewed");
                self.processes[0].renew_credentials();
                if world.chance(300) {
                    self.processes[0].reload();
                }
            }
            Fault::SpoolDisk | Fault::SpoolDamage if self.around.settings.spool.is_none() => {}
            Fault::SpoolDisk => self.around.spool.change_mood(),
            Fault::SpoolDamage => self.around.spool.damage(),
            Fault::LongWait => {
                world.fault("long wait");
                self.wait_busy(world.draw(5_000..=90_000)).await;
            }
        }
        // Losses are numbered where they happen; gap rows follow them.
        self.database.after_loss(self.broker.losses());
    }

    /// Lets time pass, with the broker at work now and then.
    async fn wait_busy(&mut self, millis: u64) {
        let mut left = millis;
        while left > 0 {
            let part = left.min(self.world.draw(200..=2_500));
            self.world.sleep(part..=part).await;
            left -= part;
            if self.world.chance(400) {
                self.publish();
            }
            self.database.after_loss(self.broker.losses());
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
        let process = Process::start(&self.around);
        let led = if self.database.is_well() { Leadership::Held } else { Leadership::Unknown };
        process.lead(led);
        self.processes.insert(0, process);
    }

    async fn replace(
        &mut self,
        end: impl FnOnce(Process) -> std::pin::Pin<Box<dyn Future<Output = ()>>>,
    ) {
        let process = self.processes.remove(0);
        end(process).await;
        if self.world.takes_news_with_it() {
            self.broker.excuse_losses();
        }
        if self.world.chance(500) {
            self.wait_busy(self.world.draw(0..=5_000)).await;
        }
        self.promote();
    }

    async fn stop(&mut self, grace: Duration) {
        let process = self.processes.remove(0);
        let stopping = process.stop(grace);
        tokio::pin!(stopping);
        // The broker goes on meanwhile.
        loop {
            tokio::select! {
                biased;
                clean = &mut stopping => {
                    self.unclean_ends |= !clean;
                    if !clean && self.world.takes_news_with_it() {
                        self.broker.excuse_losses();
                    }
                    break;
                }
                () = self.world.sleep(1..=50) => {
                    self.broker.deliver(self.world.draw(0..=10));
                    self.receive();
                }
            }
        }
        self.promote();
    }

    /// Gives the session to the next process, or starts one.
    fn promote(&mut self) {
        match self.processes.first() {
            Some(next) => next.lead(Leadership::Held),
            None => self.start_process(),
        }
    }

    /// Starts a second process that stands by, or lets it take over from the first.
    async fn contend(&mut self) {
        if self.processes.len() == 1 {
            self.world.fault("second process");
            let second = Process::start(&self.around);
            second.stand_by();
            self.processes.push(second);
        } else {
            self.world.fault("lock moves");
            (self.unclean_ends, self.handovers) = (true, true);
            self.processes.swap(0, 1);
            // They share one record of possible losses, which only one may write.
            self.processes[1].stand_by();
            self.world.sleep(5..=500).await;
            self.processes[0].lead(Leadership::Held);
        }
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

    async fn come_to_rest(&mut self) {
        self.broker.set_door(Door::Open);
        self.broker.stall(false);
        self.broker.change(|b| {
            b.ids = if b.ids == Ids::Blind { Ids::InTurn } else { b.ids };
            b.overflows_after = None;
        });
        self.database.set_mood(Mood::Well);
        self.around.spool.set_mood(DiskMood::Well);
        for (index, process) in self.processes.iter().enumerate() {
            if index == 0 { process.lead(Leadership::Held) } else { process.stand_by() }
        }
        let started = tokio::time::Instant::now();
        let mut quiet_looks = 0;
        let enough = if self.handovers { QUIET_LOOKS_AFTER_HANDOVER } else { QUIET_LOOKS };
        loop {
            self.broker.deliver(self.world.draw(1..=40));
            self.receive();
            self.broker.enforce_keep_alive();
            self.check_processes();
            if self.world.is_broken() {
                return;
            }
            let unrest = self.unrest();
            quiet_looks = if unrest.is_none() { quiet_looks + 1 } else { 0 };
            if quiet_looks == enough {
                return;
            }
            if let Some(unrest) = unrest
                && started.elapsed() > REST_WITHIN
            {
                self.world.violated(format_args!("no rest after {REST_WITHIN:?}: {unrest}"));
                return;
            }
            // Fine steps at first, then coarse ones: most of the rest is waiting out a backoff.
            let step = if started.elapsed() < Duration::from_secs(2) { 10 } else { 250 };
            self.world.sleep(1..=step).await;
        }
    }

    fn unrest(&self) -> Option<String> {
        let counts = self.processes[0].accounting().counts();
        let held = (counts.in_pipeline > 0).then(|| format!("in the pipeline: {counts:?}"));
        let untold = (!self.handovers && !self.around.disk.is_clean())
            .then(|| "a possible loss waits for the database".to_owned());
        let spooled = (self.around.spool.rows() > 0)
            .then(|| format!("{} rows are in the spool", self.around.spool.rows()));
        self.broker.unrest().or(held).or(spooled).or(untold)
    }

    fn check_rows(&self) {
        for (message, loss) in self.broker.messages() {
            if self.world.is_broken() {
                return;
            }
            let copies = self.database.copies(message.event);
            let (_, kind) = &self.payloads[&message.event];
            if copies > 1 {
                self.world.violated(format_args!("event {} is stored twice", message.event));
            }
            if copies == 1 && self.database.is_dead_letter(message.event) == (*kind == Kind::Good) {
                self.world.violated(format_args!("event {} is in the wrong table", message.event));
            }
            if copies > 0 || message.qos == 0 || message.retain {
                continue;
            }
            let damaged = self.around.spool.lost(message.event)
                && self.database.gaps(GapCause::SpoolDamaged) > 0;
            if !damaged && !loss.is_some_and(|loss| self.around.covers(&loss)) {
                self.world.violated(format_args!(
                    "event {} is not stored, and no gap says so (loss {loss:?})",
                    message.event
                ));
            }
        }
        if !self.unclean_ends
            && !self.broker.lost_a_session()
            && self.database.gaps(GapCause::SessionLost) > 0
        {
            self.world.violated("a lost session is reported, but none was lost");
        }
    }
}
