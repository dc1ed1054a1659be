//! Selection of the trace to remove.

use time::OffsetDateTime;

/// The trace to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceSelector {
    /// Everything about this tag.
    Uid(String),
    /// Everything about this board, and what was seen on it.
    Board(String),
    /// Everything that happened before this.
    Before(OffsetDateTime),
}

impl TraceSelector {
    /// Returns the name of its kind, as in `erasure.selector`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Uid(_) => "uid",
            Self::Board(_) => "board",
            Self::Before(_) => "before",
        }
    }
}
