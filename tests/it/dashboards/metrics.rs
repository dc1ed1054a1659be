//! A Prometheus that scrapes the bridge and loads the shipped rules: it knows every metric of rules
//! and dashboards.

use std::collections::BTreeSet;
use std::process::Command;

use time::OffsetDateTime;

use crate::support::bridge::{Bridge, get};
use crate::support::config::Config;
use crate::support::dashboards::{Dashboard, dashboards};
use crate::support::event::ItemEvent;
use crate::support::mosquitto::TENANT;
use crate::support::process::{Process, ScratchFolder, free_port};
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until};

const RULES: [&str; 2] = [
    include_str!("../../../deploy/prometheus/recording.yml"),
    include_str!("../../../deploy/prometheus/alerts.yml"),
];

/// A Prometheus that scrapes one target every second.
struct Prometheus {
    port: u16,
    process: Process,
    _folder: ScratchFolder,
}

impl Prometheus {
    fn start(target: u16) -> Self {
        let folder = ScratchFolder::new("prometheus");
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/*.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\n\
             scrape_configs:\n- job_name: centiloc-bridge\n  static_configs:\n  \
             - targets: ['127.0.0.1:{target}']\n"
        );
        let file = folder.write("prometheus.yml", config);
        let port = free_port();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start("prometheus", &mut command, "KILL");
        Self { port, process, _folder: folder }
    }

    /// Waits until an instant query has a result.
    async fn until_result(&mut self, place: &str, expression: &str) {
        self.process.assert_running();
        let query: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let path = format!("/api/v1/query?query={query}");
        until(&format!("a result of {place}: {expression}"), SOON, || async {
            match get(self.port, &path).await {
                Ok((200, body)) if body.contains("\"result\":[{") => Ok(()),
                answer => Err(answer),
            }
        })
        .await;
    }
}

/// Returns the names in the expressions of the rules that begin like a metric of the bridge.
fn metrics_of_rules() -> BTreeSet<&'static str> {
    let expressions = RULES.iter().flat_map(|rules| rules.lines());
    let expressions = expressions.filter_map(|line| line.trim_start().strip_prefix("expr: "));
    let words = expressions
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c)));
    words.filter(|w| w.starts_with("centiloc_bridge_") || w.starts_with("process_")).collect()
}

/// Returns a bridge with each optional metric: a spool, a certificate, an open gap, a lost
/// connection and a committed event.
async fn eventful_bridge(rig: &mut Rig, config: &Config) -> Bridge {
    let mut bridge = Bridge::ready(config).await;
    let client = format!("{TENANT}-bridge");
    let gap = format!(
        "insert into centiloc.gap (client_id, started_at, cause, detail)
         values ('{client}', now(), 'absence', 'away')"
    );
    rig.database.execute(&gap).await;
    rig.broker.kill();
    bridge.until_logged(&["broker connection failed"]).await;
    rig.broker.start_again().await;
    bridge.until_ready().await;
    let now = OffsetDateTime::now_utc();
    rig.platform().await.publish_json(&[ItemEvent::new(TENANT, "U", "A", now)]).await;
    rig.until_rows("item_stay", 1).await;
    bridge
}

#[tokio::test]
async fn prometheus_knows_metrics_of_rules_and_dashboards() {
    let mut rig = Rig::new().await;
    let spool = ScratchFolder::new("spool");
    let config = Config::new(&rig.broker, &rig.database)
        .set("spool.dir", spool.join("spool").to_str().unwrap());
    let bridge = eventful_bridge(&mut rig, &config).await;
    let mut prometheus = Prometheus::start(bridge.admin_port());
    let metrics = metrics_of_rules();
    assert!(metrics.len() > 20, "{metrics:?}");
    for metric in metrics {
        prometheus.until_result("a rule", metric).await;
    }
    let mut count = 0;
    for query in dashboards().iter().flat_map(Dashboard::expressions) {
        let expression = query.text.replace("$__rate_interval", "1m").replace("$instance", ".*");
        prometheus.until_result(&query.place, &expression).await;
        count += 1;
    }
    assert!(count > 20, "{count}");
    prometheus
        .until_result("the alert of the gap", "ALERTS{alertname=\"CentilocBridgeGapLasts\"}")
        .await;
}
