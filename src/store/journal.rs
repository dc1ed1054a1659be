//! Writes down connections to the broker and possible losses, in line with the messages: what a
//! connection began with is durable before anything it delivered is acknowledged.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use time::OffsetDateTime;

use super::Store;
use super::fault::{Class, Fault, StoreError};
use super::partitions::run;
use super::text::clean;
use super::write::bounded;
use crate::message::{ConnectionName, ConnectionNews, Gap, GapCause, WITHOUT_NOTICE};

/// Between two questions that the database did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What writing down news led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// Filters that the session may still hold though they are no longer configured.
    pub stale_filters: Vec<String>,
    /// A loss that was written down just now.
    pub gap: Option<GapCause>,
}

/// The row of the connection that was written down last, shared with maintenance, which refreshes
/// it while the connection stands.
#[derive(Debug, Default)]
pub(super) struct OpenConnection(Mutex<Option<(ConnectionName, i64)>>);

impl OpenConnection {
    /// The row id of this connection.
    pub fn row_of(&self, connection: &ConnectionName) -> Option<i64> {
        self.lock().as_ref().filter(|(name, _)| name == connection).map(|(_, row)| *row)
    }

    fn set(&self, open: Option<(ConnectionName, i64)>) {
        *self.lock() = open;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(ConnectionName, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest row of the client id before this connection.
#[derive(Debug)]
struct Earlier {
    last_seen_at: OffsetDateTime,
    filters: Vec<String>,
    /// Of the process that writes now, or of another.
    same_process: bool,
    /// Whether it began after what is written down now.
    later: bool,
}

/// What [`ConnectionNews::Opened`] says.
#[derive(Debug, Clone, Copy)]
struct Opened<'n> {
    connection: &'n ConnectionName,
    at: OffsetDateTime,
    session_present: bool,
    filters: &'n [String],
    /// Where the process spools.
    spool_dir: Option<&'n str>,
    /// Told out of the spool, perhaps long after.
    spooled: bool,
}

/// What a new connection means, given the one before.
#[derive(Debug, PartialEq)]
struct Opening {
    stale_filters: Vec<String>,
    gap: Option<Gap>,
}

/// Pure. A first start is no gap.
fn opening(earlier: Option<&Earlier>, opened: Opened<'_>, expiry: Duration) -> Opening {
    let Some(earlier) = earlier else {
        return Opening { stale_filters: Vec::new(), gap: None };
    };
    let Opened { at, session_present, filters, .. } = opened;
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
    Opening { stale_filters: earlier.filters.iter().filter(stale).cloned().collect(), gap }
}

impl Store {
    /// Writes down what the session reports. May be repeated. `session_expiry` is how long the
    /// broker keeps the session of an absent client.
    pub async fn note(
        &self,
        session_expiry: Duration,
        news: &ConnectionNews,
    ) -> Result<Noted, StoreError> {
        let mut writer = self.writer.take().await?;
        let conn = writer.conn();
        let result = match news {
            ConnectionNews::Opened { connection, at, session_present, filters, spool_dir } => {
                let opened = Opened {
                    connection,
                    at: *at,
                    session_present: *session_present,
                    filters,
                    spool_dir: spool_dir.as_deref(),
                    spooled: spool_dir.is_some(),
                };
                self.opened(conn, session_expiry, opened).await
            }
            ConnectionNews::Unsubscribed { connection, filters } => {
                self.unsubscribed(conn, connection, filters).await
            }
            ConnectionNews::Closed { connection, at, reason } => {
                self.closed(conn, connection, *at, reason).await
            }
            ConnectionNews::Gap(gap) => insert_gap(conn, self.link.answer_within, gap)
                .await
                .map(|new| Noted { gap: new.then_some(gap.cause), ..Noted::default() }),
        };
        writer.finish(result)
    }

    /// Where the last process of this client id that had a spool had it; as soon as the database can
    /// tell.
    pub async fn find_spool(&self, client_id: &str) -> Option<PathBuf> {
        self.until_prepared().await;
        loop {
            match self.spool_dir(client_id).await {
                Ok(dir) => return dir.map(PathBuf::from),
                Err(error) => {
                    tracing::debug!(reason = %error, "could not ask where the last spool was");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    async fn spool_dir(&self, client_id: &str) -> Result<Option<String>, StoreError> {
        const SQL: &str = "
            select spool_dir from centiloc.connection
             where client_id = $1 and spool_dir is not null
             order by id desc
             limit 1";
        let mut conn = self.acquire().await?;
        let query = sqlx::query_scalar(SQL).bind(client_id);
        Ok(bounded(self.link.answer_within, query.fetch_optional(&mut *conn)).await?)
    }

    async fn opened(
        &self,
        conn: &mut PgConnection,
        session_expiry: Duration,
        opened: Opened<'_>,
    ) -> Result<Noted, Fault> {
        let limit = self.link.answer_within;
        let client_id = &opened.connection.client_id;
        run(conn, limit, "begin".into()).await?;
        let written: Result<(Option<i64>, Noted), Fault> = async {
            await_predecessor(conn, limit, client_id).await?;
            let newest = newest(conn, limit, opened).await?;
            if let Some(Newest::This { row, held }) = newest {
                // The answer to an earlier try was lost.
                let stale = |f: &String| !opened.filters.contains(f);
                let stale_filters = held.into_iter().filter(stale).collect();
                return Ok((Some(row), Noted { stale_filters, gap: None }));
            }
            let earlier = match &newest {
                Some(Newest::Earlier(earlier)) => Some(earlier),
                _ => None,
            };
            if earlier.is_some_and(|newest| newest.later && !newest.same_process) && opened.spooled
            {
                return late(conn, limit, session_expiry, opened).await;
            }
            let opening = opening(earlier, opened, session_expiry);
            let mut gap = None;
            if let Some(found) = &opening.gap {
                gap = insert_gap(conn, limit, found).await?.then_some(found.cause);
            }
            if earlier.is_some_and(|earlier| !earlier.same_process) {
                end_abandoned_gaps(conn, limit, client_id, opened.at).await?;
            }
            close_abandoned(conn, limit, client_id).await?;
            let held: Vec<String> =
                opened.filters.iter().chain(&opening.stale_filters).cloned().collect();
            let row = insert(conn, limit, opened, &held).await?;
            Ok((Some(row), Noted { stale_filters: opening.stale_filters, gap }))
        }
        .await;
        match written {
            Ok((row, noted)) => {
                run(conn, limit, "commit".into()).await?;
                self.open.set(row.map(|row| (opened.connection.clone(), row)));
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
        connection: &ConnectionName,
        filters: &[String],
    ) -> Result<Noted, Fault> {
        const SQL: &str = "
            update centiloc.connection
               set filters = array(select f from unnest(filters) f where f <> all ($2))
             where id = $1";
        if let Some(row) = self.open.row_of(connection) {
            let query = sqlx::query(SQL).bind(row).bind(filters);
            bounded(self.link.answer_within, query.execute(conn)).await?;
        }
        Ok(Noted::default())
    }

    /// The end of a connection that an earlier process wrote down, told out of the spool, is that of
    /// the client's newest row: what is told keeps its order.
    async fn closed(
        &self,
        conn: &mut PgConnection,
        connection: &ConnectionName,
        at: OffsetDateTime,
        reason: &str,
    ) -> Result<Noted, Fault> {
        const SQL: &str = "
            update centiloc.connection
               set disconnected_at = case when $6 then greatest(last_seen_at, $3) else $3 end,
                   last_seen_at = case when $6 then greatest(last_seen_at, $3) else $3 end,
                   reason = $4
             where id = coalesce($1, (select id from centiloc.connection
                                       where client_id = $2 order by id desc limit 1))
               and instance = $5 and disconnected_at is null";
        let query = sqlx::query(SQL)
            .bind(self.open.row_of(connection))
            .bind(&connection.client_id)
            .bind(at)
            .bind(clean(reason))
            .bind(connection.instance)
            .bind(reason == WITHOUT_NOTICE);
        bounded(self.link.answer_within, query.execute(conn)).await?;
        self.open.set(None);
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
    opened: Opened<'_>,
) -> Result<Option<Newest>, Fault> {
    const SQL: &str = "
        select id, last_seen_at, filters, instance = $2 as same_process, connected_at > $3 as later,
               instance = $2 and connected_at = $3 as this
          from centiloc.connection
         where client_id = $1
         order by id desc
         limit 1";
    let ConnectionName { client_id, instance, .. } = opened.connection;
    let query = sqlx::query(SQL).bind(client_id).bind(instance).bind(opened.at);
    let Some(row) = bounded(limit, query.fetch_optional(conn)).await? else { return Ok(None) };
    let filters = row.try_get("filters")?;
    Ok(Some(if row.try_get("this")? {
        Newest::This { row: row.try_get("id")?, held: filters }
    } else {
        Newest::Earlier(Earlier {
            last_seen_at: row.try_get("last_seen_at")?,
            filters,
            same_process: row.try_get("same_process")?,
            later: row.try_get("later")?,
        })
    }))
}

/// Told out of the spool after another machine has taken over: the connection is over, and the other
/// one's stands. What was lost before it is still to be written down.
async fn late(
    conn: &mut PgConnection,
    limit: Duration,
    session_expiry: Duration,
    opened: Opened<'_>,
) -> Result<(Option<i64>, Noted), Fault> {
    const SQL: &str = "
        select last_seen_at from centiloc.connection
         where client_id = $1 and connected_at < $2
         order by connected_at desc
         limit 1";
    let query = sqlx::query_scalar(SQL).bind(&opened.connection.client_id).bind(opened.at);
    let last_seen_at = bounded(limit, query.fetch_optional(&mut *conn)).await?;
    let earlier = last_seen_at.map(|last_seen_at| Earlier {
        last_seen_at,
        filters: Vec::new(),
        same_process: false,
        later: false,
    });
    let mut gap = None;
    if let Some(found) = opening(earlier.as_ref(), opened, session_expiry).gap {
        gap = insert_gap(conn, limit, &found).await?.then_some(found.cause);
    }
    Ok((None, Noted { stale_filters: Vec::new(), gap }))
}

/// A process that is gone cannot tell how long what it noticed lasted. Its successor finds the
/// session, and what it holds back itself it will notice anew.
async fn end_abandoned_gaps(
    conn: &mut PgConnection,
    limit: Duration,
    client_id: &str,
    at: OffsetDateTime,
) -> Result<(), Fault> {
    const SQL: &str = "
        update centiloc.gap set ended_at = greatest(started_at, $2)
         where client_id = $1 and ended_at is null";
    bounded(limit, sqlx::query(SQL).bind(client_id).bind(at).execute(conn)).await.map(drop)
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
           set disconnected_at = last_seen_at, reason = $2
         where client_id = $1 and disconnected_at is null";
    let query = sqlx::query(SQL).bind(client_id).bind(WITHOUT_NOTICE);
    bounded(limit, query.execute(conn)).await.map(drop)
}

async fn insert(
    conn: &mut PgConnection,
    limit: Duration,
    opened: Opened<'_>,
    filters: &[String],
) -> Result<i64, Fault> {
    const SQL: &str = "
        insert into centiloc.connection
               (client_id, instance, connected_at, session_present, filters, last_seen_at, spool_dir)
        values ($1, $2, $3, $4, $5, $3, $6)
        returning id";
    let query = sqlx::query_scalar(SQL)
        .bind(&opened.connection.client_id)
        .bind(opened.connection.instance)
        .bind(opened.at)
        .bind(opened.session_present)
        .bind(filters)
        .bind(opened.spool_dir.map(clean));
    bounded(limit, query.fetch_one(conn)).await
}

/// Inserts a gap, or notes the end of one that is open. True if it is new.
async fn insert_gap(conn: &mut PgConnection, limit: Duration, gap: &Gap) -> Result<bool, Fault> {
    const SQL: &str = "
        insert into centiloc.gap as g (client_id, started_at, ended_at, cause, detail)
        values ($1, $2, $3, $4, $5)
        on conflict (client_id, cause, started_at) do update
           set ended_at = coalesce(excluded.ended_at, g.ended_at), detail = excluded.detail
        returning xmax = 0 as new";
    let query = sqlx::query(SQL)
        .bind(&gap.client_id)
        .bind(gap.started_at)
        .bind(gap.ended_at)
        .bind(gap.cause.as_str())
        .bind(clean(&gap.detail));
    let row: PgRow = bounded(limit, query.fetch_one(conn)).await?;
    Ok(row.try_get("new")?)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::message::ConnectionId;
    use crate::store::testing::at;

    const EXPIRY: Duration = Duration::from_secs(7200);

    fn earlier(filters: &[&str]) -> Earlier {
        let filters = filters.iter().map(|f| (*f).to_owned()).collect();
        Earlier { last_seen_at: at(0), filters, same_process: false, later: false }
    }

    fn open(earlier: Option<&Earlier>, seconds: i64, session_present: bool) -> Opening {
        let connection = ConnectionName {
            client_id: "T-bridge".into(),
            instance: Uuid::nil(),
            id: ConnectionId(1),
        };
        let opened = Opened {
            connection: &connection,
            at: at(seconds),
            session_present,
            filters: &["a".into(), "b".into()],
            spool_dir: None,
            spooled: false,
        };
        opening(earlier, opened, EXPIRY)
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
