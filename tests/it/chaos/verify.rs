//! Compares the stored rows with the expected ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::time::Instant;

use super::actual::{ActualState, StoredGap};
use super::environment::ChaosEnvironment;
use super::expected::{
    AckedPublication, ExpectedState, ItemRow, RowKey, board_states, item_locations, item_states,
};
use super::fault_log::{FaultLog, ProvokedLoss};
use super::plan::ChaosMode;
use crate::support::database::Database;
use crate::support::store::STAYS_BY_WINDOWS;
use crate::support::tap::Packet;

/// Number of complaints of one kind that are written in full.
const TOLD: usize = 5;

/// The result of a run.
#[derive(Debug, Default)]
pub struct RunVerdict {
    /// Numbers of item events, board events and dead letters.
    pub rows: [usize; 3],
    /// Rows of `gap` by cause.
    pub gaps: BTreeMap<String, usize>,
    /// Messages published and acknowledged, but not stored.
    pub losses: usize,
    /// Times at which the first of them were acknowledged.
    pub lost_at: Vec<Instant>,
    /// Messages missing like [`RunVerdict::losses`], but of a killed broker that may have forgotten
    /// them.
    pub forgotten: usize,
    /// Those of them that were in flight to the bridge at least once.
    pub forgotten_under_way: usize,
    /// Rows beyond the first of one event or message.
    pub doubles: usize,
    /// Acknowledgements that broke the rules.
    pub violations: usize,
    /// Descriptions of everything that is wrong.
    pub complaints: Vec<String>,
}

impl RunVerdict {
    /// Verifies a run that has settled.
    pub async fn on(environment: &ChaosEnvironment) -> Self {
        let stored = ActualState::read(&environment.database).await;
        let violations = environment.tap.violations();
        let mut verdict = Self {
            rows: [stored.items.len(), stored.boards.len(), stored.letters.len()],
            violations: violations.len(),
            ..Self::default()
        };
        verdict.complain("", violations);
        verdict.compare_stays(&environment.database).await;
        verdict.look_for_the_lost(environment, &stored);
        let expected = environment.publisher.expected();
        verdict.look_for_doubles(&stored);
        verdict.compare_rows(&expected, &stored);
        verdict.compare_states(environment.mode, &expected, &stored);
        verdict.judge_gaps(environment.mode, &environment.fault_log, &stored.gaps);
        verdict
    }

    /// Adds complaints, of many similar ones only the first.
    pub fn complain(&mut self, what: &str, complaints: Vec<String>) {
        let count = complaints.len();
        let told = complaints.into_iter().take(TOLD);
        self.complaints.extend(told.map(|complaint| format!("{what}{complaint}")));
        if count > TOLD {
            self.complaints.push(format!("{what}and {} more", count - TOLD));
        }
    }

    fn look_for_the_lost(&mut self, environment: &ChaosEnvironment, stored: &ActualState) {
        let expected = environment.publisher.expected();
        let missing = missing(&expected, stored);
        if missing.is_empty() {
            return;
        }
        let passage = MessageProgress::through(&environment.tap.timed_packets());
        let mut lost = Vec::new();
        for (key, publications) in missing {
            let trace = PacketTrace::of(&publications, &passage);
            if environment.mode == ChaosMode::BrokerKill
                && trace.may_be_forgotten(&environment.fault_log)
            {
                self.forgotten += 1;
                self.forgotten_under_way += usize::from(!trace.delivered.is_empty());
            } else {
                self.losses += 1;
                self.lost_at.extend(publications.first().map(|p| p.acked_at));
                lost.push(format!("{key:?}, {}", trace.tell(&environment.fault_log)));
            }
        }
        self.lost_at.truncate(TOLD);
        self.complain("lost: ", lost);
    }

    fn look_for_doubles(&mut self, stored: &ActualState) {
        let items = stored.items.iter().map(|item| RowKey::Event(item.event_id));
        let boards = stored.boards.iter().map(|board| RowKey::Event(board.event_id));
        let letters = stored.letters.iter().map(|(t, p, _)| RowKey::Letter(t.clone(), p.clone()));
        let mut seen = HashSet::new();
        let doubles: Vec<_> = items
            .chain(boards)
            .chain(letters)
            .filter(|key| !seen.insert(key.clone()))
            .map(|key| format!("{key:?}"))
            .collect();
        self.doubles = doubles.len();
        self.complain("doubled: ", doubles);
    }

