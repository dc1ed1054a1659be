//! The single writer: a session-level advisory lock on the client id, held on a connection of its
//! own for as long as the process lives. PostgreSQL frees it when that connection ends, so no
//! process has to say that it is gone, and none that is gone can keep it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Store;
use super::batch::write::bounded;
use super::connection::connector::Connector;
use super::connection::session_proof::{process, prove_sessions, shared_sessions};
use super::error::{DbError, ErrorClass};
use crate::backoff::Backoff;
use crate::config::BackoffBounds;
use crate::progress::idle;
use crate::service::leadership::{Leadership, LockHolder};

/// Sets our keys apart from those of other programs in the same database.
const NAMESPACE: &str = "centiloc-bridge single writer of client id ";

/// Between two looks while it works: bounds how soon a holder notices that its connection broke, and
/// how soon a process standing by takes over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An answer to a look. The lock's connection does nothing else, so a server that takes longer is
/// overloaded or gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Bounds of the wait before a database that is away is tried again. Short: until it answers, two
/// processes may hold the client id.
const RETRY: BackoffBounds =
    BackoffBounds { min: Duration::from_millis(500), max: Duration::from_secs(5) };

/// The same where only a person can mend it: credentials, database name.
const RETRY_STOPPED: Duration = Duration::from_secs(10);

/// A process standing by lets the last holder go first when the database comes back: it is
/// connected to the broker, and changing places would interrupt the events for nothing.
const AFTER_YOU: Duration = Duration::from_secs(3);

/// What the server does to notice that the holder's host is gone: probes after 10 s of silence, every
/// 5 s, three times, so 25 s; and no longer than that for an answer that nobody acknowledges, since
/// no probes are sent meanwhile. Over a unix socket they mean nothing.
const VANISHED: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "25000"),
];

/// Locks that PostgreSQL shows for a key, as `pg_try_advisory_lock(bigint)` takes them.
pub(super) const LOCKS_OF_KEY: &str = "
    from pg_catalog.pg_locks l
   where l.locktype = 'advisory' and l.granted and l.objsubid = 1
     and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
     and (l.classid::bigint << 32 | l.objid::bigint) = $1";

/// What the task needs.
#[derive(Debug)]
pub struct LockParts {
    /// Where.
    pub store: Arc<Store>,
    /// Whose session.
    pub client_id: String,
    /// This process.
    pub instance: Uuid,
    /// Who may connect.
    pub leadership: watch::Sender<Leadership>,
    /// Ends it and frees the lock.
    pub stop: CancellationToken,
}

/// Keeps asking for the lock, and holds it once it has it, until `stop`.
pub async fn run(parts: LockParts) {
    let stop = parts.stop.clone();
    let task = WriterLock::new(parts);
    tokio::select! {
        () = stop.cancelled() => {}
        () = task.run() => {}
    }
}

struct WriterLock {
    store: Arc<Store>,
    link: Connector,
    key: i64,
    instance: Uuid,
    leadership: watch::Sender<Leadership>,
}

impl WriterLock {
    fn new(parts: LockParts) -> Self {
        let name = application_name(host_name().as_deref(), parts.instance);
        Self {
            link: parts.store.link.named(&name).with_settings(VANISHED),
            store: parts.store,
            key: key(&parts.client_id),
            instance: parts.instance,
            leadership: parts.leadership,
        }
    }

    async fn run(&self) {
        let mut backoff = Backoff::new(RETRY);
        loop {
            let started = Instant::now();
            let limit = self.link.connect_within();
            let error = match timeout(limit, self.link.open()).await {
                Ok(Ok(mut conn)) => self.stay(&mut conn).await,
                Ok(Err(error)) => error,
                Err(_) => DbError::timed_out(limit),
            };
            self.lost(&error);
            backoff.was_up(started.elapsed());
            let wait = match error.class {
                ErrorClass::Stop | ErrorClass::Unsuitable => RETRY_STOPPED,
                _ => backoff.next(rand::random()),
            };
            idle(tokio::time::sleep(wait)).await;
        }
    }

