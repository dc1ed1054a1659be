//! The right to hold the session, which one process has at a time: two clients with the same client ID
//! keep disconnecting each other. The database decides ([`crate::store::lock`]), and the session
//! follows.

use std::fmt;

/// State of the single-writer lock, which gives the right to connect with the configured client ID.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Leadership {
    /// The database has not answered yet. The session waits, for seconds at most.
    #[default]
    Pending,
    /// The database answers but refuses the lock, for this reason: a limit on connections,
    /// credentials, or a pooler that shares sessions. The session waits, because another process may
    /// hold the lock.
    Refused(String),
    /// The database is unreachable. The session goes on without the lock: a broker queue that
    /// overflows in the meantime would be the worse loss.
    Unknown,
    /// This process holds the lock.
    Held,
    /// Another process holds the lock.
    HeldByOther(LockHolder),
}

impl Leadership {
    /// Returns true if the session may connect, or stay connected.
    pub fn may_connect(&self) -> bool {
        matches!(self, Self::Unknown | Self::Held)
    }

    /// Returns the other process, if one holds the lock.
    pub fn holder(&self) -> Option<&LockHolder> {
        match self {
            Self::HeldByOther(holder) => Some(holder),
            Self::Pending | Self::Refused(_) | Self::Unknown | Self::Held => None,
        }
    }

    /// Returns true if a connected session has to disconnect.
    pub fn must_leave(&self) -> bool {
        matches!(self, Self::HeldByOther(_) | Self::Refused(_))
    }
}

/// The process that holds the lock, as far as PostgreSQL shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockHolder {
    /// Its `application_name`, which holds host and instance.
    pub name: Option<String>,
    /// The client address of its connection to PostgreSQL. `None` over a unix socket, or without the
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

/// Explains to the operator that the session stands by for another process.
pub fn standing_by(client_id: &str, holder: &LockHolder) -> String {
    format!(
        "standing by: {holder} holds the client id {client_id:?} and receives the events; this \
         process takes over within seconds after that one ends; if two processes are to receive at \
         the same time, give each its own mqtt.client_id and both the same mqtt.share_group"
    )
}

/// Explains to the operator that the session waits although the database answers.
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
    fn held_and_unknown_locks_allow_connecting() {
        assert!(Leadership::Held.may_connect());
        assert!(Leadership::Unknown.may_connect());
        assert!(!Leadership::Pending.may_connect());
        assert!(!Leadership::HeldByOther(LockHolder::default()).may_connect());
        let refused = Leadership::Refused("a limit".into());
        assert!(!refused.may_connect() && refused.must_leave());
    }

    #[test]
    fn standby_message_names_holder_and_remedy() {
        let holder =
            LockHolder { name: Some("bridge on a".into()), address: Some("10.0.0.1".into()) };
        let text = standing_by("acme-bridge", &holder);
        assert!(text.contains("bridge on a (from 10.0.0.1) holds"), "{text}");
        assert!(text.contains("\"acme-bridge\"") && text.contains("mqtt.share_group"), "{text}");
    }
}