    /// Compares each row with its published event.
    fn compare_rows(&mut self, expected: &ExpectedState, stored: &ActualState) {
        let items = stored.items.iter().map(|row| (expected.items.get(&row.event_id), row));
        self.complain("item_event: ", unlike(items));
        let boards = stored.boards.iter().map(|row| (expected.boards.get(&row.event_id), row));
        self.complain("board_event: ", unlike(boards));
        let letters: Vec<_> = stored
            .letters
            .iter()
            .map(|(t, p, reason)| (expected.letters.get(&(t.clone(), p.clone())), reason))
            .map(|(expected, reason)| (expected.copied(), reason.as_str()))
            .collect();
        let letters = letters.iter().map(|(expected, reason)| (expected.as_ref(), reason));
        self.complain("dead_letter: ", unlike(letters));
    }

    /// Compares the states. Events that the broker forgot may be missing from them.
    fn compare_states(&mut self, mode: ChaosMode, expected: &ExpectedState, stored: &ActualState) {
        let stored_ids: HashSet<_> = stored.items.iter().map(|item| item.event_id).collect();
        let stored_boards: HashSet<_> = stored.boards.iter().map(|board| board.event_id).collect();
        let all = mode != ChaosMode::BrokerKill;
        let items: Vec<&ItemRow> = expected
            .items
            .values()
            .filter(|item| all || stored_ids.contains(&item.event_id))
            .collect();
        let boards =
            expected.boards.values().filter(|board| all || stored_boards.contains(&board.event_id));
        let states = item_states(items.iter().copied());
        let locations = item_locations(items);
        self.complain("item_state: ", differences(&states, &stored.item_states));
        self.complain("item_location: ", differences(&locations, &stored.item_locations));
        self.complain("board_state: ", differences(&board_states(boards), &stored.board_states));
    }

    /// Compares the stays that the bridge computed with those of all events.
    async fn compare_stays(&mut self, database: &Database) {
        let columns = "uid, board_sn, entered_at, left_at";
        let (computed, expected) = (
            format!("select {columns} from centiloc.item_stay"),
            format!("select {columns} from ({STAYS_BY_WINDOWS}) stay"),
        );
        let differences = format!(
            "select to_jsonb(d)::text
               from (({computed} except all {expected}) union all ({expected} except all {computed})) d"
        );
        let differences = database.column::<String>(&differences).await;
        self.complain("item_stay: ", differences);
    }

    fn judge_gaps(&mut self, mode: ChaosMode, fault_log: &FaultLog, gaps: &[StoredGap]) {
        for gap in gaps {
            *self.gaps.entry(gap.cause.clone()).or_default() += 1;
        }
        let of = |cause: &str| gaps.iter().filter(|g| g.cause == cause).collect::<Vec<_>>();
        let (provoked, told) = (fault_log.all_provoked("session_lost"), of("session_lost"));
        let covered = provoked.iter().all(|p| told.iter().any(|gap| covers(gap, p)));
        if told.len() != provoked.len() || !covered {
            self.complaints.push(format!("session_lost: provoked {provoked:?}, told {told:?}"));
        }
        for cause in ["absence", "spool_full", "spool_damaged"] {
            let unprovoked = of(cause).into_iter().map(|gap| format!("{gap:?}")).collect();
            self.complain("a gap that was none: ", unprovoked);
        }
        if mode == ChaosMode::Direct {
            let told = of("backpressure");
            let untold = fault_log.all_provoked("backpressure").into_iter();
            let untold = untold.filter(|p| !told.iter().any(|gap| overlaps(gap, p)));
            let untold = untold.map(|p| format!("{p:?}; told {told:?}")).collect();
            self.complain("an outage without a gap: ", untold);
        }
    }
}

/// Returns the messages that are missing from the rows, with all their publications.
fn missing(
    expected: &ExpectedState,
    stored: &ActualState,
) -> HashMap<RowKey, Vec<AckedPublication>> {
    let events = stored.items.iter().map(|item| item.event_id);
    let events = events.chain(stored.boards.iter().map(|board| board.event_id));
    let letters = stored.letters.iter().map(|(t, p, _)| RowKey::Letter(t.clone(), p.clone()));
    let present: HashSet<RowKey> = events.map(RowKey::Event).chain(letters).collect();
    let mut missing: HashMap<RowKey, Vec<AckedPublication>> = HashMap::new();
    for publication in expected.publications.iter().filter(|p| !present.contains(&p.key)) {
        missing.entry(publication.key.clone()).or_default().push(publication.clone());
    }
    missing
}

