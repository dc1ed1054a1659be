//! The admin endpoint: liveness, readiness, metrics and status.

use serde_json::Value;

use crate::support::bridge::{Bridge, command, finish};
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::postgres::Postgres;
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until};

/// Metrics of the contract: name and type.
const METRICS: [(&str, &str); 26] = [
    ("received_total", "counter"),
    ("committed_total", "counter"),
    ("duplicates_total", "counter"),
    ("dead_letters_total", "counter"),
    ("acks_total", "counter"),
    ("unacked", "gauge"),
    ("oldest_unacked_seconds", "gauge"),
    ("commit_seconds", "histogram"),
    ("event_to_commit_seconds", "histogram"),
    ("batch_events", "histogram"),
    ("reconnects_total", "counter"),
    ("connected", "gauge"),
    ("session_present", "gauge"),
    ("standby", "gauge"),
    ("gaps_total", "counter"),
    ("spool_events", "gauge"),
    ("spool_bytes", "gauge"),
    ("spool_max_bytes", "gauge"),
    ("spool_oldest_seconds", "gauge"),
    ("commit_failures_total", "counter"),
    ("database_up", "gauge"),
    ("retention_overdue_seconds", "gauge"),
    ("default_partition_rows_total", "counter"),
    ("log_lines_dropped_total", "counter"),
    ("stage_restarts_total", "counter"),
    ("build_info", "gauge"),
];

/// Waits for a status on a path and returns its JSON.
async fn until_status(bridge: &Bridge, path: &str, expected: u16) -> Value {
    until(&format!("{path} to answer {expected}"), SOON, || async {
        match bridge.get(path).await {
            Ok((status, body)) if status == expected => Ok(body),
            other => Err(other),
        }
    })
    .await
    .parse()
    .unwrap()
}

#[tokio::test]
async fn lost_database_is_unready_with_reason_but_live() {
    let mut postgres = Postgres::own().await;
    let rig = Rig::on(&postgres).await;
    let bridge = Bridge::ready(&rig.config()).await;
    assert_eq!(until_status(&bridge, "/readyz", 200).await["ready"], true);
    assert_eq!(bridge.metric("centiloc_bridge_database_up", "").await, Some(1.0));
    postgres.stop().await;
    // The loss is detected without any traffic.
    let ready = until_status(&bridge, "/readyz", 503).await;
    assert_eq!(ready["ready"], false);
    let obstacles = ready["not_ready"].as_array().unwrap();
    assert_eq!(obstacles.len(), 1, "{ready}");
    assert_eq!(obstacles[0]["part"], "database");
    let problem = obstacles[0]["problem"].as_str().unwrap();
    assert!(problem.contains("PostgreSQL") || problem.contains("SQLSTATE"), "{problem}");
    assert_eq!(until_status(&bridge, "/livez", 200).await["live"], true);
    assert_eq!(bridge.metric("centiloc_bridge_database_up", "").await, Some(0.0));
    postgres.start().await;
    until_status(&bridge, "/readyz", 200).await;
    assert_eq!(bridge.metric("centiloc_bridge_database_up", "").await, Some(1.0));
}

#[tokio::test]
async fn lost_broker_is_unready_with_reason_but_live() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    assert_eq!(bridge.metric("centiloc_bridge_connected", "").await, Some(1.0));
    rig.tap.proxy.refuse().await;
    let ready = until_status(&bridge, "/readyz", 503).await;
    assert_eq!(ready["not_ready"][0]["part"], "session", "{ready}");
    until_status(&bridge, "/livez", 200).await;
    assert_eq!(bridge.metric("centiloc_bridge_connected", "").await, Some(0.0));
    rig.tap.proxy.pass().await;
    until_status(&bridge, "/readyz", 200).await;
}

#[tokio::test]
async fn every_contract_metric_exists_from_start() {
    let rig = Rig::new().await;
    let config = rig.config();
    let spool = config.folder().join("spool");
    let bridge = Bridge::ready(&config.set("spool.dir", spool.to_str().unwrap())).await;
    // The spool is opened concurrently with the subscription.
    let text = until("the spool's metrics", SOON, || async {
        let text = bridge.get("/metrics").await.unwrap().1;
        if text.contains("\ncentiloc_bridge_spool_events ") { Ok(text) } else { Err(text) }
    })
    .await;
    for (name, kind) in METRICS {
        let declared = format!("# TYPE centiloc_bridge_{name} {kind}");
        assert!(text.lines().any(|line| line == declared), "no {declared:?} in\n{text}");
        let sample = match kind {
            "histogram" => format!("centiloc_bridge_{name}_count"),
            _ => format!("centiloc_bridge_{name}"),
        };
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let found = samples.filter_map(|line| line.strip_prefix(&sample));
        let found = found.filter(|rest| rest.starts_with(['{', ' '])).count();
        assert!(found > 0, "no sample {sample} in\n{text}");
    }
}

