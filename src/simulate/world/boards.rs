//! The boards of a simulated world, which fail and return.

use super::super::event::{BoardChange, BoardDates, BoardStatus, SimulatedEvent};
use super::{SimulatedWorld, count};

/// Most draws until the platform notices that a board has lost power.
const POWER_LOSS_NOTICED_AFTER: u32 = 40;
/// Number of boards for each board that may be down at a time.
const BOARDS_A_BOARD_DOWN: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BoardPower {
    On(BoardStatus),
    /// The board has lost power, and the platform has not noticed yet.
    Lost,
}

#[derive(Debug, Clone)]
pub(super) struct BoardState {
    pub power: BoardPower,
    /// True once its first CONNECTED was published.
    pub announced: bool,
    /// Number of items on the board.
    pub load: i32,
    pub dates: BoardDates,
    /// Invariant: no event of this board has a later momentum.
    pub last_ns: i64,
}

impl SimulatedWorld {
    pub(super) fn is_up(&self, board: u32) -> bool {
        self.boards[board as usize].power == BoardPower::On(BoardStatus::Connected)
    }

    /// Chooses a board that is up, other than `avoid` if possible. At least one board is always up.
    pub(super) fn board_that_is_up(&mut self, avoid: Option<u32>) -> u32 {
        let total = count(self.boards.len());
        let first = self.rng.below(total);
        let candidates = (0..total).map(|step| (first + step) % total);
        let up = |board: &u32| self.is_up(*board);
        candidates
            .clone()
            .find(|board| Some(*board) != avoid && up(board))
            .or_else(|| candidates.clone().find(up))
            .unwrap_or(first)
    }

    /// Lets a random board fail, be taken out of service, or return. Returns false if nothing is
    /// published.
    pub(super) fn disturb_a_board(&mut self, now_ns: i64) -> bool {
        let board = self.rng.below(count(self.boards.len()));
        match self.boards[board as usize].power {
            BoardPower::Lost => return false,
            BoardPower::On(BoardStatus::Connected) if !self.may_go_down() => return false,
            BoardPower::On(BoardStatus::Connected) => match self.rng.below(4) {
                0 => self.switch(board, BoardStatus::OnError, now_ns),
                1 => self.switch(board, BoardStatus::Maintenance, now_ns),
                2 => self.switch(board, BoardStatus::Degraded, now_ns),
                _ => {
                    self.lose_power(board, now_ns);
                    return false;
                }
            },
            BoardPower::On(_) => self.switch(board, BoardStatus::Connected, now_ns),
        }
        true
    }

    fn may_go_down(&self) -> bool {
        let down = self
            .boards
            .iter()
            .filter(|b| b.power != BoardPower::On(BoardStatus::Connected))
            .count();
        (down + 1) * BOARDS_A_BOARD_DOWN <= self.boards.len()
    }

    /// Cuts the power of a board. Nothing is published, because the board cannot report it.
    fn lose_power(&mut self, board: u32, now_ns: i64) {
        let state = &mut self.boards[board as usize];
        state.power = BoardPower::Lost;
        state.dates.disconnection_ns = Some(now_ns);
        let due = self.draws + u64::from(1 + self.rng.below(POWER_LOSS_NOTICED_AFTER));
        self.notices.insert((due, self.draws), board);
    }

    pub(super) fn notice_power_loss(&mut self, board: u32, now_ns: i64) {
        if self.boards[board as usize].power == BoardPower::Lost {
            self.switch(board, BoardStatus::Disconnected, now_ns);
        }
    }

    /// Returns a board to service when all tried items are on boards that are down.
    pub(super) fn bring_back(&mut self, board: u32, now_ns: i64) {
        self.notice_power_loss(board, now_ns);
        if !self.is_up(board) {
            self.switch(board, BoardStatus::Connected, now_ns);
        }
    }

    pub(super) fn switch(&mut self, board: u32, status: BoardStatus, now_ns: i64) {
        let last_ns = self.boards[board as usize].last_ns;
        let momentum_ns = self.stamp(last_ns, now_ns, now_ns);
        let state = &mut self.boards[board as usize];
        state.last_ns = momentum_ns;
        state.power = BoardPower::On(status);
        state.announced = true;
        match status {
            BoardStatus::Connected => state.dates.connection_ns = Some(momentum_ns),
            BoardStatus::OnError => state.dates.error_ns = Some(momentum_ns),
            BoardStatus::Disconnected | BoardStatus::Maintenance | BoardStatus::Degraded => {}
        }
        let dates = state.dates;
        let quirks = self.quirks();
        self.ready.push_back(SimulatedEvent::Board(BoardChange {
            board,
            momentum_ns,
            status,
            dates,
            quirks,
        }));
    }
}
