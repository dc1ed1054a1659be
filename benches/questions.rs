//! Measures the questions of dashboards on a filled database: the median of each, next to the query
//! over the views that were there before stays were rows. Then measures the queries of the panels of
//! `deploy/grafana`, as the role of dashboards. EVENTS sets the number of item events, ROUNDS the
//! number of runs of each statement. With `DASHBOARDS_ONLY` the questions are left out.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot go on says so")]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use centiloc_bridge::config::PartitionSpan;
use centiloc_bridge::store::Store;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use support::dashboards::{Choice, Expansion, dashboards};
use support::database::Database;
use support::postgres::Postgres;
use support::questions::{GENERATE, Question, questions};
use support::store::{STAYS_BY_WINDOWS, config};

const FORMER_VIEWS: &str = include_str!("questions/former_views.sql");
const ROLES: &str = include_str!("../deploy/postgres/roles.sql");

const TAGS: u64 = 5_000;
const BOARDS: u64 = 200;

/// A server with memory for what is asked often, as is usual for a database of this size.
const SETTINGS: [&str; 5] = [
    "shared_buffers = 512MB",
    "maintenance_work_mem = 256MB",
    "max_wal_size = 4GB",
    "fsync = off",
    "autovacuum = off",
];

fn main() {
    // `cargo test --benches` only checks that it builds and starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(bench(setting("EVENTS", 1_000_000), setting("ROUNDS", 7)));
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn bench(events: u64, rounds: u64) {
    let postgres = Postgres::own_with(&SETTINGS).await;
    let database = fill(&postgres, events).await;
    let mut connection = database.connect().await.unwrap();
    if std::env::var_os("DASHBOARDS_ONLY").is_none() {
        measure_questions(&mut connection, rounds).await;
    }
    postgres.psql("postgres", database.name(), ROLES).unwrap();
    connection.execute("set role centiloc_reader").await.unwrap();
    measure_dashboards(&mut connection, rounds).await;
}

/// Measures the questions, each next to the statement that answered it before.
async fn measure_questions(connection: &mut PgConnection, rounds: u64) {
    println!("{:<45} {:>10} {:>10} {:>10}", "median, ms", "limit", "now", "before");
    for Question { name, limit, now, before } in questions() {
        let now = median(connection, now, rounds).await;
        let before = match before {
            // One run of a query that reads all events takes long enough.
            Some(sql) => format!("{:.1}", median(connection, sql, rounds.min(3)).await),
            None => String::new(),
        };
        println!("{name:<45} {limit:>10} {now:>10.1} {before:>10}");
    }
}

/// Measures the queries of all panels, with all values of the variables and with the first of each.
async fn measure_dashboards(connection: &mut PgConnection, rounds: u64) {
    println!("\n{:<60} {:>10} {:>10}", "dashboards, median, ms", "all", "first");
    for dashboard in dashboards() {
        let all = Expansion::of(&dashboard, connection, Choice::All).await;
        let first = Expansion::of(&dashboard, connection, Choice::First).await;
        for query in dashboard.sql_queries() {
            let all = median(connection, &all.expand(&query.text), rounds).await;
            let first = median(connection, &first.expand(&query.text), rounds).await;
            println!("{:<60} {all:>10.1} {first:>10.1}", query.place);
        }
    }
}

async fn fill(postgres: &Postgres, events: u64) -> Database {
    let started = Instant::now();
    let database = postgres.database().await;
    let store = Store::new(&config(&database.socket_url()), PartitionSpan::Month).unwrap();
    store.migrate().await.unwrap();
    let each = events / TAGS / 4 * 4;
    let script = format!(
        "\\set each {each}\n\\set tags {TAGS}\n\\set boards {BOARDS}\n{GENERATE}
         {FORMER_VIEWS}
         create view former.item_stay as {STAYS_BY_WINDOWS}"
    );
    postgres.psql("postgres", database.name(), &script).unwrap();
    println!("{} item events stored in {}", each * TAGS, seconds(started));
    let started = Instant::now();
    compute_stays(&store).await;
    println!("stays computed in {}", seconds(started));
    let started = Instant::now();
    match store.compute_all_rollups().await {
        Ok(()) => println!("sums computed in {}", seconds(started)),
        Err(error) => println!("sums not complete: {error}"),
    }
    let started = Instant::now();
    while store.learn_usual_intervals(20).await.unwrap() > 0 {}
    println!("usual intervals learned in {}", seconds(started));
    postgres.psql("postgres", database.name(), "vacuum analyze").unwrap();
    database
}

/// Computes all stays in rounds that a slow machine ends before the time limit of a statement.
async fn compute_stays(store: &Store) {
    const EVENTS_OF_ROUND: i64 = 10_000;
    while store.compute_stays(EVENTS_OF_ROUND).await.unwrap().pending > 0 {}
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

/// Runs a statement once for nothing, then measures it.
async fn median(connection: &mut PgConnection, sql: &str, rounds: u64) -> f64 {
    let mut times = Vec::new();
    for _ in 0..=rounds {
        let started = Instant::now();
        connection.fetch_all(AssertSqlSafe(sql.to_owned())).await.unwrap();
        times.push(started.elapsed());
    }
    let mut times: Vec<Duration> = times.split_off(1);
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}
