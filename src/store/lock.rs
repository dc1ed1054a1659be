//! The single writer: a session-level advisory lock on the client id, held on a connection of its
//! own for as long as the process runs. PostgreSQL frees it when that connection ends, so a process
//! that is gone cannot keep it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Store;
use super::connection::connector::Connector;
use super::connection::session_proof::{prove_sessions, server_process, shared_sessions};
use super::error::{DbError, ErrorClass};
use super::query::Db;
use crate::backoff::Backoff;
use crate::config::BackoffBounds;
use crate::progress::idle;
use crate::service::leadership::{Leadership, LockHolder};

/// Sets our keys apart from those of other programs in the same database.
const NAMESPACE: &str = "centiloc-bridge single writer of client id ";

/// Interval of checks. It bounds the time until a holder notices that its connection broke, and until
/// a standby takes over.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time limit of a check. The lock's connection does nothing else, so a server that takes longer is
/// overloaded or gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds of the wait before a database that is away is tried again. Short: until it answers, two
/// processes may hold the client id.
const RETRY: BackoffBounds =
    BackoffBounds { min: Duration::from_millis(500), max: Duration::from_secs(5) };

/// Wait after an error that requires operator action: credentials, database name.
const RETRY_STOPPED: Duration = Duration::from_secs(10);

/// Wait of a standby when the database is back, so that the last holder takes the lock first: it is
/// connected to the broker, and a takeover would interrupt the events for nothing.
const STANDBY_GRACE: Duration = Duration::from_secs(3);

/// Settings with which the server notices that the holder's host is gone: probes after 10 s of silence,
/// every 5 s, three times, so 25 s. The same limit holds for an unacknowledged reply, since no probes
/// are sent meanwhile. They have no effect on a unix socket.
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

/// Inputs and outputs of the task.
#[derive(Debug)]
pub struct LockParts {
    /// The database.
    pub store: Arc<Store>,
    /// The client id to lock.
    pub client_id: String,
    /// The instance id of this process.
    pub instance: Uuid,
    /// The published state of the lock.
    pub leadership: watch::Sender<Leadership>,
    /// Ends the task and frees the lock.
    pub stop: CancellationToken,
}

/// Tries to take the lock, and then holds it, until `stop`.
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
    connector: Connector,
    key: i64,
    instance: Uuid,
    leadership: watch::Sender<Leadership>,
}

