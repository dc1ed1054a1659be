//! Every query of every dashboard has a result, for the role of dashboards, on a filled database.

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::store::Store;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::support::dashboards::{Choice, Dashboard, Expansion, dashboards, elements};
use crate::support::postgres::Postgres;
use crate::support::questions::GENERATE;
use crate::support::store::config;

const ROLES: &str = include_str!("../../../deploy/postgres/roles.sql");

/// A gap, a connection, an item that has not moved for a month, and a layout with an empty location.
const FURTHER_ROWS: &str = "
    insert into centiloc.item_event
           (momentum, event_id, received_at, tenant, uid, is_in, board_sn, product_reference)
    values (now() - interval '30 days', gen_random_uuid(), now() - interval '30 days', 'T',
            'FORGOTTEN', true, 'B0001', 'P1');
    insert into centiloc.item_state
           (tenant, uid, board_sn, momentum, event_id, received_at, is_in, product_reference,
            first_seen_at, entered_at, last_in_at, last_in_id)
    select tenant, uid, board_sn, momentum, event_id, received_at, is_in, product_reference,
           momentum, momentum, momentum, event_id
      from centiloc.item_event
     where uid = 'FORGOTTEN';
    insert into centiloc.stay_pending (tenants, uids, momenta)
    select array[tenant], array[uid], array[momentum]
      from centiloc.item_event
     where uid = 'FORGOTTEN';
    insert into centiloc.gap (client_id, started_at, ended_at, cause, detail)
    values ('T-bridge', now() - interval '2 hours', now() - interval '1 hour', 'absence', 'away');
    insert into centiloc.connection
           (client_id, instance, connected_at, session_present, filters, last_seen_at)
    values ('T-bridge', gen_random_uuid(), now() - interval '1 hour', true, '{}', now());
    insert into centiloc.layout_shelf (tenant, shelf_sn) values ('T', 'SPARE');
    insert into centiloc.layout_board (tenant, board_sn, shelf_sn) values ('T', 'B9999', 'SPARE');
    insert into centiloc.layout_location (tenant, loc_reference, shelf_sn)
    values ('T', 'EMPTY', 'SPARE');";

/// Returns a session of the role of dashboards, and the server, which ends when it is dropped.
async fn reader() -> (Postgres, PgConnection) {
    let postgres = Postgres::own().await;
    let db = postgres.database().await;
    let store = Store::new(&config(&db.socket_url()), PartitionSpan::Month).unwrap();
    store.migrate().await.unwrap();
    let script =
        format!("\\set each 200\n\\set tags 100\n\\set boards 30\n{GENERATE}{FURTHER_ROWS}");
    postgres.psql("postgres", db.name(), &script).unwrap();
    store.compute_all_stays().await.unwrap();
    store.compute_all_rollups().await.unwrap();
    while store.learn_usual_intervals(20).await.unwrap() > 0 {}
    postgres.psql("postgres", db.name(), ROLES).unwrap();
    let mut connection = db.connect().await.unwrap();
    connection.execute("vacuum analyze").await.unwrap();
    connection.execute("set role centiloc_reader").await.unwrap();
    (postgres, connection)
}

/// Runs all queries of a dashboard, and returns the places of those without a result.
async fn run(dashboard: &Dashboard, expansion: &Expansion, db: &mut PgConnection) -> Vec<String> {
    let mut empty = Vec::new();
    for query in dashboard.sql_queries() {
        let sql = expansion.expand(&query.text);
        let rows = db.fetch_all(AssertSqlSafe(sql.clone())).await;
        let rows = rows.unwrap_or_else(|error| panic!("{}: {error}\n{sql}", query.place));
        if rows.is_empty() {
            empty.push(query.place);
        }
    }
    empty
}

#[tokio::test]
async fn every_query_of_dashboards_has_a_result() {
    let (_postgres, mut db) = reader().await;
    let mut count = 0;
    for dashboard in dashboards() {
        let mut expansion = Expansion::of(&dashboard, &mut db, Choice::All).await;
        assert_eq!(run(&dashboard, &expansion, &mut db).await, [""; 0]);
        count += dashboard.sql_queries().len();
        for variable in dashboard.variables().iter().filter(|variable| variable["type"] == "custom")
        {
            let name = variable["name"].as_str().unwrap();
            for option in elements(&variable["options"]) {
                expansion.set(name, option["value"].as_str().unwrap());
                assert_eq!(run(&dashboard, &expansion, &mut db).await, [""; 0], "{name} {option}");
            }
        }
    }
    assert!(count > 30, "{count}");
}

#[tokio::test]
async fn dashboards_accept_any_choice_and_text() {
    let (_postgres, mut db) = reader().await;
    for dashboard in dashboards() {
        let mut expansion = Expansion::of(&dashboard, &mut db, Choice::First).await;
        run(&dashboard, &expansion, &mut db).await;
        let variables = dashboard.variables();
        for variable in variables.iter().filter(|variable| variable["type"] == "query") {
            let name = variable["name"].as_str().unwrap();
            for text in ["'; select 1 / 0 --", "", "%\\"] {
                expansion.set(name, text);
                run(&dashboard, &expansion, &mut db).await;
            }
        }
        expansion.set("item", "' or '1' = '1");
        run(&dashboard, &expansion, &mut db).await;
    }
}

#[tokio::test]
async fn search_finds_items_by_each_name() {
    let (_postgres, mut db) = reader().await;
    let dashboard = dashboards().into_iter().find(|dashboard| dashboard.name == "where").unwrap();
    let query = dashboard.sql_queries().into_iter().find(|q| q.place.contains("Items: ")).unwrap();
    let mut expansion = Expansion::of(&dashboard, &mut db, Choice::All).await;
    let mut rows = async |item: &str| {
        expansion.set("item", item);
        db.fetch_all(AssertSqlSafe(expansion.expand(&query.text))).await.unwrap().len()
    };
    assert_eq!(rows("").await, 101);
    assert_eq!(rows("e00400000000002a").await, 1);
    assert_eq!(rows("2a00000000000").await, 1, "bytes in reverse order");
    assert_eq!(rows("P42").await, 1);
    assert_eq!(rows("nothing").await, 0);
}
