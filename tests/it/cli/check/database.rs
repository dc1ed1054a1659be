//! Faults of the database, its schema and the role.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

use super::{CheckFixture, FAILED, FaultCase, OK, WARNING, assert_table, check, good};
use crate::support::bridge::{command, finish};
use crate::support::config::Config;
use crate::support::database::Database;
use crate::support::mosquitto::Mosquitto;
use crate::support::postgres::{Postgres, ROLE};
use crate::support::process::{ScratchFolder, free_port};
use crate::support::proxy::{Direction, TcpProxy};

async fn migrated(fixture: &CheckFixture) -> Database {
    migrated_in(Postgres::shared().await, fixture).await
}

async fn migrated_in(postgres: &Postgres, fixture: &CheckFixture) -> Database {
    let database = postgres.database().await;
    migrate(&good(&fixture.broker, &database)).await;
    database
}

async fn migrate(config: &Config) {
    let file = config.write();
    let output = finish(command(["migrate".as_ref(), "-c".as_ref(), file.as_os_str()])).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn each_reason_for_no_connection_is_reported() {
    let fixture = CheckFixture::new().await;
    let url = |url: String| fixture.config().set("database.url", url);
    let wrong = url::Url::parse(&fixture.database.url()).unwrap();
    let (mut password, mut name) = (wrong.clone(), wrong);
    password.set_password(Some("wrong")).unwrap();
    name.set_path("nowhere");
    assert_table(vec![
        FaultCase {
            what: "no server on the port",
            config: url(fixture.database.url_at(free_port())),
            lines: &[("database_connection", FAILED, "could not reach PostgreSQL")],
        },
        FaultCase {
            what: "wrong password",
            config: url(password.into()),
            lines: &[("database_connection", FAILED, "SQLSTATE 28P01")],
        },
        FaultCase {
            what: "no such database",
            config: url(name.into()),
            lines: &[("database_connection", FAILED, "SQLSTATE 3D000")],
        },
    ])
    .await;
}

#[tokio::test]
async fn silent_database_is_bounded_and_hides_no_check() {
    let fixture = CheckFixture::new().await;
    let proxy = TcpProxy::to(Postgres::shared().await.port()).await;
    proxy.stall(Direction::Down).await;
    let config = fixture.config().set("database.url", fixture.database.url_at(proxy.port()));
    let started = Instant::now();
    let outcome = check(&config.set("mqtt.connect_timeout", "2s")).await;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(outcome.troubles(), [("database_connection", FAILED)]);
    assert!(outcome.lines("database_connection")[0].1.contains("within 2 s"), "{outcome:#?}");
    assert_eq!(outcome.lines("subscription").len(), 4);
}

#[tokio::test]
async fn wrong_encoding_and_read_only_database_fail() {
    let fixture = CheckFixture::new().await;
    let latin1 = Postgres::shared().await.database_with("encoding 'LATIN1'").await;
    let read_only = Postgres::shared().await.database().await;
    let name = read_only.name();
    let set = format!("alter database {name} set default_transaction_read_only = on");
    read_only.execute(&set).await;
    assert_table(vec![
        FaultCase {
            what: "encoding LATIN1",
            config: good(&fixture.broker, &latin1),
            lines: &[("database_encoding", FAILED, "encoding is LATIN1")],
        },
        FaultCase {
            what: "read-only server",
            config: good(&fixture.broker, &read_only),
            lines: &[("database_writable", FAILED, "read-only")],
        },
    ])
    .await;
}

#[tokio::test]
async fn pending_altered_and_newer_schemas_are_distinguished() {
    let fixture = CheckFixture::new().await;
    let (newer, altered) = (migrated(&fixture).await, migrated(&fixture).await);
    newer
        .execute(
            "insert into centiloc._sqlx_migrations
             select 9999, 'future', now(), true, checksum, 0 from centiloc._sqlx_migrations limit 1",
        )
        .await;
    altered.execute("update centiloc._sqlx_migrations set checksum = 'x' where version = 1").await;
    assert_table(vec![
        FaultCase {
            what: "migrations pending and database.migrate false",
            config: fixture.config().set("database.migrate", false),
            lines: &[("database_schema", FAILED, "migrations are pending")],
        },
        FaultCase {
            what: "schema of a newer program",
            config: good(&fixture.broker, &newer),
            lines: &[("database_schema", FAILED, "has version 9999, newer than version")],
        },
        FaultCase {
            what: "a migration that was edited",
            config: good(&fixture.broker, &altered),
            lines: &[("database_schema", FAILED, "migration 1 in the database differs")],
        },
    ])
    .await;
}

/// Creates a migrated database owned by the superuser, in which the role has the privileges of
/// `grants`. In a cluster of the test's own, because REASSIGN OWNED affects every database of the
/// role.
async fn owned_by_another(postgres: &Postgres, fixture: &CheckFixture, grants: &str) -> Database {
    let database = migrated_in(postgres, fixture).await;
    let name = database.name();
    database
        .execute(&format!(
            "alter database {name} owner to postgres; reassign owned by {ROLE} to postgres; {grants}"
        ))
        .await;
    database
}

#[tokio::test]
async fn each_missing_privilege_names_its_grant() {
    const ALL: &str =
        "grant select, insert, update, delete on all tables in schema centiloc to bridge";
    const USAGE: &str = "grant usage on schema centiloc to bridge";
    let fixture = CheckFixture::new().await;
    let postgres = Postgres::own().await;
    let fresh = postgres.database().await;
    fresh.execute(&format!("alter database {} owner to postgres", fresh.name())).await;
    let no_usage = owned_by_another(&postgres, &fixture, "").await;
    let no_gap = format!("{USAGE}; {ALL}; revoke insert on centiloc.gap from bridge");
    let no_gap = owned_by_another(&postgres, &fixture, &no_gap).await;
    let no_delete = format!("{USAGE}; {ALL}; revoke delete on centiloc.connection from bridge");
    let no_delete = owned_by_another(&postgres, &fixture, &no_delete).await;
    let no_owner = owned_by_another(&postgres, &fixture, &format!("{USAGE}; {ALL}")).await;
    let config = |database: &Database| good(&fixture.broker, database);
    assert_table(vec![
        FaultCase {
            what: "a role that may not make the schema",
            config: config(&fresh),
            lines: &[("database_rights", FAILED, "may not create what the migrations create")],
        },
        FaultCase {
            what: "a role that may not use the schema",
            config: config(&no_usage),
            lines: &[("database_rights", FAILED, "may not use schema centiloc")],
        },
        FaultCase {
            what: "a role that may not write gaps",
            config: config(&no_gap),
            lines: &[
                ("database_rights", FAILED, "lacks insert on gap"),
                ("database_partitions", WARNING, "the role may not create one"),
            ],
        },
        FaultCase {
            what: "a role that may not delete old connections",
            config: config(&no_delete),
            lines: &[
                ("database_rights", WARNING, "lacks delete on connection"),
                ("database_partitions", WARNING, "the role may not create one"),
            ],
        },
        FaultCase {
            what: "a role that owns no table",
            config: config(&no_owner),
            lines: &[("database_partitions", WARNING, "the role may not create one")],
        },
    ])
    .await;
}

#[tokio::test]
async fn default_partition_rows_get_warning() {
    let fixture = CheckFixture::new().await;
    let database = migrated(&fixture).await;
    let config = good(&fixture.broker, &database);
    assert_eq!(check(&config).await.troubles(), []);
    database
        .execute(
            "insert into centiloc.item_event (momentum, event_id, received_at, tenant, uid, is_in)
             values ('1999-01-01', gen_random_uuid(), now(), 'acme', 'u', true)",
        )
        .await;
    assert_table(vec![FaultCase {
        what: "an event without a partition",
        config,
        lines: &[("database_partitions", WARNING, "1 events are in item_event_default")],
    }])
    .await;
}

/// Starts a server with a certificate of the broker's authority. Returns it with the folder that
/// holds the certificate.
pub async fn postgres_with_tls(broker: &Mosquitto) -> (Postgres, ScratchFolder) {
    let folder = ScratchFolder::new("pg-tls");
    let (cert, key) = broker.authority().server().write(&folder, "server");
    // PostgreSQL accepts a key owned by root if only its own group may read it.
    let mut postgres = Postgres::own_with(&[
        "ssl = off",
        &format!("ssl_cert_file = '{}'", cert.display()),
        &format!("ssl_key_file = '{}'", key.display()),
    ])
    .await;
    let data = folder.join("owner");
    postgres.own_folder(&data);
    let owner = std::fs::metadata(&data).unwrap();
    for file in [&cert, &key] {
        chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    postgres.execute("alter system set ssl = on").await;
    postgres.stop().await;
    postgres.start().await;
    (postgres, folder)
}

#[tokio::test]
async fn database_tls_version_is_reported() {
    let broker = Mosquitto::start().await;
    let (postgres, _folder) = postgres_with_tls(&broker).await;
    let database = postgres.database().await;
    let url = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        database.url(),
        broker.ca_file().display()
    );
    let outcome = check(&good(&broker, &database).set("database.url", url)).await;
    assert_eq!(outcome.lines("database_tls")[0].0, OK, "{outcome:#?}");
    assert!(outcome.ok("database_tls").starts_with("TLSv1.3, TLS_"), "{outcome:#?}");
    assert_eq!(outcome.troubles(), []);
    let wrong = good(&broker, &database).set("database.url", database.url_at(postgres.port()));
    assert!(check(&wrong).await.ok("database_tls").starts_with("TLSv1.3"), "sslmode prefer");
    let socket = good(&broker, &database).set("database.url", database.socket_url());
    assert_eq!(check(&socket).await.ok("database_tls"), "not needed on a unix socket");
}
