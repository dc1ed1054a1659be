//! Writes down connections to the broker and possible losses, in line with the messages: what a
//! connection began with is durable before anything it delivered is acknowledged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Store;
use super::fault::{Class, Fault, StoreError};
use super::partitions::run;
use super::text::clean;
use super::write::bounded;
use crate::message::{ConnectionId, ConnectionNews, Gap, GapCause};

/// Who writes.
#[derive(Debug, Clone)]
pub struct Identity {
    /// MQTT client identifier.
    pub client_id: String,
    /// This process: a fresh UUID per start.
    pub instance: Uuid,
    /// How long the broker keeps the session of an absent client.
    pub session_expiry: Duration,
}

/// What writing down news led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// Filters that the session may still hold though they are no longer configured.
    pub stale_filters: Vec<String>,
    /// A loss that was written down just now.
    pub gap: Option<GapCause>,
}

/// The row of the connection that stands, shared with maintenance, which refreshes it.
#[derive(Debug, Default)]
pub(super) struct OpenConnection(Mutex<Option<(ConnectionId, i64)>>);

impl OpenConnection {
    /// The row id of the connection that stands.
    pub fn row(&self) -> Option<i64> {
        self.get().map(|(_, row)| row)
    }

    fn row_of(&self, connection: ConnectionId) -> Option<i64> {
        self.get().filter(|(id, _)| *id == connection).map(|(_, row)| row)
    }

    fn get(&self) -> Option<(ConnectionId, i64)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, open: Option<(ConnectionId, i64)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }
}

/// The newest row of the client id before this connection.
#[derive(Debug)]
struct Earlier {
    last_seen_at: OffsetDateTime,
    filters: Vec<String>,
}

/// What a new connection means, given the one before.
#[derive(Debug, PartialEq)]
struct Opening {
    stale_filters: Vec<String>,
    gap: Option<Gap>,
}

/// Pure. A first start is no gap.
fn opening(
    earlier: Option<&Earlier>,
    at: OffsetDateTime,
    session_present: bool,
    filters: &[String],
    expiry: Duration,
) -> Opening {
    let Some(earlier) = earlier else {
        return Opening { stale_filters: Vec::new(), gap: None };
    };
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
            // A clock set back meanwhile: no gap begins after its end.
            started_at: earlier.last_seen_at.min(at),
            ended_at: Some(at),
            cause,
            detail,
        });
    let stale = |f: &&String| session_present && !filters.contains(f);
    Opening { stale_filters: earlier.filters.iter().filter(stale).cloned().collect(), gap }
}

impl Store {
    /// Writes down what the session reports. May be repeated.
    pub async fn note(
        &self,
        identity: &Identity,
        news: &ConnectionNews,
    ) -> Result<Noted, StoreError> {
        let mut writer = self.writer.take().await?;
        let conn = writer.conn();
        let result = match news {
            ConnectionNews::Opened { id, at, session_present, filters } => {
                self.opened(conn, identity, *id, *at, *session_present, filters).await
            }
            ConnectionNews::Unsubscribed { id, filters } => {
                self.unsubscribed(conn, *id, filters).await
            }
            ConnectionNews::Closed { id, at, reason } => self.closed(conn, *id, *at, reason).await,
            ConnectionNews::Gap(gap) => {
                let limit = self.link.answer_within;
                insert_gap(conn, limit, &identity.client_id, gap)
                    .await
                    .map(|new| Noted { gap: new.then_some(gap.cause), ..Noted::default() })
            }
        };
        writer.finish(result)
    }

