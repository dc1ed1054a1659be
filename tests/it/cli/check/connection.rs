//! The connection to the database: addresses, poolers, certificates, limits, and connection strings
//! as providers write them.

use super::database::postgres_with_tls;
use super::{CheckFixture, FAILED, FaultCase, assert_table, check, good};
use crate::database::poolers::pretend_cockroachdb;
use crate::support::bridge::{Bridge, command, finish};
use crate::support::mosquitto::Mosquitto;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Postgres, ROLE};
use crate::support::process::free_port;

#[tokio::test]
async fn bracketed_ipv6_address_is_reached() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // a machine without IPv6
    }
    let broker = Mosquitto::start().await;
    let postgres = Postgres::own_with(&["listen_addresses = '127.0.0.1, ::1'"]).await;
    let database = postgres.database().await;
    let url = database.url().replace("127.0.0.1", "[::1]");
    let outcome = check(&good(&broker, &database).set("database.url", url)).await;
    let address = format!("at [::1]:{} as role", postgres.port());
    assert!(outcome.ok("database_connection").contains(&address), "{outcome:#?}");
    assert_eq!(outcome.troubles(), []);
}

#[tokio::test]
async fn unsuitable_poolers_and_servers_are_named() {
    let fixture = CheckFixture::new().await;
    let postgres = Postgres::shared().await;
    let session = PgBouncer::start(postgres, &["pool_mode = session"]).await;
    let transaction = PgBouncer::start(postgres, &["pool_mode = transaction"]).await;
    let pretended = postgres.database().await;
    pretend_cockroachdb(&pretended).await;
    let through = |pooler: &PgBouncer| {
        fixture.config().set("database.url", fixture.database.url_at(pooler.port()))
    };
    assert_eq!(check(&through(&session)).await.troubles(), []);
    assert_table(vec![
        FaultCase {
            what: "PgBouncer with transaction pooling",
            config: through(&transaction),
            lines: &[("database_sessions", FAILED, "shares its server connections")],
        },
        FaultCase {
            what: "CockroachDB",
            config: good(&fixture.broker, &pretended),
            lines: &[("database_connection", FAILED, "the server is CockroachDB")],
        },
    ])
    .await;
}

#[tokio::test]
async fn untrusted_certificates_and_unreadable_files_are_named() {
    let broker = Mosquitto::start().await;
    let (postgres, _folder) = postgres_with_tls(&broker).await;
    let database = postgres.database().await;
    let with = |query: &str| {
        let url = format!("{}?{query}", database.url());
        good(&broker, &database).set("database.url", url)
    };
    let ca = broker.ca_file().display().to_string();
    assert_eq!(check(&with(&format!("sslmode=require&sslrootcert={ca}"))).await.troubles(), []);
    assert_table(vec![
        FaultCase {
            what: "an authority that is not known",
            config: with("sslmode=verify-full"),
            lines: &[("database_connection", FAILED, "its certificate is not trusted")],
        },
        FaultCase {
            what: "only the system's authorities",
            config: with("sslrootcert=system"),
            lines: &[("database_connection", FAILED, "its certificate is not trusted")],
        },
        FaultCase {
            what: "sslrootcert that does not exist",
            config: with("sslmode=verify-full&sslrootcert=/nowhere/ca.pem"),
            lines: &[(
                "database_connection",
                FAILED,
                "could not read sslrootcert of database.url /nowhere/ca.pem",
            )],
        },
    ])
    .await;
}

#[tokio::test]
async fn tls_verifies_name_of_chosen_address() {
    let broker = Mosquitto::start().await;
    let (postgres, _folder) = postgres_with_tls(&broker).await;
    let database = postgres.database().await;
    let ca = broker.ca_file().display().to_string();
    let named = |name: &str| {
        let query = format!("hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={ca}");
        let url = format!("{}?{query}", database.url().replacen("127.0.0.1", name, 1));
        good(&broker, &database).set("database.url", url)
    };
    let outcome = check(&named("localhost")).await;
    assert_eq!(outcome.troubles(), [], "{outcome:#?}");
    assert!(outcome.ok("database_tls").starts_with("TLSv1.3"), "{outcome:#?}");
    let bridge = Bridge::ready(&named("localhost")).await;
    bridge.until_logged(&["this process holds the single-writer lock"]).await;
    assert_table(vec![FaultCase {
        what: "a name that is not in the certificate",
        config: named("db.example.com"),
        lines: &[("database_connection", FAILED, "its certificate is for another host name")],
    }])
    .await;
}

