//! The other members of a share group. The broker gives each member its share of the messages, also while
//! it is away: what one that never comes back was given is lost when its session expires. The members
//! that are left write that down.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::store::error::DbError;
use crate::store::journal::insert_gap;
use crate::store::maintenance::MaintenanceParts;
use crate::store::pg_timestamp::PgTimestamp;
use crate::store::query::Db;
use crate::store::{Store, StoreError, lock};
use crate::stream::connection_event::RETIRED;
use crate::stream::gap::{Gap, GapCause};

/// Interval of checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// After an outage of the database the other members need a moment to be seen again.
const SETTLE: Duration = Duration::from_secs(120);

/// This member, and what it shares.
#[derive(Debug)]
pub struct GroupMembership {
    /// Its client id.
    pub client_id: String,
    /// Its topic filters.
    pub filters: Vec<String>,
    /// How long the broker keeps the session of an absent client.
    pub session_expiry: Duration,
}

/// Schedules the checks for vanished members. Created again when the database did not answer.
#[derive(Debug)]
pub(in crate::store) struct MemberWatch {
    since: Instant,
    looked: Option<Instant>,
}

impl Default for MemberWatch {
    fn default() -> Self {
        Self { since: Instant::now(), looked: None }
    }
}

impl MemberWatch {
    /// Checks for members that vanished, if it is due, and warns of them.
    pub async fn look(&mut self, parts: &MaintenanceParts, now: OffsetDateTime) {
        let MaintenanceParts { store, members, metrics, .. } = parts;
        let GroupMembership { client_id, filters, session_expiry } = members;
        let settled = self.since.elapsed() >= SETTLE.min(*session_expiry);
        if !settled || self.looked.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
            return;
        }
        self.looked = Some(Instant::now());
        let vanished = match store.note_vanished(client_id, filters, *session_expiry, now).await {
            Ok(vanished) => vanished,
            Err(error) => {
                tracing::warn!(%error, "could not check for vanished members of the share group");
                return;
            }
        };
        for gap in vanished {
            metrics.gaps.count(gap.cause);
            tracing::warn!(
                member = gap.client_id,
                detail = gap.detail,
                "a member of the share group vanished; messages may have been lost"
            );
        }
    }
}

impl Store {
    /// Records which other members of the share group are gone for longer than the broker keeps a
    /// session. Returns those that were not recorded before.
    pub async fn note_vanished(
        &self,
        client_id: &str,
        filters: &[String],
        session_expiry: Duration,
        now: OffsetDateTime,
    ) -> Result<Vec<Gap>, StoreError> {
        let shared: Vec<String> =
            filters.iter().filter(|filter| filter.starts_with("$share/")).cloned().collect();
        if shared.is_empty() {
            return Ok(Vec::new());
        }
        let mut db = self.acquire().await?;
        let result = async {
            let mut new = Vec::new();
            for gap in candidates(&mut db, client_id, &shared, session_expiry, now).await? {
                let lives = holds_lock(&mut db, &gap.client_id).await?;
                if !lives && insert_gap(&mut db, &gap).await? {
                    new.push(gap);
                }
            }
            Ok::<_, DbError>(new)
        }
        .await;
        Ok(db.finish(result)?)
    }
}

/// Members that were not seen for longer than the broker keeps a session, were not retired, and are in
/// no gap yet.
async fn candidates(
    db: &mut Db,
    client_id: &str,
    shared: &[String],
    session_expiry: Duration,
    now: OffsetDateTime,
) -> Result<Vec<Gap>, DbError> {
    const SQL: &str = "
        select m.client_id, m.last_seen_at
          from (select distinct on (client_id) client_id, last_seen_at, filters, reason
                  from centiloc.connection
                 where client_id <> $1
                 order by client_id, id desc) m
         where m.filters && $2
           and m.last_seen_at < $3
           and m.reason is distinct from $4
           and not exists (
               select from centiloc.gap g
                where g.client_id = m.client_id and g.cause = $5
                  and g.started_at = m.last_seen_at)";
    let Some(before) =
        time::Duration::try_from(session_expiry).ok().and_then(|e| now.checked_sub(e))
    else {
        return Ok(Vec::new());
    };
    let query = sqlx::query_as::<_, (String, PgTimestamp)>(SQL)
        .bind(client_id)
        .bind(shared)
        .bind(before)
        .bind(RETIRED)
        .bind(GapCause::MemberVanished.as_str());
    let members = db.query(|conn| query.fetch_all(conn)).await?;
    Ok(members.into_iter().map(|(id, PgTimestamp(at))| vanished(id, at, session_expiry)).collect())
}

fn vanished(client_id: String, seen_at: OffsetDateTime, session_expiry: Duration) -> Gap {
    let kept = humantime::format_duration(Duration::from_secs(session_expiry.as_secs()));
    let detail = format!(
        "the member {client_id} of the share group is away for longer than the broker keeps a \
         session (mqtt.session_expiry is {kept}), and was not retired: its share of the messages of \
         that time may be lost; end a member's session with `centiloc-bridge retire` before it goes"
    );
    Gap {
        client_id,
        started_at: seen_at,
        ended_at: Some(seen_at + session_expiry),
        cause: GapCause::MemberVanished,
        detail,
    }
}

/// Returns true if a process holds the single-writer lock of the client id: then it runs, though it
/// could not record its connection yet.
async fn holds_lock(db: &mut Db, client_id: &str) -> Result<bool, DbError> {
    // Safe: made of constants.
    let sql = sqlx::AssertSqlSafe(format!("select exists (select {})", lock::LOCKS_OF_KEY));
    let query = sqlx::query_scalar(sql).bind(lock::key(client_id));
    db.query(|conn| query.fetch_one(conn)).await
}
