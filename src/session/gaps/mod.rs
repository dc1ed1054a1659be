//! Gaps: possible losses of messages, their detection, and their tracking until the database has a
//! row for each.

mod ack_stall;
mod state_file;
mod tracker;

pub use self::ack_stall::AckStallDetector;
pub use self::state_file::{GapState, GapStateFile, PendingGaps};
pub use self::tracker::GapTracker;
