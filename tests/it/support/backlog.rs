//! Backlogs: events that wait in durable sessions of a broker while their bridges are away, and the
//! counters of a bridge that drains one.

use std::time::{Duration, Instant};

use super::bridge::{Bridge, MetricsText, command, finish};
use super::config::Config;
use super::database::Database;
use super::expect::ITEMS;
use super::mosquitto::{Mosquitto, PLATFORM, PLATFORM_PASSWORD, TENANT};
use super::wait::SOON;

/// Interval between two samples of the counters. A scrape costs a debug build some milliseconds.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// Number of packet ids in MQTT. They cannot tell more messages than this apart.
pub const PACKET_IDS: usize = 65_535;

/// Returns a builder of Mosquitto as Debian ships it, except for the length of its queue: 20
/// messages in flight, a limit that 2.0.11 forgets when a session is resumed.
pub async fn debian_broker() -> Mosquitto {
    let builder = Mosquitto::builder().max_queued_messages(0).max_inflight_messages(20);
    builder.line("set_tcp_nodelay false").start().await
}

/// Publishes distinct item events at QoS 1, as fast as the broker takes them. `format` is that of
/// `simulate`: `protobuf` or `json`.
pub async fn publish(broker: &Mosquitto, format: &str, events: usize) {
    let mut simulate = command(["simulate", "--host", "127.0.0.1", "--tenant", TENANT]);
    simulate.args(["--port", &broker.plain_port().to_string(), "--format", format]);
    simulate.args(["--rate", "0", "--count", &events.to_string(), "--boards", "200"]);
    simulate.args(["--items", "5000", "--username", PLATFORM, "--seed", "1"]);
    let password = broker.ca_file().with_file_name("platform-password");
    std::fs::write(&password, PLATFORM_PASSWORD).unwrap();
    simulate.arg("--password-file").arg(password);
    let output = finish(simulate).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A durable session whose bridge is away, and the database that this bridge writes to.
pub struct BacklogSession {
    /// The bridge, stopped at first.
    pub bridge: Bridge,
    pub database: Database,
}

impl BacklogSession {
    /// Lets a bridge connect once, so that the broker knows its session, and stops it.
    pub async fn leave_behind(config: &Config, database: Database) -> Self {
        let mut bridge = Bridge::ready(config).await;
        assert_eq!(bridge.terminate().await, 0, "the bridge did not stop in order");
        Self { bridge, database }
    }

    /// Counts the stored item events.
    pub async fn rows(&self) -> usize {
        usize::try_from(self.database.count(ITEMS).await).unwrap_or(0)
    }

    /// Counts the recorded connections made since the session was left behind.
    pub async fn connections(&self) -> usize {
        let later = "centiloc.connection where id > (select min(id) from centiloc.connection)";
        usize::try_from(self.database.count(later).await).unwrap_or(0)
    }

    /// Samples the counters until everything is drained: that many events stored, nothing
    /// un-acknowledged, nothing in the spool. Ends early if nothing moves for long, or if `goes_on`
    /// returns false.
    pub async fn watch(
        &self,
        events: usize,
        mut goes_on: impl FnMut(&BridgeCounts) -> bool,
    ) -> DrainResult {
        let mut drain = DrainResult::begin();
        let mut tick = tokio::time::interval(SAMPLE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some(scrape) = self.bridge.scrape().await {
                drain.sample(BridgeCounts::of(&scrape));
            }
            drain.peak_memory = drain.peak_memory.max(self.bridge.peak_memory().unwrap_or(0));
            let counts = &drain.counts;
            let settled = counts.unacked == 0 && counts.spooled == 0;
            // Redelivered messages may count as committed before the rest has arrived.
            let all_counted = counts.committed >= events && settled;
            drain.complete = all_counted && self.rows().await >= events;
            if drain.complete || drain.has_stalled() || !goes_on(counts) {
                return drain;
            }
        }
    }
}

/// Counters of one process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BridgeCounts {
    /// PUBLISH packets received.
    pub received: usize,
    /// Item events committed, duplicates included.
    pub committed: usize,
    /// PUBACKs sent.
    pub acks: usize,
    /// Received and neither acknowledged nor refused.
    pub unacked: usize,
    /// Messages in the spool.
    pub spooled: usize,
    /// Connections lost or refused.
    pub reconnects: usize,
    /// Received messages that the bridge cannot account for. `None` if the metric is absent.
    pub unaccounted: Option<f64>,
}

impl BridgeCounts {
    fn of(scrape: &MetricsText) -> Self {
        let sum = |name: &str| {
            let name = format!("centiloc_bridge_{name}");
            scrape.values::<usize>(&name, "").into_iter().sum::<usize>()
        };
        Self {
            received: sum("received_total"),
            committed: sum("committed_total") + sum("duplicates_total"),
            acks: sum("acks_total"),
            unacked: sum("unacked"),
            spooled: sum("spool_events"),
            reconnects: sum("reconnects_total"),
            unaccounted: scrape.values("centiloc_bridge_messages_unaccounted", "").pop(),
        }
    }
}

/// The samples of one drain, summarized.
#[derive(Debug)]
pub struct DrainResult {
    /// Start of the sampling.
    began: Instant,
    /// Time of the first sample with a committed event, and the number committed by then.
    first: Option<(Instant, usize)>,
    /// Time of the last change of a counter.
    moved: Instant,
    /// Number of samples taken.
    pub samples: usize,
    /// The last sample.
    pub counts: BridgeCounts,
    /// Largest number of un-acknowledged messages.
    pub most_unacked: usize,
    /// Samples with messages unaccounted for.
    pub unaccounted: Vec<BridgeCounts>,
    /// Largest resident memory, bytes.
    pub peak_memory: usize,
    /// True if everything was drained.
    pub complete: bool,
}

impl DrainResult {
    fn begin() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            first: None,
            moved: now,
            samples: 0,
            counts: BridgeCounts::default(),
            most_unacked: 0,
            unaccounted: Vec::new(),
            peak_memory: 0,
            complete: false,
        }
    }

    fn sample(&mut self, counts: BridgeCounts) {
        let now = Instant::now();
        self.samples += 1;
        if counts.committed > 0 {
            self.first.get_or_insert((now, counts.committed));
        }
        if counts != self.counts {
            self.moved = now;
        }
        self.most_unacked = self.most_unacked.max(counts.unacked);
        if counts.unaccounted.is_some_and(|messages| messages != 0.0) {
            self.unaccounted.push(counts);
        }
        self.counts = counts;
    }

    /// True if nothing has moved for so long that nothing will.
    pub fn has_stalled(&self) -> bool {
        self.moved.elapsed() > SOON
    }

    /// Returns the seconds from the start of the process to the last change.
    pub fn seconds(&self) -> f64 {
        self.moved.duration_since(self.began).as_secs_f64()
    }

    /// Returns the events committed per second, counted from the first commit.
    #[allow(clippy::cast_precision_loss, reason = "a figure for people, far below 2^52")]
    pub fn rate(&self) -> f64 {
        let Some((at, already)) = self.first else { return 0.0 };
        let events = self.counts.committed.saturating_sub(already) as f64;
        let seconds = self.moved.duration_since(at).as_secs_f64();
        if seconds > 0.0 { events / seconds } else { 0.0 }
    }
}