impl WriterLock {
    fn new(parts: LockParts) -> Self {
        let name = application_name(host_name().as_deref(), parts.instance);
        Self {
            connector: parts.store.connector.named(&name).with_settings(VANISHED),
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
            let limit = self.connector.connect_within();
            let error = match timeout(limit, self.connector.open()).await {
                Ok(Ok(db)) => self.hold(&mut db.with_timeout(ANSWER_TIMEOUT)).await,
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

    /// Takes and holds the lock on one connection, until it fails.
    async fn hold(&self, db: &mut Db) -> DbError {
        if self.leadership.borrow().holder().is_some() {
            idle(tokio::time::sleep(STANDBY_GRACE)).await;
        }
        let mut session = match self.begin(db).await {
            Ok(process) => LockSession { db, process, held: false },
            Err(error) => return error,
        };
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            idle(ticks.tick()).await;
            if let Err(error) = self.check(&mut session).await {
                return error;
            }
        }
    }

    /// Makes sure that the connection is a session of its own, by comparing it with another one.
    /// Returns the server process behind it.
    async fn begin(&self, db: &mut Db) -> Result<i32, DbError> {
        match self.store.acquire().await {
            Ok(mut other) => {
                let proof = prove_sessions(db, &mut other).await;
                other.finish(proof)?;
            }
            // The checks that follow detect a shared session too, only later.
            Err(error) => tracing::debug!(
                %error,
                "the single-writer lock's connection could not be compared with another one"
            ),
        }
        server_process(db).await
    }

    /// Takes the lock, or verifies that it is still held.
    async fn check(&self, session: &mut LockSession<'_>) -> Result<(), DbError> {
        if session.held && !self.still_held(session).await? {
            tracing::warn!(
                "the single-writer lock was released although its connection works (by \
                 pg_advisory_unlock_all or DISCARD ALL on it); taking it again"
            );
            session.held = false;
        }
        if !session.held {
            session.held = self.try_lock(session.db).await?;
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
        let row = session.db.query(|conn| query.fetch_one(conn)).await?;
        if row.try_get::<i32, _>("process")? != session.process {
            return Err(shared_sessions("the lock's connection has another server process"));
        }
        Ok(row.try_get("held")?)
    }

    /// Tries to take the lock. Returns true if it is ours now.
    async fn try_lock(&self, db: &mut Db) -> Result<bool, DbError> {
        let query = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(self.key);
        let held: bool = db.query(|conn| query.fetch_one(conn)).await?;
        if held {
            self.publish(Leadership::Held);
            return Ok(true);
        }
        // The holder may go between the two queries: then the next check takes the lock.
        match self.holder(db).await? {
            Some((pid, holder)) if self.is_ours(&holder) => self.end_our_own(db, pid).await?,
            Some((_, holder)) => self.publish(Leadership::HeldByOther(holder)),
            None => {}
        }
        Ok(false)
    }

    async fn holder(&self, db: &mut Db) -> Result<Option<(i32, LockHolder)>, DbError> {
        let sql = format!(
            "select held.pid, a.application_name, host(a.client_addr) as address
               from (select l.pid {LOCKS_OF_KEY}) held
               left join pg_catalog.pg_stat_activity a on a.pid = held.pid"
        );
        // Safe: made of constants.
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.key);
        let Some(row) = db.query(|conn| query.fetch_optional(conn)).await? else {
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

    /// Terminates our last connection, which the server has not noticed to be gone.
    async fn end_our_own(&self, db: &mut Db, pid: i32) -> Result<(), DbError> {
        let query = sqlx::query("select pg_terminate_backend($1)").bind(pid);
        db.query(|conn| query.execute(conn)).await?;
        tracing::info!(
            pid,
            "terminated our stale backend, which still held the single-writer lock"
        );
        Ok(())
    }

    /// Handles a failure to take or check the lock. While the database is unreachable the session stays
    /// as it is, and a starting process may connect: its broker's queue would overflow. If the database
    /// answers, a starting process may not connect, since another may hold the lock. A standby stays
    /// one: the holder may have lost the same database, and is connected.
    fn lost(&self, error: &DbError) {
        let before = self.leadership.borrow().clone();
        if error.class == ErrorClass::Unsuitable {
            return self.refuse(error);
        }
        match before {
            Leadership::Held => tracing::warn!(
                %error,
                "the connection that holds the single-writer lock broke; keeping the session and \
                 taking the lock again"
            ),
            Leadership::Pending if !error.is_answer() => tracing::warn!(
                %error,
                "database unreachable: cannot check the single-writer lock; connecting to the broker \
                 without it"
            ),
            Leadership::Pending | Leadership::Refused(_) if error.is_answer() => {
                return self.refuse(error);
            }
            _ => {
                tracing::debug!(%error, "could not check the single-writer lock; retrying");
                return;
            }
        }
        self.publish(Leadership::Unknown);
    }

    fn refuse(&self, error: &DbError) {
        let refused = Leadership::Refused(error.to_string());
        if *self.leadership.borrow() != refused {
            tracing::error!(
                %error,
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

/// The connection that takes and holds the lock.
struct LockSession<'c> {
    db: &'c mut Db,
    /// The server process behind it, which never changes.
    process: i32,
    /// True once the lock was granted.
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

/// Returns the name of the lock's connection in `pg_stat_activity`, which a standby reports.
fn application_name(host: Option<&str>, instance: Uuid) -> String {
    // PostgreSQL cuts names at 63 bytes. The part that distinguishes processes must be kept.
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

/// Returns the first part of the instance id, which distinguishes processes.
fn short(instance: Uuid) -> String {
    let mut text = instance.simple().to_string();
    text.truncate(12);
    text
}

/// Returns the host name from the kernel or, if `/proc/sys` is hidden, from the file.
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
