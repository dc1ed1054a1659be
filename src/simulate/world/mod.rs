//! A model of boards and items. Items arrive, move, change boards and leave, and boards fail and
//! return. Pure: time is an argument, and random choices follow from the seed.
//!
//! There are two orders of events. In *true* order (by momentum) an item is on at most one board at
//! a time. In *published* order a leave may follow the arrival on the next board, as at sites where
//! two boards report over different networks.

mod boards;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use self::boards::{BoardPower, BoardState};
use super::event::{BoardDates, BoardStatus, EncodingQuirks, FieldMask, ItemMove, SimulatedEvent};
use super::rng::SeededRng;

/// Most events by which a late leave is delayed.
const LEAVE_HELD_FOR: u32 = 12;
/// Number of items tried before a board that is down is brought back.
const TRIES: u32 = 8;
/// Longest time of an item between two boards.
const MAX_TRANSIT_NS: i64 = 3_000_000_000;

/// The size and seed of a world.
#[derive(Debug, Clone, Copy)]
pub struct WorldSettings {
    /// Number of boards, at least one.
    pub boards: u32,
    /// Number of items, at least one.
    pub items: u32,
    /// Seed of the random choices (the same seed gives the same world).
    pub seed: u64,
    /// True if boards change their status.
    pub board_events: bool,
}

#[derive(Debug, Clone, Copy)]
struct ItemPlace {
    board: u32,
    pos_mm: [i32; 2],
    since_ns: i64,
}

#[derive(Debug, Clone)]
struct ItemState {
    /// Invariant: at most one place.
    place: Option<ItemPlace>,
    /// Invariant: no event of this item has a later momentum.
    last_ns: i64,
}

/// The state of all boards and items, and the events to be published.
#[derive(Debug)]
pub struct SimulatedWorld {
    rng: SeededRng,
    board_events: bool,
    boards: Vec<BoardState>,
    items: Vec<ItemState>,
    /// Earliest momentum, so that a later run never repeats an event of an earlier one.
    origin_ns: Option<i64>,
    draws: u64,
    ready: VecDeque<SimulatedEvent>,
    /// Late events, by the draw at which they are due. The second number makes keys distinct.
    held: BTreeMap<(u64, u64), SimulatedEvent>,
    /// Boards without power, by the draw at which the platform notices.
    notices: BTreeMap<(u64, u64), u32>,
}

impl SimulatedWorld {
    /// Creates a world with empty boards.
    pub fn new(settings: WorldSettings) -> Self {
        let board = BoardState {
            power: BoardPower::On(BoardStatus::Connected),
            announced: !settings.board_events,
            load: 0,
            dates: BoardDates::default(),
            last_ns: i64::MIN,
        };
        let item = ItemState { place: None, last_ns: i64::MIN };
        Self {
            rng: SeededRng::new(settings.seed ^ 0xC0FF_EE00_C0FF_EE00),
            board_events: settings.board_events,
            boards: vec![board; settings.boards.max(1) as usize],
            items: vec![item; settings.items.max(1) as usize],
            origin_ns: None,
            draws: 0,
            ready: VecDeque::new(),
            held: BTreeMap::new(),
            notices: BTreeMap::new(),
        }
    }

    /// Returns the next event in published order, at this time (nanoseconds since the Unix epoch).
    pub fn next(&mut self, now_ns: i64) -> SimulatedEvent {
        self.origin_ns.get_or_insert(now_ns);
        self.draws += 1;
        if let Some(entry) = self.held.first_entry()
            && entry.key().0 <= self.draws
        {
            return entry.remove();
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            self.advance(now_ns);
        }
    }

    /// Returns the number of events that have happened and are not published yet.
    pub fn pending(&self) -> usize {
        self.ready.len() + self.held.len()
    }

    /// Returns one of the unpublished events, due or not, for the end of a run.
    pub fn next_pending(&mut self) -> Option<SimulatedEvent> {
        self.ready.pop_front().or_else(|| self.held.pop_first().map(|(_, event)| event))
    }

    /// Advances the world by one change, which may add events to `ready`.
    fn advance(&mut self, now_ns: i64) {
        if let Some(entry) = self.notices.first_entry()
            && entry.key().0 <= self.draws
        {
            let board = entry.remove();
            return self.notice_power_loss(board, now_ns);
        }
        if self.board_events && self.rng.percent(1) && self.disturb_a_board(now_ns) {
            return;
        }
        let mut blocked = 0;
        for _ in 0..TRIES {
            let item = self.rng.below(count(self.items.len()));
            match self.items[item as usize].place {
                None => return self.arrive(item, None, now_ns),
                Some(place) if self.is_up(place.board) => return self.act(item, place, now_ns),
                Some(place) => blocked = place.board,
            }
        }
        self.bring_back(blocked, now_ns);
    }

    fn act(&mut self, item: u32, place: ItemPlace, now_ns: i64) {
        match self.rng.below(100) {
            0..70 => self.shift(item, place, now_ns),
            70..82 => self.report(item, place, now_ns),
            82..92 => self.transfer(item, place, now_ns),
            _ => {
                let leave = self.leave(item, place, now_ns, now_ns);
                self.ready.push_back(leave);
            }
        }
    }