    async fn opened(
        &self,
        conn: &mut PgConnection,
        identity: &Identity,
        id: ConnectionId,
        at: OffsetDateTime,
        session_present: bool,
        filters: &[String],
    ) -> Result<Noted, Fault> {
        let limit = self.link.answer_within;
        run(conn, limit, "begin".into()).await?;
        let opened: Result<(i64, Noted), Fault> = async {
            await_predecessor(conn, limit, &identity.client_id).await?;
            let newest = newest(conn, limit, identity, at).await?;
            if let Some(Newest::This { row, held }) = newest {
                // The answer to an earlier try was lost.
                let stale = |f: &String| !filters.contains(f);
                let stale_filters = held.into_iter().filter(stale).collect();
                return Ok((row, Noted { stale_filters, gap: None }));
            }
            let earlier = match &newest {
                Some(Newest::Earlier(earlier)) => Some(earlier),
                _ => None,
            };
            let expiry = identity.session_expiry;
            let opening = opening(earlier, at, session_present, filters, expiry);
            let mut gap = None;
            if let Some(found) = &opening.gap {
                let new = insert_gap(conn, limit, &identity.client_id, found).await?;
                gap = new.then_some(found.cause);
            }
            close_abandoned(conn, limit, &identity.client_id).await?;
            let held: Vec<String> = filters.iter().chain(&opening.stale_filters).cloned().collect();
            let row = insert(conn, limit, identity, at, session_present, &held).await?;
            Ok((row, Noted { stale_filters: opening.stale_filters, gap }))
        }
        .await;
        match opened {
            Ok((row, noted)) => {
                run(conn, limit, "commit".into()).await?;
                self.open.set(Some((id, row)));
                Ok(noted)
            }
            // Without a transaction to go on with, the connection is of no more use.
            Err(fault) if fault.spares_connection() => Err(fault.taken_as(Class::Retry)),
            Err(fault) => Err(fault),
        }
    }

    async fn unsubscribed(
        &self,
        conn: &mut PgConnection,
        id: ConnectionId,
        filters: &[String],
    ) -> Result<Noted, Fault> {
        const SQL: &str = "
            update centiloc.connection
               set filters = array(select f from unnest(filters) f where f <> all ($2))
             where id = $1";
        if let Some(row) = self.open.row_of(id) {
            let query = sqlx::query(SQL).bind(row).bind(filters);
            bounded(self.link.answer_within, query.execute(conn)).await?;
        }
        Ok(Noted::default())
    }

    async fn closed(
        &self,
        conn: &mut PgConnection,
        id: ConnectionId,
        at: OffsetDateTime,
        reason: &str,
    ) -> Result<Noted, Fault> {
        const SQL: &str = "
            update centiloc.connection
               set disconnected_at = $2, last_seen_at = $2, reason = $3
             where id = $1 and disconnected_at is null";
        if let Some(row) = self.open.row_of(id) {
            let query = sqlx::query(SQL).bind(row).bind(at).bind(clean(reason));
            bounded(self.link.answer_within, query.execute(conn)).await?;
            self.open.set(None);
        }
        Ok(Noted::default())
    }
}

/// The newest row of the client id.
#[derive(Debug)]
enum Newest {
    /// The connection itself, written down by an earlier try.
    This {
        row: i64,
        held: Vec<String>,
    },
    Earlier(Earlier),
}

async fn newest(
    conn: &mut PgConnection,
    limit: Duration,
    identity: &Identity,
    at: OffsetDateTime,
) -> Result<Option<Newest>, Fault> {
    const SQL: &str = "
        select id, last_seen_at, filters, instance = $2 and connected_at = $3 as this
          from centiloc.connection
         where client_id = $1
         order by id desc
         limit 1";
    let query = sqlx::query(SQL).bind(&identity.client_id).bind(identity.instance).bind(at);
    let Some(row) = bounded(limit, query.fetch_optional(conn)).await? else { return Ok(None) };
    let filters = row.try_get("filters")?;
    Ok(Some(if row.try_get("this")? {
        Newest::This { row: row.try_get("id")?, held: filters }
    } else {
        Newest::Earlier(Earlier { last_seen_at: row.try_get("last_seen_at")?, filters })
    }))
}

/// What a process that was killed had sent may still be running in the server: its row must be
/// seen, and closed, by its successor.
async fn await_predecessor(
    conn: &mut PgConnection,
    limit: Duration,
    client_id: &str,
) -> Result<(), Fault> {
    const SQL: &str =
        "select pg_advisory_xact_lock(hashtextextended('centiloc.connection ' || $1, 0))";
    bounded(limit, sqlx::query(SQL).bind(client_id).execute(conn)).await.map(drop)
}

/// A process that died could not write down the end of its connection.
async fn close_abandoned(
    conn: &mut PgConnection,
    limit: Duration,
    client_id: &str,
) -> Result<(), Fault> {
    const SQL: &str = "
        update centiloc.connection
           set disconnected_at = last_seen_at, reason = 'ended without notice'
         where client_id = $1 and disconnected_at is null";
    bounded(limit, sqlx::query(SQL).bind(client_id).execute(conn)).await.map(drop)
}

