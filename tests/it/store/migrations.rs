//! Migrations: applied once, compared with the program, and possible without.

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::event::EventKind;
use centiloc_bridge::store::schema::MigrationError;
use centiloc_bridge::store::{Store, StoreError};

use crate::support::database::Database;
use crate::support::postgres::Postgres;
use crate::support::store::{STAYS_BY_WINDOWS, StoreFixture, arrives, config, of_item};

#[tokio::test]
async fn everything_lives_in_schema_centiloc() {
    let fixture = StoreFixture::new().await;
    let elsewhere = "select count(*) from pg_class c join pg_namespace n on n.oid = relnamespace
                      where nspname not in ('centiloc', 'pg_catalog', 'information_schema', 'pg_toast')";
    assert_eq!(fixture.db.value::<i64>(elsewhere).await, 0);
    let steps = fixture.store.schema_status().await.unwrap();
    assert!(steps.iter().all(|s| s.applied_at.is_some()));
    assert!(fixture.store.migrate().await.unwrap().is_empty(), "nothing is applied twice");
}

#[tokio::test]
async fn empty_database_lists_all_migrations_pending() {
    let db = Postgres::shared().await.database().await;
    let store = Store::new(&config(&db.url()), PartitionSpan::Month).unwrap();
    let steps = store.schema_status().await.unwrap();
    assert!(!steps.is_empty() && steps.iter().all(|s| s.applied_at.is_none()));
    assert!(!db.value::<bool>("select to_regnamespace('centiloc') is not null").await);
    let error = store.prepare_schema(false).await.unwrap_err();
    assert!(matches!(error, MigrationError::Behind { .. }), "{error}");
    assert!(error.to_string().contains("centiloc-bridge migrate"));
}

#[tokio::test]
async fn concurrent_processes_apply_each_migration_once() {
    let db = Postgres::shared().await.database().await;
    let store = || Store::new(&config(&db.socket_url()), PartitionSpan::Month).unwrap();
    let (a, b, c) = (store(), store(), store());
    let (a, b, c) = tokio::join!(a.migrate(), b.migrate(), c.migrate());
    for result in [a, b, c] {
        result.unwrap();
    }
    let steps = store().schema_status().await.unwrap();
    assert_eq!(db.count("centiloc._sqlx_migrations").await, i64::try_from(steps.len()).unwrap());
}

#[tokio::test]
async fn newer_schema_is_refused() {
    let fixture = StoreFixture::new().await;
    fixture
        .db
        .execute(
            "insert into centiloc._sqlx_migrations
                    (version, description, success, checksum, execution_time)
             values (9999, 'future', true, '\\x00', 0)",
        )
        .await;
    for migrate in [true, false] {
        let error = fixture.store.prepare_schema(migrate).await.unwrap_err();
        assert!(matches!(error, MigrationError::Newer { found: 9999, .. }), "{error}");
    }
}

#[tokio::test]
async fn edited_migration_is_detected() {
    let fixture = StoreFixture::new().await;
    fixture
        .db
        .execute("update centiloc._sqlx_migrations set checksum = '\\x00' where version = 2")
        .await;
    let error = fixture.store.prepare_schema(true).await.unwrap_err();
    assert_eq!(error, MigrationError::Changed { version: 2 });
}

#[tokio::test]
async fn role_with_row_privileges_can_run() {
    let fixture = StoreFixture::new().await;
    fixture.store.make_partitions_ahead(time::OffsetDateTime::now_utc()).await.unwrap();
    fixture
        .db
        .execute(
            "create role reader_writer login;
             grant usage on schema centiloc to reader_writer;
             grant select, insert, update, delete on all tables in schema centiloc to reader_writer;",
        )
        .await;
    let url = fixture.db.socket_url().replace("user=bridge", "user=reader_writer");
    let store = Store::new(&config(&url), PartitionSpan::Month).unwrap();
    store.prepare_schema(true).await.unwrap();
    let event = crate::support::store::item("U", "A", time::OffsetDateTime::now_utc(), true);
    assert_eq!(store.commit(&[of_item(event)]).await.unwrap().of(EventKind::Item).inserted, 1);
    store.compute_all_stays().await.unwrap();
    assert_eq!(fixture.db.count("centiloc.item_stay").await, 1);
}

