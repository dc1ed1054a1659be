//! Who may hold the session: one process at a time, or two with the same client id would throw each
//! other out for ever. The database decides ([`crate::store::lock`]); the session obeys.

use std::fmt;

/// What is known about the right to connect with the configured client id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Leadership {
    /// The database has not answered yet: wait, it takes seconds at most.
    #[default]
    Pending,
    /// The database answers, but does not give the lock: a limit on connections, credentials, a
    /// pooler that shares sessions. Why, for a person. Then the session waits: another process may
    /// hold the lock.
    Refused(String),
    /// The database cannot be asked. Then the session goes on without the right: a broker's queue
    /// that overflows meanwhile is the worse loss.
    Unknown,
    /// Ours.
    Held,
    /// Another process has it.
    HeldByOther(LockHolder),
}

impl Leadership {
    /// Whether to connect, or stay connected.
    pub fn may_connect(&self) -> bool {
        matches!(self, Self::Unknown | Self::Held)
    }

    /// The other process, if one holds the right.
    pub fn holder(&self) -> Option<&LockHolder> {
        match self {
            Self::HeldByOther(holder) => Some(holder),
            Self::Pending | Self::Refused(_) | Self::Unknown | Self::Held => None,
        }
    }

    /// Returns whether a session that is connected has to end.
    pub fn must_leave(&self) -> bool {
        matches!(self, Self::HeldByOther(_) | Self::Refused(_))
    }
}

/// The process that holds the right, as far as PostgreSQL tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockHolder {
    /// What it calls itself; holds host and instance.
    pub name: Option<String>,
    /// Where its connection to PostgreSQL comes from; `None` over a unix socket, or without the
    /// privilege to see it.
    pub address: Option<String>,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, &self.address) {
            (Some(name), Some(address)) => write!(f, "{name} (from {address})"),
            (Some(name), None) => f.write_str(name),
            (None, Some(address)) => write!(f, "a process at {address}"),
            (None, None) => f.write_str("a process that PostgreSQL does not name"),
        }
    }
}

/// Why the session stands by, for a person.
pub fn standing_by(client_id: &str, holder: &LockHolder) -> String {
    format!(
        "standing by: {holder} holds the client id {client_id:?} and receives the events; this \
         process takes over within seconds when that one goes; if two are meant to receive at \
         once, give each its own mqtt.client_id and both the same mqtt.share_group"
    )
}

/// Why the session waits although the database answers, for a person.
pub fn refused(client_id: &str, reason: &str) -> String {
    format!(
        "not connecting: without the single-writer lock in PostgreSQL another process may hold the \
         client id {client_id:?}: {reason}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_right_that_another_holds_or_that_is_not_decided_keeps_from_connecting() {
        assert!(Leadership::Held.may_connect());
        assert!(Leadership::Unknown.may_connect());
        assert!(!Leadership::Pending.may_connect());
        assert!(!Leadership::HeldByOther(LockHolder::default()).may_connect());
        let refused = Leadership::Refused("a limit".into());
        assert!(!refused.may_connect() && refused.must_leave());
    }

    #[test]
    fn standing_by_names_the_holder_the_client_id_and_the_way_to_run_two() {
        let holder =
            LockHolder { name: Some("bridge on a".into()), address: Some("10.0.0.1".into()) };
        let text = standing_by("acme-bridge", &holder);
        assert!(text.contains("bridge on a (from 10.0.0.1) holds"), "{text}");
        assert!(text.contains("\"acme-bridge\"") && text.contains("mqtt.share_group"), "{text}");
    }
}
