//! Possible losses of messages: how one is detected, and how it is remembered until its row is in the
//! database.

mod ack_stall;
mod state_file;
mod tracker;

pub use self::ack_stall::AckStallDetector;
pub use self::state_file::{GapState, GapStateFile, PendingGaps};
pub use self::tracker::GapTracker;
