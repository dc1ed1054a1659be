//! Backups. A database that is dumped, restored and written to loses nothing in the dump and
//! doubles nothing. Messages acknowledged after the dump are a gap.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::bridge::Bridge;
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::postgres::{Postgres, program};
use crate::support::process::run_command;
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until, until_eq};

const GAPS: &str = "select cause from centiloc.gap";
const POSITION: &str = "select position from centiloc.journal_position";
const PARTITIONS: &str = "select inhrelid::regclass || ' ' || pg_get_expr(relpartbound, inhrelid)
                            from pg_inherits join pg_class on oid = inhrelid
                           where inhparent = 'centiloc.item_event'::regclass";

fn tool(name: &str, postgres: &Postgres) -> Command {
    let mut command = Command::new(program(name));
    command.env("LC_ALL", "C").arg("--host").arg(&postgres.address().socket_dir);
    command.args(["--port", &postgres.port().to_string(), "--username=postgres"]);
    command
}

fn dump(postgres: &Postgres, database: &Database, file: &Path) {
    let mut dump = tool("pg_dump", postgres);
    run_command(dump.arg("--format=custom").arg("--file").arg(file).arg(database.name()));
}

fn restore(postgres: &Postgres, database: &str, file: &Path) {
    let mut restore = tool("pg_restore", postgres);
    run_command(restore.arg("--exit-on-error").arg("--dbname").arg(database).arg(file));
}

/// Creates ten events that no other call returns.
fn batch(name: &str) -> Vec<ItemEvent> {
    let renamed = |event: ItemEvent| ItemEvent { uid: format!("{name}-{}", event.uid), ..event };
    ItemEvent::series(TENANT, 10).into_iter().map(renamed).collect()
}

fn uids(batches: &[&[ItemEvent]]) -> BTreeSet<String> {
    batches.iter().flat_map(|batch| batch.iter().map(|event| event.uid.clone())).collect()
}

async fn stored(database: &Database) -> BTreeSet<String> {
    let rows = database.column::<String>("select uid from centiloc.item_event").await;
    let distinct: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), distinct.len(), "an event is there twice");
    distinct
}

/// A bridge between a broker and a server of its own, with a state directory.
struct RestoreFixture {
    postgres: Postgres,
    rig: Rig,
    config: Config,
    bridge: Bridge,
    acked: usize,
}

impl RestoreFixture {
    async fn begin() -> Self {
        let postgres = Postgres::own().await;
        let rig = Rig::on(&postgres).await;
        let config = Self::config(&rig);
        let bridge = Self::start(&config).await;
        Self { postgres, rig, config, bridge, acked: 0 }
    }

    /// Configures no spool, so that an acknowledgement follows the commit.
    fn config(rig: &Rig) -> Config {
        rig.config().set("spool.dir", "")
    }

    async fn start(config: &Config) -> Bridge {
        let folder = config.folder().path().to_str().unwrap().to_owned();
        let mut bridge = Bridge::start_with(config, &[("STATE_DIRECTORY", &folder)]);
        bridge.until_ready().await;
        bridge
    }

    /// Publishes events and an undecodable message, and waits until all are acknowledged.
    async fn publish(&mut self, events: &[ItemEvent]) {
        let platform = self.rig.platform().await;
        platform.publish_json(events).await;
        let garbage = format!("not JSON {}", events[0].uid);
        assert!(platform.publish(&events[0].json_topic(), garbage).await);
        self.acked += events.len() + 1;
        self.rig.until_acked(self.acked).await;
    }

    /// Stops the bridge regularly, and starts it on a new server with the content of the dump.
    async fn move_to(&mut self, server: &Postgres, file: &Path) -> Database {
        let database = server.database().await;
        restore(server, database.name(), file);
        let config = std::mem::replace(&mut self.config, Self::config(&self.rig));
        self.config = config.set("database.url", database.url());
        self.bridge = Self::start(&self.config).await;
        database
    }
}