    /// Asks and holds on one connection, until it fails.
    async fn stay(&self, conn: &mut PgConnection) -> DbError {
        if self.leadership.borrow().holder().is_some() {
            idle(tokio::time::sleep(AFTER_YOU)).await;
        }
        let mut session = match self.begin(conn).await {
            Ok(process) => LockSession { conn, process, held: false },
            Err(error) => return error,
        };
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            idle(look.tick()).await;
            if let Err(error) = self.look(&mut session).await {
                return error;
            }
        }
    }

    /// Makes sure that the connection is a session of its own, by comparing it with another one.
    /// Returns the server process behind it.
    async fn begin(&self, conn: &mut PgConnection) -> Result<i32, DbError> {
        match self.store.acquire().await {
            Ok(mut other) => {
                let proof = prove_sessions(conn, &mut other, ANSWER_WITHIN).await;
                other.finish(proof)?;
            }
            // The looks that follow find it out too, only later.
            Err(error) => tracing::debug!(
                reason = %error,
                "the single-writer lock's connection could not be compared with another one"
            ),
        }
        process(conn, ANSWER_WITHIN).await
    }

    /// Takes the lock, or proves that it is still held.
    async fn look(&self, session: &mut LockSession<'_>) -> Result<(), DbError> {
        if session.held && !self.still_held(session).await? {
            tracing::warn!(
                "the single-writer lock was released although its connection works (by \
                 pg_advisory_unlock_all or DISCARD ALL on it); taking it again"
            );
            session.held = false;
        }
        if !session.held {
            session.held = self.ask(session.conn).await?;
        }
        Ok(())
    }

    /// Returns whether PostgreSQL shows the lock as held by this session.
    async fn still_held(&self, session: &mut LockSession<'_>) -> Result<bool, DbError> {
        let sql = format!(
            "select pg_backend_pid() as process,
                    exists (select {LOCKS_OF_KEY} and l.pid = pg_backend_pid()) as held"
        );
        // Safe: made of constants.
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.key);
        let row = bounded(ANSWER_WITHIN, query.fetch_one(&mut *session.conn)).await?;
        if row.try_get::<i32, _>("process")? != session.process {
            return Err(shared_sessions("the lock's connection has another server process"));
        }
        Ok(row.try_get("held")?)
    }

    /// Whether the lock is ours now.
    async fn ask(&self, conn: &mut PgConnection) -> Result<bool, DbError> {
        let query = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(self.key);
        let held: bool = bounded(ANSWER_WITHIN, query.fetch_one(&mut *conn)).await?;
        if held {
            self.publish(Leadership::Held);
            return Ok(true);
        }
        // Between the two questions the holder may have gone: then the next look takes it.
        match self.holder(conn).await? {
            Some((pid, holder)) if self.is_ours(&holder) => self.end_our_own(conn, pid).await?,
            Some((_, holder)) => self.publish(Leadership::HeldByOther(holder)),
            None => {}
        }
        Ok(false)
    }

    async fn holder(&self, conn: &mut PgConnection) -> Result<Option<(i32, LockHolder)>, DbError> {
        let sql = format!(
            "select held.pid, a.application_name, host(a.client_addr) as address
               from (select l.pid {LOCKS_OF_KEY}) held
               left join pg_catalog.pg_stat_activity a on a.pid = held.pid"
        );
        // Safe: made of constants.
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.key);
        let Some(row) = bounded(ANSWER_WITHIN, query.fetch_optional(conn)).await? else {
            return Ok(None);
        };
        let name: Option<String> = row.try_get("application_name")?;
        let name = name.filter(|name| !name.is_empty());
        let address = row.try_get("address")?;
        Ok(Some((row.try_get("pid")?, LockHolder { name, address })))
    }

    fn is_ours(&self, holder: &LockHolder) -> bool {
        let ours = short(self.instance);
        holder.name.as_deref().is_some_and(|name| name.contains(&ours))
    }

    /// The server has not noticed yet that our last connection is gone: tell it.
    async fn end_our_own(&self, conn: &mut PgConnection, pid: i32) -> Result<(), DbError> {
        let query = sqlx::query("select pg_terminate_backend($1)").bind(pid);
        bounded(ANSWER_WITHIN, query.execute(conn)).await?;
        tracing::info!(
            pid,
            "ended our own lost connection, which still held the single-writer lock"
        );
        Ok(())
    }

    /// The database does not give the lock. One that is away leaves the session as it is, and lets
    /// a process that just starts connect: its broker's queue would overflow. One that answers
    /// keeps such a process from connecting, since another may hold the lock. A process that stood
    /// by goes on doing so: the holder may have lost the same database, and is connected.
    fn lost(&self, error: &DbError) {
        let before = self.leadership.borrow().clone();
        if error.class == ErrorClass::Unsuitable {
            return self.refuse(error);
        }
        match before {
            Leadership::Held => tracing::warn!(
                reason = %error,
                "the connection that holds the single-writer lock broke; keeping the session and \
                 taking the lock again"
            ),
            Leadership::Pending if !error.is_answer() => tracing::warn!(
                reason = %error,
                "the database is away and cannot be asked for the single-writer lock; connecting \
                 to the broker without the lock"
            ),
            Leadership::Pending | Leadership::Refused(_) if error.is_answer() => {
                return self.refuse(error);
            }
            _ => {
                tracing::debug!(reason = %error, "the single-writer lock cannot be asked for");
                return;
            }
        }
        self.publish(Leadership::Unknown);
    }

    fn refuse(&self, error: &DbError) {
        let refused = Leadership::Refused(error.to_string());
        if *self.leadership.borrow() != refused {
            tracing::error!(
                reason = %error,
                "the database answers but does not give the single-writer lock; not connecting to \
                 the broker without it"
            );
        }
        self.publish(refused);
    }

    fn publish(&self, now: Leadership) {
        self.leadership.send_if_modified(|known| {
            let changed = *known != now;
            if changed && now == Leadership::Held {
                tracing::info!("this process holds the single-writer lock on the client id");
            }
            *known = now;
            changed
        });
    }
}

