//! Broker, database, bridge and load of a run, and the faults applied to them.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::fault_log::{FaultLog, ProvokedLoss};
use super::faults;
use super::plan::{
    ChaosMode, DrainPlan, FaultStep, Phase, QUEUE_GRACE, StormPlan, Victim, VictimFault,
};
use super::publisher::LoadPublisher;
use super::source::MessageSource;
use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::proxy::TcpProxy;
use crate::support::slow_database;
use crate::support::subscriber::forget_session;
use crate::support::tap::MqttTap;
use crate::support::wait::{SOON, until, until_eq};

/// Longest time from the end of all faults until something moves again. The bridge's longest waits
/// are ten seconds, and there may be several in a row.
const RECOVERY: Duration = Duration::from_secs(90);

/// After this long without movement, nothing will move any more.
const QUIET: Duration = Duration::from_secs(3);

/// Interval between two polls of a condition that takes seconds.
const LOOK: Duration = Duration::from_millis(200);

/// All services of a run. The fields are dropped in this order: the bridge before the services it
/// is connected to.
pub struct ChaosEnvironment {
    pub mode: ChaosMode,
    pub fault_log: FaultLog,
    pub publisher: LoadPublisher,
    pub bridge: Bridge,
    pub tap: MqttTap,
    pub database: Database,
    database_link: TcpProxy,
    broker: Mosquitto,
    postgres: Postgres,
}

impl ChaosEnvironment {
    /// Starts all services and the load.
    pub async fn set(mode: ChaosMode, seed: u64) -> Self {
        let broker = Mosquitto::builder().max_queued_messages(0);
        let (mut broker, postgres) = tokio::join!(broker.start(), Postgres::own());
        let database = postgres.database().await;
        let database_link = TcpProxy::to(postgres.port()).await;
        let tap = MqttTap::to(broker.plain_port()).await;
        let mut config = config(&broker, &database, &tap, &database_link);
        if mode == ChaosMode::Spool {
            let folder = config.folder().join("spool");
            config = config.set("spool.dir", folder.to_str().unwrap());
        }
        let bridge = Bridge::ready(&config).await;
        slow_database::prepare(&database).await;
        let fault_log = FaultLog::new();
        if mode == ChaosMode::BrokerKill {
            // Otherwise the first kill makes it forget the session too.
            fault_log.broker_saves();
            broker.save().await;
        }
        let source = MessageSource::new(StdRng::seed_from_u64(seed));
        let publisher = LoadPublisher::start(broker.plain_port(), source);
        Self { mode, fault_log, publisher, bridge, tap, database, database_link, broker, postgres }
    }

    /// Executes one phase of the plan. A message already missing at its end is an error, and there
    /// is no point in going on.
    pub async fn play(&mut self, phase: &Phase) -> Result<(), String> {
        match phase {
            Phase::Storm(storm) => self.storm(storm).await,
            Phase::Calm(lasts) => {
                self.fault_log.note("calm");
                sleep(*lasts).await;
            }
            Phase::Outage(fault, lasts) => self.outage(*fault, *lasts).await,
            Phase::LoseSession => self.lose_session().await?,
            Phase::Drain(drain) => self.drain(drain).await?,
        }
        Ok(())
    }

    async fn storm(&mut self, storm: &StormPlan) {
        let steps = |wanted: Victim| -> &[FaultStep] {
            let timeline = storm.0.iter().find(|(victim, _)| *victim == wanted);
            timeline.map_or(&[], |(_, steps)| steps)
        };
        let Self { fault_log, bridge, tap, database, database_link, broker, postgres, .. } = self;
        let fault_log = &*fault_log;
        fault_log.note("storm");
        tokio::join!(
            faults::bridge(bridge, steps(Victim::Bridge), fault_log),
            faults::postgres(postgres, database, steps(Victim::Postgres), fault_log),
            faults::broker(broker, steps(Victim::Broker), fault_log),
            faults::link(&tap.proxy, Victim::BrokerLink, steps(Victim::BrokerLink), fault_log),
            faults::link(
                database_link,
                Victim::DatabaseLink,
                steps(Victim::DatabaseLink),
                fault_log
            ),
        );
        bridge.assert_running();
    }

    /// Takes the database away for longer than the broker's queue can be trusted, with no other
    /// fault.
    async fn outage(&mut self, fault: VictimFault, lasts: Duration) {
        self.bridge.until_ready_within(RECOVERY).await;
        self.fault_log.note(format!("outage of the database for {lasts:?}: {fault:?}"));
        let from = OffsetDateTime::now_utc();
        match fault {
            VictimFault::Kill => self.postgres.kill(),
            VictimFault::Refuse => self.database_link.refuse().await,
            _ => self.database_link.stall_both().await,
        }
        sleep(lasts).await;
        let to = OffsetDateTime::now_utc();
        match fault {
            VictimFault::Kill => self.postgres.start().await,
            _ => self.database_link.pass().await,
        }
        self.bridge.assert_running();
        let before = self.tap.pubacks();
        // The gap is recorded with the first acknowledgement.
        until("an acknowledgement after the outage", RECOVERY, || async {
            let pubacks = self.tap.pubacks();
            if pubacks > before { Ok(()) } else { Err(pubacks) }
        })
        .await;
        self.fault_log.note("the outage is over");
        self.fault_log.provoked(
            "long outage of the database",
            ProvokedLoss {
                cause: "backpressure",
                // The latest start of the gap: the grace has passed, and the bridge's next clock
                // tick too.
                from: from + QUEUE_GRACE,
                to,
            },
        );
    }