    /// Moves an item on its board.
    fn shift(&mut self, item: u32, mut place: ItemPlace, now_ns: i64) {
        for (position, limit) in place.pos_mm.iter_mut().zip(board_size()) {
            *position = (*position + self.rng.between(-60, 60)).clamp(0, limit);
        }
        self.items[item as usize].place = Some(place);
        self.report(item, place, now_ns);
    }

    /// Publishes the position of an item again.
    fn report(&mut self, item: u32, place: ItemPlace, now_ns: i64) {
        let momentum_ns = self.stamp_item(item, now_ns, now_ns);
        let event = self.item_event(item, place, momentum_ns, true);
        self.ready.push_back(event);
    }

    fn arrive(&mut self, item: u32, avoid: Option<u32>, now_ns: i64) {
        let board = self.board_that_is_up(avoid);
        if !self.boards[board as usize].announced {
            self.switch(board, BoardStatus::Connected, now_ns);
        }
        let momentum_ns = self.stamp_item(item, now_ns, now_ns);
        let [width, depth] = board_size();
        let pos_mm = [self.rng.between(0, width), self.rng.between(0, depth)];
        let place = ItemPlace { board, pos_mm, since_ns: momentum_ns };
        self.items[item as usize].place = Some(place);
        self.boards[board as usize].load += 1;
        let event = self.item_event(item, place, momentum_ns, true);
        self.ready.push_back(event);
    }

    /// Moves an item to another board. The leave is older, but may be published later.
    fn transfer(&mut self, item: u32, place: ItemPlace, now_ns: i64) {
        let transit = i64::from(self.rng.below(1_000_000)) * (MAX_TRANSIT_NS / 1_000_000);
        let leave = self.leave(item, place, now_ns - transit, now_ns);
        match self.rng.below(100) {
            0..8 => {
                let due = self.draws + u64::from(1 + self.rng.below(LEAVE_HELD_FOR));
                self.held.insert((due, self.draws), leave);
                self.arrive(item, Some(place.board), now_ns);
            }
            8..25 => {
                self.arrive(item, Some(place.board), now_ns);
                self.ready.push_back(leave);
            }
            _ => {
                self.ready.push_back(leave);
                self.arrive(item, Some(place.board), now_ns);
            }
        }
    }

    fn leave(
        &mut self,
        item: u32,
        place: ItemPlace,
        wanted_ns: i64,
        now_ns: i64,
    ) -> SimulatedEvent {
        let momentum_ns = self.stamp_item(item, wanted_ns, now_ns);
        self.items[item as usize].place = None;
        self.boards[place.board as usize].load -= 1;
        self.item_event(item, place, momentum_ns, false)
    }

    fn item_event(
        &mut self,
        item: u32,
        place: ItemPlace,
        momentum_ns: i64,
        is_in: bool,
    ) -> SimulatedEvent {
        let load = self.boards[place.board as usize].load;
        // A hundred items fill a board.
        let fill_ratio = f32::from(i16::try_from(load.clamp(0, 100)).unwrap_or(100)) / 100.0;
        SimulatedEvent::Item(ItemMove {
            item,
            board: place.board,
            momentum_ns,
            is_in,
            pos_mm: place.pos_mm,
            nb_hits: self.rng.between(1, 40),
            hold_ns: momentum_ns - place.since_ns,
            fill_ratio,
            is_interpolated: self.rng.percent(4),
            quirks: self.quirks(),
        })
    }

    fn quirks(&mut self) -> EncodingQuirks {
        EncodingQuirks {
            masked: if self.rng.percent(3) {
                FieldMask(u8::try_from(1 + self.rng.below(255)).unwrap_or(u8::MAX))
            } else {
                FieldMask::default()
            },
            empty_lists: self.rng.percent(30),
            offset_minutes: if self.rng.percent(5) { 120 } else { 0 },
            prefixed_status: self.rng.percent(40),
            zero_dates: self.rng.percent(20),
        }
    }

    /// Returns a momentum after all earlier events of the item. See [`Self::stamp`].
    fn stamp_item(&mut self, item: u32, wanted_ns: i64, now_ns: i64) -> i64 {
        let last = self.items[item as usize].last_ns;
        let stamp = self.stamp(last, wanted_ns, now_ns);
        self.items[item as usize].last_ns = stamp;
        stamp
    }

    /// Returns a momentum near `wanted_ns`, after `last_ns` and not before the start of the run. It
    /// may be rounded to micro- or milliseconds or seconds, as by the clocks of some boards.
    fn stamp(&mut self, last_ns: i64, wanted_ns: i64, now_ns: i64) -> i64 {
        let least = self.origin_ns.unwrap_or(now_ns).max(last_ns.saturating_add(1));
        let wanted = wanted_ns.max(least);
        let tick = match self.rng.below(100) {
            0..60 => 1,
            60..80 => 1_000,
            80..95 => 1_000_000,
            _ => 1_000_000_000,
        };
        let rounded = wanted - wanted.rem_euclid(tick);
        if rounded >= least { rounded } else { wanted }
    }
}

fn board_size() -> [i32; 2] {
    [super::catalog::BOARD_WIDTH_MM, super::catalog::BOARD_DEPTH_MM]
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