#[tokio::test]
async fn next_host_is_tried_and_standbys_skipped() {
    let fixture = CheckFixture::new().await;
    let port = Postgres::shared().await.port();
    let url = fixture.database.url_at(free_port());
    let several = url.replacen("127.0.0.1", &format!("127.0.0.1:{},127.0.0.1", free_port()), 1);
    let (hosts, rest) = several.rsplit_once('/').unwrap();
    let both = format!("{hosts},127.0.0.1:{port}/{rest}?connect_timeout=10");
    let outcome = check(&fixture.config().set("database.url", both)).await;
    assert_eq!(outcome.troubles(), [], "{outcome:#?}");
    let read_only = Postgres::shared().await.database().await;
    let name = read_only.name();
    let set = format!("alter database {name} set default_transaction_read_only = on");
    read_only.execute(&set).await;
    let url = format!("{}?target_session_attrs=read-write", read_only.url());
    let all_dead = format!("{hosts}/{rest}");
    assert_table(vec![
        FaultCase {
            what: "no host that takes writes",
            config: good(&fixture.broker, &read_only).set("database.url", url),
            lines: &[("database_connection", FAILED, "takes no writes")],
        },
        FaultCase {
            what: "no host that answers",
            config: fixture.config().set("database.url", all_dead),
            lines: &[("database_connection", FAILED, "no host of database.url can be used")],
        },
    ])
    .await;
}

#[tokio::test]
async fn libpq_variables_are_ignored() {
    let fixture = CheckFixture::new().await;
    let config = fixture.config();
    let mut bridge = Bridge::start_with(
        &config,
        &[("PGHOST", "nowhere.invalid"), ("PGPASSWORD", "wrong"), ("PGSSLROOTCERT", "/nowhere")],
    );
    bridge.until_ready().await;
    bridge.until_logged(&["PGHOST", "PGPASSWORD", "ignored"]).await;
    let file = config.write();
    let mut refused = command(["config".as_ref(), "-c".as_ref(), file.as_os_str()]);
    refused.env("PGOPTIONS", "-c work_mem=1MB");
    let output = finish(refused).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("PGOPTIONS"), "{output:?}");
}

#[tokio::test]
async fn first_start_needs_three_connections() {
    let broker = Mosquitto::start().await;
    let postgres = Postgres::own().await;
    let database = postgres.database().await;
    postgres.execute(&format!("alter role {ROLE} connection limit 3")).await;
    let config = good(&broker, &database).set("database.max_connections", 3);
    assert_eq!(check(&config).await.troubles(), []);
    let bridge = Bridge::ready(&config).await;
    assert_eq!(bridge.log().count("53300"), 0);
}

#[tokio::test]
async fn connection_limit_and_need_are_named() {
    let broker = Mosquitto::start().await;
    let postgres = Postgres::own().await;
    let (database, limited) = (postgres.database().await, postgres.database().await);
    let name = limited.name();
    postgres.execute(&format!("alter database {name} connection limit 1")).await;
    let of_database = good(&broker, &limited);
    assert_table(vec![FaultCase {
        what: "a database with one connection",
        config: of_database,
        lines: &[("database_sessions", FAILED, "too many connections for database")],
    }])
    .await;
    postgres.execute(&format!("alter role {ROLE} connection limit 2")).await;
    let config = good(&broker, &database);
    assert_table(vec![FaultCase {
        what: "a role with two connections",
        config: config.set("database.max_connections", 5),
        lines: &[(
            "database_connections",
            FAILED,
            "the role may have 2 connections, and the service uses 5",
        )],
    }])
    .await;
    postgres.execute(&format!("alter role {ROLE} connection limit 0")).await;
    let bridge = Bridge::start(&good(&broker, &database));
    let line = bridge.until_logged(&["ERROR", "does not give the single-writer lock"]).await;
    assert!(line.contains("alter role") && line.contains("uses 4 connections"), "{line}");
}