#[tokio::test]
async fn unknown_metrics_are_absent_until_known() {
    const OPTIONAL: [&str; 7] = [
        "spool_events",
        "spool_bytes",
        "spool_max_bytes",
        "spool_oldest_seconds",
        "last_event_timestamp_seconds",
        "last_commit_timestamp_seconds",
        "newest_gap_age_seconds",
    ];
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    for name in OPTIONAL {
        assert_eq!(bridge.metric(&format!("centiloc_bridge_{name}"), "").await, None, "{name}");
    }
    rig.platform().await.publish_json(&ItemEvent::series(TENANT, 1)).await;
    rig.until_acked(1).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let committed = bridge.metric("centiloc_bridge_last_commit_timestamp_seconds", "").await;
    assert!(committed.is_some_and(|at| (at - now).abs() < 300.0), "{committed:?} at {now}");
    // As an earlier process wrote it. The counter of this one does not include it.
    let gap = "insert into centiloc.gap (client_id, started_at, ended_at, cause, detail)
               values ('acme-bridge', now() - interval '2 h', now() - interval '1 h', 'absence', '')";
    rig.database.execute(gap).await;
    let age = until("the gap's age", SOON, || async {
        bridge.metric("centiloc_bridge_newest_gap_age_seconds", "").await.ok_or(())
    })
    .await;
    assert!((3600.0..4000.0).contains(&age), "{age}");
    assert_eq!(bridge.metric("centiloc_bridge_gaps_total", "").await, Some(0.0));
}

#[tokio::test]
async fn process_metrics_are_exported() {
    let rig = Rig::new().await;
    let bridge = Bridge::ready(&rig.config()).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let started = bridge.metric("process_start_time_seconds", "").await.unwrap();
    assert!((now - 600.0..=now).contains(&started), "{started} at {now}");
    let memory = bridge.metric("process_resident_memory_bytes", "").await.unwrap();
    let ratio = memory / f64::from(u32::try_from(bridge.memory()).unwrap());
    assert!((0.5..2.0).contains(&ratio), "{memory}");
    assert!(bridge.metric("process_cpu_seconds_total", "").await.unwrap() > 0.0);
    let open = bridge.metric("process_open_fds", "").await.unwrap();
    assert!(open > 5.0 && open < bridge.metric("process_max_fds", "").await.unwrap(), "{open}");
}

#[tokio::test]
async fn status_reports_events_as_json_and_page() {
    let rig = Rig::new().await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    rig.platform().await.publish_json(&ItemEvent::series(TENANT, 7)).await;
    rig.until_acked(7).await;
    let status: Value = bridge.get("/api/status").await.unwrap().1.parse().unwrap();
    assert_eq!(status["tenant"], TENANT);
    assert_eq!(status["client_id"], "acme-bridge");
    assert_eq!(status["ready"], true);
    assert_eq!(status["session"]["phase"], "subscribed");
    assert_eq!(status["session"]["filters"].as_array().unwrap().len(), 4);
    assert_eq!(status["figures"]["items_committed"], 7);
    assert!(status["database"]["last_commit_at"].is_string(), "{status}");
    let file = config.write();
    let args = |json: bool| {
        let mut args = vec!["status".as_ref(), "-c".as_ref(), file.as_os_str()];
        args.extend(json.then_some::<&std::ffi::OsStr>("--json".as_ref()));
        command(args)
    };
    let output = finish(args(true)).await;
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["instance"], status["instance"]);
    let output = finish(args(false)).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("✓ Well: "), "{text}");
    assert_eq!(bridge.terminate().await, 0);
    let output = finish(args(false)).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("not running") && said.contains("admin.listen"), "{said}");
}

/// Returns the status page once it shows connections from the database.
async fn last_connection(bridge: &Bridge) -> String {
    until("the last connection", SOON, || async {
        let page = bridge.get("/").await.map_err(|error| error.clone())?.1;
        let rows = page.split_once("Last connections").ok_or("no rows")?.1.to_owned();
        let row = rows.split_once("<tbody><tr>").ok_or(rows.clone())?.1.to_owned();
        Ok::<_, String>(row.split_once("</tr>").ok_or(rows)?.0.to_owned())
    })
    .await
}

#[tokio::test]
async fn only_living_connection_is_shown_as_open() {
    let rig = Rig::new().await;
    let mut bridge = Bridge::ready(&rig.config()).await;
    rig.until_rows("connection", 1).await;
    let row = last_connection(&bridge).await;
    assert!(row.contains(">open<"), "{row}");
    bridge.kill();
    rig.tap.proxy.refuse().await;
    let dead = "update centiloc.connection set last_seen_at = now() - interval '1 minute'";
    rig.database.execute(dead).await;
    bridge.start_again();
    until_status(&bridge, "/livez", 200).await;
    let row = last_connection(&bridge).await;
    assert!(row.contains(">unknown<"), "{row}");
    let alive = "update centiloc.connection set last_seen_at = now()";
    rig.database.execute(alive).await;
    until("the connection of another process", SOON, || async {
        let row = last_connection(&bridge).await;
        if row.contains(">open<") { Ok(()) } else { Err(row) }
    })
    .await;
}
