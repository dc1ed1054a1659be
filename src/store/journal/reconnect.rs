//! Assessment of a new connection, given the one before. Pure.

use std::time::Duration;

use time::OffsetDateTime;

use crate::stream::connection_event::ConnectionName;
use crate::stream::gap::{Gap, GapCause};

/// The newest row of the client id before this connection.
#[derive(Debug)]
pub(super) struct EarlierConnection {
    pub last_seen_at: OffsetDateTime,
    pub filters: Vec<String>,
    /// True if the process is the one that writes now.
    pub same_process: bool,
    /// True if it began after the connection that is being recorded.
    pub later: bool,
    /// Its session was retired.
    pub retired: bool,
}

/// The content of `ConnectionEvent::Opened`.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenedConnection<'n> {
    pub connection: &'n ConnectionName,
    pub at: OffsetDateTime,
    pub session_present: bool,
    pub filters: &'n [String],
    /// The spool directory of the process.
    pub spool_dir: Option<&'n str>,
    /// True if it may be recorded long after, because it is over.
    pub late: bool,
}

/// Consequences of a new connection.
#[derive(Debug, PartialEq)]
pub(super) struct ReconnectAssessment {
    pub stale_filters: Vec<String>,
    pub gap: Option<Gap>,
}

/// Assesses a new connection. A first start is no gap, nor is the first after the client was retired.
pub(super) fn assess_reconnect(
    earlier: Option<&EarlierConnection>,
    opened: OpenedConnection<'_>,
    expiry: Duration,
) -> ReconnectAssessment {
    let Some(earlier) = earlier.filter(|earlier| !earlier.retired) else {
        return ReconnectAssessment { stale_filters: Vec::new(), gap: None };
    };
    let OpenedConnection { at, session_present, filters, .. } = opened;
    let away = Duration::try_from(at - earlier.last_seen_at).unwrap_or_default();
    let expired = (away > expiry).then(|| {
        let short = |d: Duration| humantime::format_duration(Duration::from_secs(d.as_secs()));
        format!(
            "away for {}, longer than the broker keeps a session (mqtt.session_expiry is {})",
            short(away),
            short(expiry)
        )
    });
    let lost = (!session_present).then(|| {
        let lost = "the broker no longer knew the session, nor what it had queued for it";
        expired.as_ref().map_or_else(|| lost.to_owned(), |away| format!("{lost}; {away}"))
    });
    let gap = lost
        .map(|detail| (GapCause::SessionLost, detail))
        .or(expired.map(|detail| (GapCause::Absence, detail)))
        .map(|(cause, detail)| Gap {
            client_id: opened.connection.client_id.clone(),
            // A clock set back meanwhile: no gap begins after its end.
            started_at: earlier.last_seen_at.min(at),
            ended_at: Some(at),
            cause,
            detail,
        });
    let stale = |f: &&String| session_present && !filters.contains(f);
    ReconnectAssessment {
        stale_filters: earlier.filters.iter().filter(stale).cloned().collect(),
        gap,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::testing::at;
    use crate::stream::ack::ConnectionId;

    const EXPIRY: Duration = Duration::from_secs(7200);

    fn earlier(filters: &[&str]) -> EarlierConnection {
        let filters = filters.iter().map(|f| (*f).to_owned()).collect();
        EarlierConnection {
            last_seen_at: at(0),
            filters,
            same_process: false,
            later: false,
            retired: false,
        }
    }

    fn open(
        earlier: Option<&EarlierConnection>,
        seconds: i64,
        session_present: bool,
    ) -> ReconnectAssessment {
        let connection = ConnectionName {
            client_id: "T-bridge".into(),
            instance: Uuid::nil(),
            id: ConnectionId(1),
        };
        let opened = OpenedConnection {
            connection: &connection,
            at: at(seconds),
            session_present,
            filters: &["a".into(), "b".into()],
            spool_dir: None,
            late: false,
        };
        assess_reconnect(earlier, opened, EXPIRY)
    }

    #[test]
    fn a_first_start_is_no_gap() {
        assert_eq!(open(None, 0, false), ReconnectAssessment { stale_filters: vec![], gap: None });
    }

    #[test]
    fn first_start_after_retirement_is_no_gap() {
        let retired = EarlierConnection { retired: true, ..earlier(&["old"]) };
        assert_eq!(open(Some(&retired), 10_000, false), open(None, 0, false));
    }

    #[test]
    fn short_absence_with_kept_session_is_no_gap() {
        assert_eq!(open(Some(&earlier(&["a"])), 7200, true).gap, None);
    }

    #[test]
    fn absence_beyond_session_expiry_is_always_a_gap() {
        let gap = open(Some(&earlier(&["a"])), 7201, true).gap.unwrap();
        assert_eq!(gap.cause, GapCause::Absence);
        assert_eq!((gap.started_at, gap.ended_at), (at(0), Some(at(7201))));
    }

    #[test]
    fn lost_session_gap_mentions_the_absence() {
        let short = open(Some(&earlier(&["a"])), 10, false).gap.unwrap();
        assert_eq!(short.cause, GapCause::SessionLost);
        assert!(!short.detail.contains("away"));
        let long = open(Some(&earlier(&["a"])), 10_000, false).gap.unwrap();
        assert_eq!(long.cause, GapCause::SessionLost);
        assert!(long.detail.contains("away for 2h 46m 40s"), "{}", long.detail);
    }

    #[test]
    fn unwanted_filters_are_stale_while_session_exists() {
        let before = earlier(&["a", "old"]);
        assert_eq!(open(Some(&before), 10, true).stale_filters, ["old"]);
        assert!(open(Some(&before), 10, false).stale_filters.is_empty());
    }

    #[test]
    fn clock_set_back_makes_no_negative_gap() {
        assert_eq!(open(Some(&earlier(&["a"])), -100, true).gap, None);
        let lost = open(Some(&earlier(&["a"])), -100, false).gap.unwrap();
        assert_eq!((lost.started_at, lost.ended_at), (at(-100), Some(at(-100))));
    }
}