/// The connection that asks and holds.
struct LockSession<'c> {
    conn: &'c mut PgConnection,
    /// The server process behind it, which never changes.
    process: i32,
    /// Whether the lock was given.
    held: bool,
}

/// The lock's key: the same in every version and on every host, or two versions side by side would
/// both connect.
pub(super) fn key(client_id: &str) -> i64 {
    let digest = Sha256::new().chain_update(NAMESPACE).chain_update(client_id).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// How the lock's connection shows in `pg_stat_activity`, and so to a process that stands by.
fn application_name(host: Option<&str>, instance: Uuid) -> String {
    // PostgreSQL cuts at 63 bytes; what tells processes apart must come through.
    const LONGEST_HOST: usize = 30;
    let instance = short(instance);
    let host: String = host
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        .take(LONGEST_HOST)
        .collect();
    if host.is_empty() {
        format!("centiloc-bridge instance {instance}")
    } else {
        format!("centiloc-bridge on {host}, {instance}")
    }
}

/// Enough of the instance to tell processes apart.
fn short(instance: Uuid) -> String {
    let mut text = instance.simple().to_string();
    text.truncate(12);
    text
}

/// The kernel's word, or where `/proc/sys` is hidden, the file's.
fn host_name() -> Option<String> {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_client_id_never_changes() {
        assert_eq!(key("acme-bridge"), PINNED);
        assert_ne!(key("acme-bridge"), key("acme-bridge2"));
    }

    #[test]
    fn the_name_fits_postgresql_and_holds_the_instance() {
        let instance = Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
        for host in [None, Some(""), Some("db-1.example"), Some(&*"h\u{e9}'\"".repeat(40))] {
            let name = application_name(host, instance);
            assert!(name.len() < 64, "{name}");
            assert!(name.is_ascii() && name.ends_with("123456789abc"), "{name}");
        }
    }

    const PINNED: i64 = -4_816_419_315_523_362_268;
}
