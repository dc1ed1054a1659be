//! The environment of most tests: a broker, a database, and a tap between broker and bridge. In
//! addition a table lock, which holds a commit back for as long as a test needs.

use std::sync::Arc;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::Mutex;

use super::bridge::Bridge;
use super::config::Config;
use super::database::Database;
use super::event::ItemEvent;
use super::mosquitto::{BrokerBuilder, Mosquitto};
use super::postgres::Postgres;
use super::publisher::TestPublisher;
use super::tap::{MqttTap, Publish};
use super::wait::{SOON, until, until_eq};

/// A broker and a database, with a tap in front of the broker's plain listener.
pub struct Rig {
    pub broker: Mosquitto,
    /// The bridge's database.
    pub database: Database,
    /// The tap checks every acknowledgement: see [`Rig::assert_promises_kept`].
    pub tap: MqttTap,
}

impl Rig {
    /// Creates an environment on the shared cluster.
    pub async fn new() -> Self {
        Self::on(Postgres::shared().await).await
    }

    /// Creates an environment on a cluster owned by the test.
    pub async fn on(postgres: &Postgres) -> Self {
        Self::with(Mosquitto::builder(), postgres).await
    }

    /// Creates an environment with a broker of other settings.
    pub async fn with(builder: BrokerBuilder, postgres: &Postgres) -> Self {
        let (broker, database) = tokio::join!(builder.start(), postgres.database());
        Self::around(broker, database).await
    }

    /// Creates an environment around an existing broker and database.
    pub async fn around(broker: Mosquitto, database: Database) -> Self {
        let tap = MqttTap::to(broker.plain_port()).await;
        Self { broker, database, tap }
    }

    /// Returns a configuration that connects through the tap.
    pub fn config(&self) -> Config {
        Config::new(&self.broker, &self.database).plain(self.tap.proxy.port())
    }

    /// Connects a publisher as the platform.
    pub async fn platform(&self) -> TestPublisher {
        TestPublisher::connect(&self.broker).await
    }

    /// Waits until a relation of schema `centiloc` has that many rows.
    pub async fn until_rows(&self, relation: &str, rows: usize) {
        let relation = format!("centiloc.{relation}");
        let rows = i64::try_from(rows).unwrap();
        until_eq(&format!("{rows} rows in {relation}"), SOON, rows, || {
            self.database.count(&relation)
        })
        .await;
    }

    /// Waits until that many PUBACKs have reached the broker.
    pub async fn until_acked(&self, pubacks: usize) {
        until_eq(&format!("{pubacks} PUBACKs"), SOON, pubacks, || async { self.tap.pubacks() })
            .await;
    }

    /// Waits until the broker has delivered that many messages, redeliveries included.
    pub async fn until_delivered(&self, messages: usize) {
        until_eq(&format!("{messages} deliveries"), SOON, messages, || async {
            self.tap.publishes().len()
        })
        .await;
    }

    /// Waits until each of these events, of different tags, is in exactly one row and acknowledged.
    /// Asserts that there is nothing else: no other row, no dead letter, no broken promise.
    pub async fn until_kept(&self, events: &[ItemEvent]) {
        self.until_rows("item_event", events.len()).await;
        until_eq("the un-acknowledged messages", SOON, 0, || async { self.tap.unacked() }).await;
        let stored = "select uid from centiloc.item_event order by uid collate \"C\"";
        let mut expected: Vec<&str> = events.iter().map(|event| event.uid.as_str()).collect();
        expected.sort_unstable();
        assert_eq!(self.database.column::<String>(stored).await, expected);
        self.until_rows("item_state", events.len()).await;
        let blamed = "select concat_ws(' ', reason, sqlstate, detail) from centiloc.dead_letter";
        assert_eq!(self.database.column::<String>(blamed).await, [""; 0], "no row is at fault");
        self.assert_promises_kept().await;
    }

    /// Asserts the invariants of every moment: acknowledgements in order of receipt, each for a
    /// message delivered on its connection, and every event stored once.
    pub async fn assert_promises_kept(&self) {
        self.tap.assert_no_violation();
        for table in ["item_event", "board_event"] {
            let twice =
                format!("(select event_id from centiloc.{table} group by 1 having count(*) > 1) t");
            assert_eq!(self.database.count(&twice).await, 0, "an event is in {table} twice");
        }
    }
}

