//! Refusals of messages that are no events.

/// Reason why a message is no event, as in the column `reason` of `dead_letter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// Not the format its topic promises.
    Malformed,
    /// A field the tables cannot do without is absent.
    MissingField,
    /// A value does not fit its column, or the message is larger than accepted.
    OutOfRange,
    /// Decodes, but cannot be what the vendor meant: the assumed schema may be wrong.
    Implausible,
    /// No decoder is known for the topic.
    UnknownTopic,
    /// PostgreSQL refused the row.
    RefusedByDatabase,
}

impl RejectReason {
    /// One of each.
    pub const ALL: [Self; 6] = [
        Self::Malformed,
        Self::MissingField,
        Self::OutOfRange,
        Self::Implausible,
        Self::UnknownTopic,
        Self::RefusedByDatabase,
    ];

    /// Returns the value of `dead_letter.reason` and in the metrics label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingField => "missing_field",
            Self::OutOfRange => "out_of_range",
            Self::Implausible => "implausible",
            Self::UnknownTopic => "unknown_topic",
            Self::RefusedByDatabase => "refused_by_database",
        }
    }
}

/// Refusal of a message, with an explanation for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Reject {
    /// The class.
    pub reason: RejectReason,
    /// The value found, the value expected, and a hint.
    pub detail: String,
}

impl Reject {
    /// A reject of the given class.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