async fn insert(
    conn: &mut PgConnection,
    limit: Duration,
    identity: &Identity,
    at: OffsetDateTime,
    session_present: bool,
    filters: &[String],
) -> Result<i64, Fault> {
    const SQL: &str = "
        insert into centiloc.connection
               (client_id, instance, connected_at, session_present, filters, last_seen_at)
        values ($1, $2, $3, $4, $5, $3)
        returning id";
    let query = sqlx::query_scalar(SQL)
        .bind(&identity.client_id)
        .bind(identity.instance)
        .bind(at)
        .bind(session_present)
        .bind(filters);
    bounded(limit, query.fetch_one(conn)).await
}

/// Inserts a gap, or notes the end of one that is open. True if it is new.
async fn insert_gap(
    conn: &mut PgConnection,
    limit: Duration,
    client_id: &str,
    gap: &Gap,
) -> Result<bool, Fault> {
    const SQL: &str = "
        insert into centiloc.gap as g (client_id, started_at, ended_at, cause, detail)
        values ($1, $2, $3, $4, $5)
        on conflict (client_id, cause, started_at) do update
           set ended_at = coalesce(excluded.ended_at, g.ended_at), detail = excluded.detail
        returning xmax = 0 as new";
    let query = sqlx::query(SQL)
        .bind(client_id)
        .bind(gap.started_at)
        .bind(gap.ended_at)
        .bind(gap.cause.as_str())
        .bind(clean(&gap.detail));
    let row: PgRow = bounded(limit, query.fetch_one(conn)).await?;
    Ok(row.try_get("new")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::at;

    const EXPIRY: Duration = Duration::from_secs(7200);

    fn earlier(filters: &[&str]) -> Earlier {
        Earlier { last_seen_at: at(0), filters: filters.iter().map(|f| (*f).to_owned()).collect() }
    }

    fn open(earlier: Option<&Earlier>, seconds: i64, session_present: bool) -> Opening {
        opening(earlier, at(seconds), session_present, &["a".into(), "b".into()], EXPIRY)
    }

    #[test]
    fn a_first_start_is_no_gap() {
        assert_eq!(open(None, 0, false), Opening { stale_filters: vec![], gap: None });
    }

    #[test]
    fn a_short_absence_with_the_session_kept_is_no_gap() {
        assert_eq!(open(Some(&earlier(&["a"])), 7200, true).gap, None);
    }

    #[test]
    fn an_absence_longer_than_the_session_lives_is_a_gap_even_if_it_is_said_to_be_there() {
        let gap = open(Some(&earlier(&["a"])), 7201, true).gap.unwrap();
        assert_eq!(gap.cause, GapCause::Absence);
        assert_eq!((gap.started_at, gap.ended_at), (at(0), Some(at(7201))));
    }

    #[test]
    fn a_lost_session_is_one_gap_that_tells_of_the_absence_too() {
        let short = open(Some(&earlier(&["a"])), 10, false).gap.unwrap();
        assert_eq!(short.cause, GapCause::SessionLost);
        assert!(!short.detail.contains("away"));
        let long = open(Some(&earlier(&["a"])), 10_000, false).gap.unwrap();
        assert_eq!(long.cause, GapCause::SessionLost);
        assert!(long.detail.contains("away for 2h 46m 40s"), "{}", long.detail);
    }

    #[test]
    fn filters_no_longer_wanted_are_stale_only_while_the_session_lives() {
        let before = earlier(&["a", "old"]);
        assert_eq!(open(Some(&before), 10, true).stale_filters, ["old"]);
        assert!(open(Some(&before), 10, false).stale_filters.is_empty());
    }

    #[test]
    fn a_clock_set_back_is_no_gap_and_a_session_lost_with_it_none_that_ends_before_it_begins() {
        assert_eq!(open(Some(&earlier(&["a"])), -100, true).gap, None);
        let lost = open(Some(&earlier(&["a"])), -100, false).gap.unwrap();
        assert_eq!((lost.started_at, lost.ended_at), (at(-100), Some(at(-100))));
    }
}