/// Payloads that the tap recorded.
#[derive(Debug, Default)]
struct MessageProgress {
    /// Times of delivery.
    delivered: HashMap<Vec<u8>, Vec<Instant>>,
    acknowledged: HashSet<Vec<u8>>,
}

impl MessageProgress {
    fn through(packets: &[(Instant, Packet)]) -> Self {
        let mut passage = Self::default();
        let mut under_way: HashMap<(u64, u16), &[u8]> = HashMap::new();
        for (at, packet) in packets {
            match packet {
                Packet::Publish(publish) => {
                    passage.delivered.entry(publish.payload.clone()).or_default().push(*at);
                    under_way.insert((publish.connection, publish.packet_id), &publish.payload);
                }
                Packet::Puback(connection, packet_id) => {
                    let payload = under_way.remove(&(*connection, *packet_id));
                    passage.acknowledged.extend(payload.map(<[u8]>::to_vec));
                }
                Packet::Disconnect(_) => {}
            }
        }
        passage
    }
}

/// The progress of a missing message, over all its publications.
#[derive(Debug)]
struct PacketTrace<'a> {
    publications: &'a [AckedPublication],
    /// Times of delivery.
    delivered: Vec<Instant>,
    /// True if the bridge acknowledged it.
    acknowledged: bool,
}

impl<'a> PacketTrace<'a> {
    fn of(publications: &'a [AckedPublication], passage: &MessageProgress) -> Self {
        let payloads = || publications.iter().map(|p| p.payload.as_slice());
        Self {
            publications,
            delivered: payloads()
                .filter_map(|p| passage.delivered.get(p))
                .flatten()
                .copied()
                .collect(),
            acknowledged: payloads().any(|p| passage.acknowledged.contains(p)),
        }
    }

    /// True if a killed broker lost the message because it had not saved. An earlier delivery
    /// counts only if nothing else explains why it was not stored.
    fn may_be_forgotten(&self, fault_log: &FaultLog) -> bool {
        let forgotten = |p: &AckedPublication| fault_log.may_be_forgotten(p.sent_at, p.acked_at);
        !self.acknowledged
            && self.publications.iter().all(forgotten)
            && self.delivered.iter().all(|at| fault_log.may_be_lost_on_delivery(*at))
    }

    fn tell(&self, fault_log: &FaultLog) -> String {
        let taken: Vec<_> = self.publications.iter().map(|p| fault_log.at(p.acked_at)).collect();
        let delivered: Vec<_> = self.delivered.iter().map(|at| fault_log.at(*at)).collect();
        format!(
            "taken over by the broker at {taken:.3?}, delivered at {delivered:.3?}; acknowledged \
             by the bridge: {}",
            self.acknowledged
        )
    }
}

/// Adds rows that differ from the expected ones or were not expected at all.
fn unlike<'a, T>(rows: impl Iterator<Item = (Option<&'a T>, &'a T)>) -> Vec<String>
where
    T: PartialEq + Debug + 'a,
{
    rows.filter(|(expected, row)| *expected != Some(*row))
        .map(|(expected, row)| match expected {
            Some(expected) => format!("{row:?} instead of {expected:?}"),
            None => format!("{row:?}, which was not published"),
        })
        .collect()
}

fn differences<K, V>(expected: &BTreeMap<K, V>, found: &BTreeMap<K, V>) -> Vec<String>
where
    K: Ord + Debug,
    V: PartialEq + Debug,
{
    let keys: std::collections::BTreeSet<&K> = expected.keys().chain(found.keys()).collect();
    keys.into_iter()
        .filter(|key| expected.get(key) != found.get(key))
        .map(|key| format!("{key:?}: {:?} instead of {:?}", found.get(key), expected.get(key)))
        .collect()
}

fn covers(gap: &StoredGap, provoked: &ProvokedLoss) -> bool {
    gap.started_at <= provoked.from && gap.ended_at.is_none_or(|end| end >= provoked.to)
}

fn overlaps(gap: &StoredGap, provoked: &ProvokedLoss) -> bool {
    gap.started_at <= provoked.to && gap.ended_at.is_none_or(|end| end >= provoked.from)
}