/// Applies the migrations of versions in a range as plain SQL.
async fn apply(db: &Database, versions: std::ops::RangeInclusive<u32>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        if versions.contains(&name[..4].parse().unwrap()) {
            db.execute(&std::fs::read_to_string(&file).unwrap()).await;
        }
    }
}

#[tokio::test]
async fn upgrade_computes_stays_of_old_events() {
    let db = Postgres::shared().await.database().await;
    db.execute("create schema centiloc authorization bridge; create role upgrade_reader").await;
    apply(&db, 1..=12).await;
    db.execute(
        "grant usage on schema centiloc to upgrade_reader;
         grant select on centiloc.item_state to upgrade_reader;
         insert into centiloc.item_event
                (momentum, event_id, received_at, tenant, uid, is_in, board_sn)
         select timestamptz '2025-03-10' + (n * 7919 % 300) * interval '1 minute',
                md5(n::text)::uuid, timestamptz '2025-03-11', 'T', 'U' || n % 23, n * 31 % 5 < 3,
                (array['A', 'B', 'C', null])[1 + n * 17 % 4]
           from generate_series(1, 1500) n;
         insert into centiloc.item_state
                (tenant, uid, board_sn, momentum, event_id, received_at, is_in, first_seen_at)
         select distinct on (tenant, uid, board_sn)
                tenant, uid, coalesce(board_sn, ''), momentum, event_id, received_at, is_in,
                min(momentum) over (partition by tenant, uid, board_sn)
           from centiloc.item_event
          order by tenant, uid, board_sn, momentum desc, event_id desc",
    )
    .await;
    apply(&db, 13..=u32::MAX).await;
    db.execute("grant all on all tables in schema centiloc to bridge").await;
    let wrong = "select count(*)
           from centiloc.item_state s
           left join lateral (
                select momentum, event_id
                  from centiloc.item_event e
                 where is_in and e.uid = s.uid and coalesce(e.board_sn, '') = s.board_sn
                 order by momentum desc, event_id desc
                 limit 1) newest on true
          where (s.last_in_at, s.last_in_id) is distinct from (newest.momentum, newest.event_id)";
    assert_eq!(db.value::<i64>(wrong).await, 0);
    let store = Store::new(&config(&db.socket_url()), PartitionSpan::Month).unwrap();
    store.compute_all_stays().await.unwrap();
    let stay = "uid, board_sn, entered_at, left_at";
    let different = format!(
        "((select {stay} from centiloc.item_stay except all
           select {stay} from ({STAYS_BY_WINDOWS}) w) union all
          (select {stay} from ({STAYS_BY_WINDOWS}) w except all
           select {stay} from centiloc.item_stay)) d"
    );
    assert_eq!(db.count(&different).await, 0);
    assert!(db.count("centiloc.item_stay").await > 100);
    let may_read =
        "select has_table_privilege('upgrade_reader', 'centiloc.item_stay_progress', 'select')
                       and not has_table_privilege('upgrade_reader', 'centiloc.stay', 'insert')";
    assert!(db.value::<bool>(may_read).await);
}

#[tokio::test]
async fn every_table_view_and_column_is_documented() {
    let fixture = StoreFixture::new().await;
    let bare = "select c.relname || coalesce('.' || a.attname, '')
          from pg_class c
          join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'centiloc'
          left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               and c.relkind <> 'v'
         where c.relkind in ('r', 'p', 'v') and c.relname <> '_sqlx_migrations'
           and not (c.relispartition and a.attnum is not null)
           and (obj_description(c.oid, 'pg_class') is null
                or a.attnum is not null and col_description(c.oid, a.attnum) is null)";
    assert_eq!(fixture.db.column::<String>(bare).await, Vec::<String>::new());
}

#[tokio::test]
async fn missing_schema_stops_stream_with_hint() {
    let db = Postgres::shared().await.database().await;
    let store = Store::new(&config(&db.socket_url()), PartitionSpan::Month).unwrap();
    let error = store.commit(&[of_item(arrives("U", "A", 1))]).await.unwrap_err();
    assert!(matches!(error, StoreError::Stop(_)), "{error}");
    assert!(error.to_string().contains("centiloc-bridge migrate"), "{error}");
}

#[test]
fn wrong_url_is_refused_without_showing_password() {
    let mut config = config("postgres://u@localhost/db");
    config.url = "postgres://u:secret@host:port/db".to_owned().into();
    let error = Store::new(&config, PartitionSpan::Month);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("database.url") && !error.contains("secret"), "{error}");
}
