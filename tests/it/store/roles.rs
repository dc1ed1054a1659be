//! The roles of `deploy/postgres/roles.sql`: the service as writer, dashboards as reader.

use std::time::Duration;

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::store::Store;
use centiloc_bridge::store::maintenance::UpkeepOutcome;
use time::OffsetDateTime;

use crate::support::bridge::Bridge;
use crate::support::database::Database;
use crate::support::event;
use crate::support::mosquitto::{Mosquitto, TENANT};
use crate::support::postgres::Postgres;
use crate::support::process::ScratchFolder;
use crate::support::questions::{GENERATE, questions};
use crate::support::rig::Rig;
use crate::support::store::{arrives, at, board, config, malformed, of_board, of_item};
use crate::support::wait::{SOON, until_eq};

const ROLES: &str = include_str!("../../../deploy/postgres/roles.sql");

/// A server with a migrated database and the roles. Roles belong to a server, not to a database.
struct Roles {
    postgres: Postgres,
    db: Database,
}

impl Roles {
    async fn new() -> Self {
        let postgres = Postgres::own().await;
        let db = postgres.database().await;
        let roles = Self { postgres, db };
        assert!(roles.set_up().unwrap_err().contains("centiloc-bridge migrate"));
        roles.store("bridge").migrate().await.unwrap();
        for _ in 0..2 {
            roles.set_up().unwrap();
        }
        roles
    }

    fn set_up(&self) -> Result<String, String> {
        self.postgres.psql("postgres", self.db.name(), ROLES)
    }

    fn url(&self, role: &str) -> String {
        self.db.socket_url().replace("user=bridge", &format!("user={role}"))
    }

    fn store(&self, role: &str) -> Store {
        Store::new(&config(&self.url(role)), PartitionSpan::Month).unwrap()
    }

    fn run(&self, role: &str, sql: &str) -> Result<String, String> {
        self.postgres.psql(role, self.db.name(), sql)
    }

    /// Asserts that PostgreSQL denies a statement to a role.
    fn assert_denied(&self, role: &str, sql: &str) {
        let outcome = self.run(role, sql);
        let denied = ["permission denied", "must be owner", "must be superuser"];
        let text = outcome.expect_err(sql);
        assert!(denied.iter().any(|reason| text.contains(reason)), "{sql}: {text}");
    }
}

#[tokio::test]
async fn service_runs_as_writer() {
    let roles = Roles::new().await;
    let rig = Rig::around(Mosquitto::start().await, roles.db.clone()).await;
    let config = rig
        .config()
        .set("database.url", roles.url("centiloc_writer"))
        .set("database.migrate", false)
        .set("retention.events", "400days");
    let mut bridge = Bridge::ready(&config).await;
    let now = OffsetDateTime::now_utc();
    rig.platform().await.publish_json(&[event::ItemEvent::new(TENANT, "U", "A", now)]).await;
    rig.until_rows("item_stay", 1).await;
    until_eq("the silent boards", SOON, Some(0.0), || {
        bridge.metric("centiloc_bridge_boards_silent", "")
    })
    .await;
    assert_eq!(bridge.terminate().await, 0);
    assert_eq!(roles.db.count("centiloc.item_event_default").await, 0, "it made partitions");
    for denied in ["permission denied", "must be owner"] {
        assert_eq!(bridge.log().find(&[denied]), None);
    }
}

#[tokio::test]
async fn writer_makes_moves_and_drops_partitions() {
    let roles = Roles::new().await;
    let store = roles.store("centiloc_writer");
    store.prepare_schema(false).await.unwrap();
    store.commit(&[of_item(arrives("U", "A", 1)), malformed(b"?")]).await.unwrap();
    // As by an earlier version, or while partitions could not be made.
    let misplaced = "insert into centiloc.item_event
                         (momentum, event_id, received_at, tenant, uid, is_in)
                     values (timestamptz '2024-01-05', gen_random_uuid(), now(), 'T', 'V', true)";
    roles.run("centiloc_writer", misplaced).unwrap();
    while store.make_partitions_ahead(at(0)).await.unwrap() != UpkeepOutcome::Done {}
    let partitions =
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
                       where inhparent = 'centiloc.item_event'::regclass
                         and pg_get_userbyid(relowner) = 'centiloc_writer'";
    let made: Vec<String> = roles.db.column(partitions).await;
    for name in ["item_event_default", "item_event_y2024m01", "item_event_y2025m03"] {
        assert!(made.iter().any(|made| made == name), "{name} of {made:?}");
    }
    assert_eq!(roles.db.count("only centiloc.item_event_default").await, 0);
    store.compute_all_stays().await.unwrap();
    let kept = Duration::from_secs(86_400);
    let deleted = store.delete_expired(Some(kept), at(100 * 86_400)).await.unwrap();
    assert!(deleted.problems.is_empty(), "{deleted:?}");
    assert!(deleted.partitions >= 2, "{deleted:?}");
}

#[tokio::test]
async fn writer_may_do_no_more_than_run_does() {
    let roles = Roles::new().await;
    for sql in [
        "delete from centiloc.item_state",
        "delete from centiloc.gap",
        "delete from centiloc.known_value",
        "truncate centiloc.stay",
        "drop table centiloc.board_event",
        "alter table centiloc.item_state add column x text",
        "create or replace view centiloc.item_stay as select 1",
        "update centiloc._sqlx_migrations set success = true",
        "select * from centiloc.erasure",
        "create schema other",
        "create role other",
    ] {
        roles.assert_denied("centiloc_writer", sql);
    }
    // The owner still migrates.
    roles.run("bridge", "alter table centiloc.item_event add column later text").unwrap();
    roles.run("bridge", "create table centiloc.later (x int)").unwrap();
    roles.run("centiloc_writer", "insert into centiloc.later values (1)").unwrap();
    roles.run("centiloc_reader", "select * from centiloc.later").unwrap();
}