#[tokio::test]
async fn restored_dump_records_its_loss() {
    let mut drill = RestoreFixture::begin().await;
    let (before, lost, after) = (batch("BEFORE"), batch("LOST"), batch("AFTER"));
    drill.publish(&before).await;
    let file = drill.config.folder().join("dump");
    dump(&drill.postgres, &drill.rig.database, &file);
    drill.publish(&lost).await;
    assert_eq!(drill.bridge.terminate().await, 0);
    let server = Postgres::own().await;
    let restored = drill.move_to(&server, &file).await;
    drill.publish(&after).await;
    assert_eq!(stored(&restored).await, uids(&[&before, &after]));
    assert_eq!(restored.count("centiloc.item_state").await, 20);
    // The missing events lie within the one gap.
    assert_eq!(restored.column::<String>(GAPS).await, ["database_restored"]);
    let bounds =
        "select format('started_at <= %L and ended_at >= %L', min(received_at), max(received_at))
                    from centiloc.item_event where uid like 'LOST%'";
    let bounds: String = drill.rig.database.value(bounds).await;
    assert!(
        restored.value::<bool>(&format!("select {bounds} from centiloc.gap")).await,
        "{bounds}"
    );
    // Identity columns continue after the restored rows, and partitions are as they were.
    let ids = "select array_agg(id order by received_at) = '{1,2}' from centiloc.dead_letter";
    assert!(restored.value::<bool>(ids).await);
    let partitions = async |database: &Database| -> BTreeSet<String> {
        database.column(PARTITIONS).await.into_iter().collect()
    };
    // A bridge that ended soon may not have made those of the coming months.
    let (made, earlier) = (partitions(&restored).await, partitions(&drill.rig.database).await);
    assert!(made.is_superset(&earlier), "{made:?} instead of {earlier:?}");
    assert_eq!(restored.count("centiloc.item_event_default").await, 0);
    let owner = "select distinct relowner::regrole::text from pg_class
                  where relnamespace = 'centiloc'::regnamespace";
    assert_eq!(restored.column::<String>(owner).await, ["bridge"]);
    drill.rig.tap.assert_no_violation();
}

#[tokio::test]
async fn lossless_move_makes_no_gap() {
    let mut drill = RestoreFixture::begin().await;
    let (before, after) = (batch("BEFORE"), batch("AFTER"));
    drill.publish(&before).await;
    assert_eq!(drill.bridge.terminate().await, 0);
    let file = drill.config.folder().join("dump");
    dump(&drill.postgres, &drill.rig.database, &file);
    let server = Postgres::own().await;
    let moved = drill.move_to(&server, &file).await;
    drill.publish(&after).await;
    assert_eq!(stored(&moved).await, uids(&[&before, &after]));
    assert_eq!(moved.column::<String>(GAPS).await, [""; 0]);
}

#[tokio::test]
async fn restore_under_running_bridge_is_gap() {
    let mut drill = RestoreFixture::begin().await;
    let (before, lost, after) = (batch("BEFORE"), batch("LOST"), batch("AFTER"));
    drill.publish(&before).await;
    let file = drill.config.folder().join("dump");
    dump(&drill.postgres, &drill.rig.database, &file);
    let database = drill.rig.database.clone();
    let dumped: i64 = database.value(POSITION).await;
    drill.publish(&lost).await;
    until("the next position", SOON, || async {
        let now: i64 = database.value(POSITION).await;
        (now > dumped).then_some(()).ok_or(now)
    })
    .await;
    let name = database.name();
    drill.postgres.execute(&format!("drop database {name} with (force)")).await;
    drill
        .postgres
        .execute(&format!("create database {name} owner bridge template template0"))
        .await;
    restore(&drill.postgres, name, &file);
    drill.publish(&after).await;
    assert_eq!(database.column::<String>(GAPS).await, ["database_restored"]);
    assert_eq!(stored(&database).await, uids(&[&before, &after]));
    let labels = "cause=\"database_restored\"";
    until_eq("the metric", SOON, Some(1), || {
        drill.bridge.count("centiloc_bridge_gaps_total", labels)
    })
    .await;
    drill.rig.tap.assert_no_violation();
}