    /// Makes the broker forget the session while it holds nothing for it that is not stored.
    async fn lose_session(&mut self) -> Result<(), String> {
        let silence = self.publisher.pause().await;
        self.bridge.until_ready_within(RECOVERY).await;
        self.catch_up().await?;
        self.fault_log.weighed(self.bridge.peak_memory());
        assert_eq!(self.bridge.terminate().await, 0, "the bridge did not stop in order");
        self.fault_log.note("the broker forgets the session");
        let from = OffsetDateTime::now_utc();
        forget_session(self.broker.plain_port(), &format!("{TENANT}-bridge")).await.unwrap();
        let to = OffsetDateTime::now_utc();
        self.bridge.start_again();
        self.bridge.until_ready_within(RECOVERY).await;
        let written = i64::try_from(self.fault_log.all_provoked("session_lost").len() + 1).unwrap();
        until_eq("the gap to be written down", SOON, written, || {
            self.database.count("centiloc.gap where cause = 'session_lost'")
        })
        .await;
        self.fault_log.provoked("session lost", ProvokedLoss { cause: "session_lost", from, to });
        drop(silence);
        Ok(())
    }

    /// Lets a backlog of more messages than there are packet ids wait for a bridge that was away.
    /// At first the database is slow and a storm rages. The rest drains without faults.
    async fn drain(&mut self, drain: &DrainPlan) -> Result<(), String> {
        self.bridge.until_ready_within(RECOVERY).await;
        slow_database::slow_down(&self.database, drain.slower).await;
        self.bridge.kill();
        self.publisher.make_backlog(drain.backlog).await;
        let DrainPlan { backlog, slower, .. } = drain;
        self.fault_log.note(format!("{backlog} messages wait; inserts are {slower} times slower"));
        self.bridge.start_again();
        self.storm(&drain.storm).await;
        slow_database::slow_down(&self.database, 1).await;
        let _silence = self.publisher.pause().await;
        self.catch_up().await?;
        self.fault_log.drained();
        Ok(())
    }

    /// Waits until everything is stored after all faults have ended.
    pub async fn settle(&mut self) -> Result<(), String> {
        self.fault_log.note("the faults are over");
        self.publisher.stop().await;
        self.bridge.until_ready_within(RECOVERY).await;
        match self.mode {
            ChaosMode::BrokerKill => self.fall_quiet().await?,
            ChaosMode::Direct | ChaosMode::Spool => self.catch_up().await?,
        }
        let pending = "centiloc.stay_pending";
        until_eq("all stays", RECOVERY, 0, || self.database.count(pending)).await;
        self.fault_log.note("settled");
        self.fault_log.weighed(self.bridge.peak_memory());
        match self.bridge.terminate().await {
            0 => Ok(()),
            code => Err(format!("the bridge stopped with {code}")),
        }
    }

    /// Waits until as many rows are stored as were published.
    async fn catch_up(&self) -> Result<(), String> {
        let (mut last, mut moved) = (None, Instant::now());
        loop {
            let (rows, expected) = (self.rows().await, self.publisher.expected().rows());
            self.account_for_all().await?;
            if rows == Some(expected) {
                return Ok(());
            }
            if rows != last {
                (last, moved) = (rows, Instant::now());
            }
            if moved.elapsed() > RECOVERY {
                return Err(format!("{rows:?} rows for {RECOVERY:?}, not {expected:?}"));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until nothing is in flight any more.
    async fn fall_quiet(&self) -> Result<(), String> {
        let started = Instant::now();
        let (mut last, mut since) = (None, Instant::now());
        while since.elapsed() < QUIET {
            if started.elapsed() > RECOVERY {
                return Err(format!("still busy after {RECOVERY:?}"));
            }
            self.account_for_all().await?;
            let idle = self.bridge.metric("centiloc_bridge_unacked", "").await == Some(0.0);
            let now = Some((self.rows().await, self.tap.tally()));
            if !idle || now != last {
                (last, since) = (now, Instant::now());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Asserts that every received message is accounted for.
    async fn account_for_all(&self) -> Result<(), String> {
        match self.bridge.metric("centiloc_bridge_messages_unaccounted", "").await {
            Some(messages) if messages != 0.0 => {
                Err(format!("{messages} messages unaccounted for"))
            }
            _ => Ok(()),
        }
    }

    /// Counts item events, board events and dead letters.
    async fn rows(&self) -> Option<[usize; 3]> {
        let mut rows = [0; 3];
        for (count, table) in rows.iter_mut().zip(["item_event", "board_event", "dead_letter"]) {
            *count =
                usize::try_from(self.database.count(&format!("centiloc.{table}")).await).ok()?;
        }
        Some(rows)
    }
}

fn config(broker: &Mosquitto, database: &Database, tap: &MqttTap, link: &TcpProxy) -> Config {
    Config::new(broker, database)
        .plain(tap.proxy.port())
        .set("database.url", database.url_at(link.port()))
        // A silent loss must be detected within a short run.
        .set("mqtt.keep_alive", "2s")
        .set("mqtt.connect_timeout", "2s")
        .set("mqtt.queue_grace", format!("{}s", QUEUE_GRACE.as_secs()))
        .set("database.statement_timeout", "2s")
        .set("shutdown.grace", "2s")
}