#[tokio::test]
async fn reader_sees_everything_but_payloads() {
    let roles = Roles::new().await;
    let reader =
        |sql: &str| roles.run("centiloc_reader", sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    // Nothing fails while there are no events.
    for question in questions() {
        reader(question.now);
    }
    let script = format!("\\set each 20\n\\set tags 20\n\\set boards 3\n{GENERATE}");
    roles.postgres.psql("postgres", roles.db.name(), &script).unwrap();
    roles.store("centiloc_writer").compute_all_stays().await.unwrap();
    let mut asked = String::new();
    for question in questions() {
        reader(question.now);
        asked.push_str(question.now);
    }
    for sql in [
        "select * from centiloc.movement_rate('1 hour')",
        "select centiloc.visible_labels(array['a']), centiloc.uid_reversed('E004')",
        "select * from centiloc.stays_since('T', 'B0001', '-infinity')",
        "select centiloc.is_plausible(now(), now()), centiloc.dwell_bucket(1)",
        "select centiloc.check_argument(true, '')",
        "select momentum, uid, extra from centiloc.item_event",
        "select count(*) from centiloc.board_event",
        "select * from centiloc.changes_since(0)",
    ] {
        reader(sql);
        asked.push_str(sql);
    }
    let functions =
        "select proname::text from pg_proc where pronamespace = 'centiloc'::regnamespace";
    for name in roles.db.column::<String>(functions).await {
        assert!(asked.contains(&format!("centiloc.{name}(")), "{name} is not asked");
    }
    let views = "select relname::text from pg_class
                  where relnamespace = 'centiloc'::regnamespace and relkind = 'v'";
    for name in roles.db.column::<String>(views).await {
        reader(&format!("select * from centiloc.{name}"));
    }
}

#[tokio::test]
async fn reader_sees_no_payloads_and_changes_nothing() {
    let roles = Roles::new().await;
    roles.store("centiloc_writer").commit(&[of_item(arrives("U", "A", 1))]).await.unwrap();
    for sql in [
        "select payload from centiloc.item_event",
        "select * from centiloc.item_event",
        "select payload from centiloc.item_event_y2025m03",
        "select count(*) from centiloc.item_event_default",
        "select payload from centiloc.board_event",
        "select reason from centiloc.dead_letter",
        "set default_transaction_read_only = off; delete from centiloc.stay",
        "set default_transaction_read_only = off; create table centiloc.x (x int)",
    ] {
        roles.assert_denied("centiloc_reader", sql);
    }
}

/// The owner runs commands such as `archive restore`, and default privileges of its tables are for the
/// reader.
#[tokio::test]
async fn partitions_of_owner_belong_to_writer() {
    let roles = Roles::new().await;
    for maker in ["bridge", "postgres"] {
        let store = roles.store(maker);
        store.commit(&[of_item(arrives("U", "A", 1))]).await.unwrap();
        store.compute_all_stays().await.unwrap();
        let folder = ScratchFolder::new("archive");
        let (day, now) = (Duration::from_secs(86_400), OffsetDateTime::now_utc());
        let outcome = store.archive_expired(day, folder.path(), now).await.unwrap();
        assert_eq!((outcome.files, outcome.problems), (1, Vec::new()), "{maker}");
        let file = "item_event_2025-03-01_2025-04-01.csv.gz";
        let restored = store.restore(&folder.join(file), &mut |_| ()).await.unwrap();
        assert_eq!(restored.inserted, 1, "{maker}");
        assert!(store.release(file).await.unwrap());
        store.make_partitions_ahead(at(0)).await.unwrap();
        let others = "select c.oid::regclass::text from pg_class c
                       where c.relnamespace = 'centiloc'::regnamespace
                         and c.relname like 'item\\_event%'
                         and c.relkind in ('r', 'p')
                         and (relowner <> 'centiloc_writer'::regrole
                              or has_table_privilege('centiloc_reader', c.oid, 'select'))";
        assert_eq!(roles.db.column::<String>(others).await, Vec::<String>::new(), "{maker}");
    }
}

#[tokio::test]
async fn writer_archives_and_restores_events() {
    let roles = Roles::new().await;
    let writer = roles.store("centiloc_writer");
    writer.commit(&[of_item(arrives("U", "A", 1)), of_item(arrives("V", "A", 2))]).await.unwrap();
    writer.commit(&[of_board(board("A", 1, "CONNECTED"))]).await.unwrap();
    writer.compute_all_stays().await.unwrap();
    let folder = ScratchFolder::new("archive");
    let (day, now) = (Duration::from_secs(86_400), OffsetDateTime::now_utc());
    let outcome = writer.archive_expired(day, folder.path(), now).await.unwrap();
    assert_eq!((outcome.files, outcome.problems), (2, Vec::new()));
    let file = folder.join("item_event_2025-03-01_2025-04-01.csv.gz");
    assert_eq!(writer.restore(&file, &mut |_| ()).await.unwrap().inserted, 2);
}
