//! The other members of a share group. The broker gives each member its share of the messages, also while
//! it is away: what one that never comes back was given is lost when its session expires. The members
//! that are left write that down.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use crate::connection_event::RETIRED;
use crate::gap::{Gap, GapCause};
use crate::store::batch::write::bounded;
use crate::store::error::DbError;
use crate::store::journal::insert_gap;
use crate::store::maintenance::MaintenanceParts;
use crate::store::pg_timestamp::PgTimestamp;
use crate::store::{Store, StoreError, lock};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(30);

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

/// Decides when to look. To be made anew when the database did not answer.
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
    /// Looks for members that vanished, if it is time, and warns of them.
    pub async fn look(&mut self, parts: &MaintenanceParts, now: OffsetDateTime) {
        let MaintenanceParts { store, members, metrics, .. } = parts;
        let GroupMembership { client_id, filters, session_expiry } = members;
        let settled = self.since.elapsed() >= SETTLE.min(*session_expiry);
        if !settled || self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let vanished = match store.note_vanished(client_id, filters, *session_expiry, now).await {
            Ok(vanished) => vanished,
            Err(error) => {
                tracing::warn!(%error, "could not look for vanished members of the share group");
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
    /// Writes down which other members of the share group are gone for longer than the broker keeps a
    /// session. Returns those that were not written down before.
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
        let limit = self.link.answer_within;
        let mut conn = self.acquire().await?;
        let result = async {
            let mut new = Vec::new();
            for gap in candidates(&mut conn, limit, client_id, &shared, session_expiry, now).await?
            {
                let lives = holds_lock(&mut conn, limit, &gap.client_id).await?;
                if !lives && insert_gap(&mut conn, limit, &gap).await? {
                    new.push(gap);
                }
            }
            Ok::<_, DbError>(new)
        }
        .await;
        Ok(conn.finish(result)?)
    }
}

/// Members that were not seen for longer than the broker keeps a session, were not retired, and are in
/// no gap yet.
async fn candidates(
    conn: &mut PgConnection,
    limit: Duration,
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
    let members = bounded(limit, query.fetch_all(conn)).await?;
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

/// Whether a process holds the single-writer lock of the client id: then it lives, though it could not
/// write down its connection yet.
async fn holds_lock(
    conn: &mut PgConnection,
    limit: Duration,
    client_id: &str,
) -> Result<bool, DbError> {
    // Safe: made of constants.
    let sql = sqlx::AssertSqlSafe(format!("select exists (select {})", lock::LOCKS_OF_KEY));
    let query = sqlx::query_scalar(sql).bind(lock::key(client_id));
    bounded(limit, query.fetch_one(conn)).await
}