/// A database session that looks up delivered messages, as a check for [`MqttTap::checking`]. The
/// bridge must run with `decode.keep_payload = "always"`.
#[derive(Clone)]
pub struct RowLookup {
    database: Database,
    /// Opened at the first lookup, on the runtime of the tap.
    session: Arc<Mutex<Option<PgConnection>>>,
}

impl RowLookup {
    /// Creates a check without a session yet.
    pub fn of(database: &Database) -> Self {
        Self { database: database.clone(), session: Arc::default() }
    }

    /// True if the message is in exactly one row.
    pub async fn sees(self, publish: Publish) -> Result<(), String> {
        const SQL: &str = "select (select count(*) from centiloc.item_event where payload = $1) \
                                + (select count(*) from centiloc.board_event where payload = $1) \
                                + (select count(*) from centiloc.dead_letter where payload = $1)";
        let mut session = self.session.lock().await;
        if session.is_none() {
            *session = Some(self.database.connect().await.map_err(|e| e.to_string())?);
        }
        let session = session.as_mut().expect("opened above");
        let rows = sqlx::query_scalar::<_, i64>(SQL).bind(&publish.payload).fetch_one(session);
        match rows.await.map_err(|e| e.to_string())? {
            1 => Ok(()),
            rows => {
                let payload = String::from_utf8_lossy(&publish.payload);
                Err(format!("{rows} rows when PUBACK left for {payload:?} of {}", publish.topic))
            }
        }
    }
}

/// Waits until a new bridge has created its startup partitions. Locking tables earlier would
/// conflict with that.
pub async fn until_settled_in(database: &Database) {
    const PARTITIONS: &str = "pg_inherits where inhparent = 'centiloc.item_event'::regclass";
    until_eq("the partitions ahead", SOON, 4, || database.count(PARTITIONS)).await;
}

/// A table locked by another session. Every writer to it waits.
pub struct TableLock {
    session: PgConnection,
    table: String,
}

impl TableLock {
    /// Locks `centiloc.<table>` of a settled bridge, so that only writes wait afterwards.
    pub async fn take(database: &Database, table: &str) -> Self {
        until_settled_in(database).await;
        let mut session = database.connect().await.expect("could not connect to lock a table");
        let sql = format!("begin; lock table centiloc.{table} in access exclusive mode");
        run(&mut session, &sql).await;
        Self { session, table: format!("centiloc.{table}") }
    }

    /// Waits until a session waits for the table.
    pub async fn until_waited_for(&mut self) {
        const WAITERS: &str = "select count(*) from pg_locks where not granted and relation = \
                               $1::regclass and database = (select oid from pg_database where \
                               datname = current_database())";
        const ACTIVITY: &str = "select concat_ws(' ', state, wait_event, left(query, 80)) from \
                                pg_stat_activity where datname = current_database()";
        let (session, table) = (Mutex::new(&mut self.session), &self.table);
        until(&format!("someone to wait for {table}"), SOON, || async {
            let mut session = session.lock().await;
            // Within one transaction the activity view would otherwise not change.
            run(&mut session, "select pg_stat_clear_snapshot()").await;
            let waiters = sqlx::query_scalar::<_, i64>(WAITERS).bind(table);
            if waiters.fetch_one(&mut **session).await.unwrap() > 0 {
                return Ok(());
            }
            let activity = sqlx::query_scalar::<_, String>(ACTIVITY);
            Err(activity.fetch_all(&mut **session).await.unwrap())
        })
        .await;
    }

    /// Lets the waiting sessions proceed.
    pub async fn release(mut self) {
        run(&mut self.session, "rollback").await;
        self.session.close().await.expect("could not end the session that held a lock");
    }
}

async fn run(session: &mut PgConnection, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(session).await.expect("could not lock or unlock a table");
}

/// Returns a counter of the bridge, 0 while it is absent.
pub async fn counter(bridge: &Bridge, name: &str, labels: &str) -> f64 {
    bridge.metric(&format!("centiloc_bridge_{name}"), labels).await.unwrap_or(0.0)
}
