//! Tests of the endpoint over real HTTP on loopback.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{StatusError, fetch};
use super::*;
use crate::telemetry::health::{SessionPhase, SpoolHealth};

/// Timeout that is far longer than a request over loopback takes.
pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) fn state() -> AdminState {
    AdminState {
        tenant: "acme<&>".into(),
        client_id: "acme-bridge".into(),
        instance: Uuid::nil(),
        started_at: OffsetDateTime::now_utc(),
        started: Instant::now(),
        metrics: Arc::new(Metrics::new()),
        health: Arc::default(),
        progress: Arc::default(),
        history: Arc::default(),
        overview: Arc::default(),
        store: None,
        token: None,
        map: None,
    }
}

pub(super) fn healthy() -> AdminState {
    let state = state();
    state.health.update(|snapshot| {
        snapshot.session.phase = SessionPhase::Subscribed;
        snapshot.database.up = true;
    });
    state
}

/// Runs the endpoint until the client has finished.
pub(super) async fn serving<T>(state: AdminState, client: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    let listener = bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::select! {
        () = serve(listener, state, CancellationToken::new()) => panic!("the endpoint ended"),
        result = client(address) => result,
    }
}

pub(super) struct HttpResponse {
    pub code: u16,
    pub head: String,
    pub body: String,
}

impl HttpResponse {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

async fn get(address: SocketAddr, path: &str) -> HttpResponse {
    get_with(address, path, "Host: localhost:9464").await
}

/// Sends a GET request with these header lines.
pub(super) async fn get_with(address: SocketAddr, path: &str, headers: &str) -> HttpResponse {
    send(address, format!("GET {path} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n")).await
}

/// Posts a form.
pub(super) async fn post(address: SocketAddr, path: &str, form: &str) -> HttpResponse {
    let length = form.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}");
    send(address, format!("{head}\r\nConnection: close\r\n\r\n{form}")).await
}

async fn send(address: SocketAddr, request: String) -> HttpResponse {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.expect("in time").expect("a response");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a code");
    HttpResponse { code, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn database_outage_is_not_ready_but_live() {
    let state = healthy();
    let health = Arc::clone(&state.health);
    serving(state, async |address| {
        assert_eq!(get(address, "/readyz").await.code, 200);
        health.update(|snapshot| {
            snapshot.database.up = false;
            snapshot.database.problem = Some("no response; see that it runs".into());
        });
        let response = get(address, "/readyz").await;
        assert_eq!(response.code, 503);
        assert_eq!(response.json()["not_ready"][0]["part"], "database");
        assert_eq!(response.json()["not_ready"][0]["problem"], "no response; see that it runs");
        assert_eq!(get(address, "/livez").await.code, 200);
        // New messages are safe in the spool, but no dashboard shows them.
        health.update(|snapshot| snapshot.spool = Some(SpoolHealth::default()));
        assert_eq!(get(address, "/readyz").await.code, 503);
    })
    .await;
}

#[tokio::test]
async fn unaccounted_message_is_not_ready() {
    let state = healthy();
    let accounting = Arc::clone(state.metrics.accounting());
    let in_pipeline = accounting.admit();
    serving(state, async |address| {
        assert_eq!(get(address, "/readyz").await.code, 200);
        // Simulates a bug: the message leaves the pipeline without an outcome.
        drop(in_pipeline);
        let response = get(address, "/readyz").await;
        assert_eq!(response.code, 503);
        assert_eq!(response.json()["not_ready"][0]["part"], "accounting");
    })
    .await;
}

#[tokio::test]
async fn stuck_stage_is_named_and_not_live() {
    let mut state = state();
    let progress = Arc::new(ProgressRegistry::default());
    state.progress = Arc::clone(&progress);
    let watched = progress.watch("decode", std::future::pending::<()>());
    serving(state, async |address| {
        let response = get(address, "/livez").await;
        assert_eq!(response.code, 200);
        progress.set_back(Duration::from_secs(3_600));
        // The clock of the registry has just started and counts milliseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let response = get(address, "/livez").await;
        assert_eq!(response.code, 503);
        assert_eq!(response.json()["live"], false);
        assert_eq!(response.json()["stuck"][0]["task"], "decode");
        drop(watched);
        assert_eq!(get(address, "/livez").await.code, 200);
    })
    .await;
}

#[tokio::test]
async fn metrics_are_openmetrics_only_on_request() {
    let state = healthy();
    state.metrics.acks.inc_by(17);
    serving(state, async |address| {
        let text = get(address, "/metrics").await;
        assert_eq!(text.code, 200);
        assert!(text.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
        assert!(text.body.contains("# TYPE centiloc_bridge_acks_total counter\n"));
        assert!(text.body.contains("\ncentiloc_bridge_acks_total 17\n"));
        assert!(!text.body.contains("# EOF"));
        let accept = "Host: localhost\r\nAccept: application/openmetrics-text; version=1.0.0";
        let open = get_with(address, "/metrics", accept).await;
        assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(open.body.contains("# TYPE centiloc_bridge_acks counter\n"));
        assert!(open.body.contains("\ncentiloc_bridge_acks_total 17\n"));
        assert!(open.body.ends_with("# EOF\n"));
    })
    .await;
}

#[tokio::test]
async fn foreign_hosts_are_refused_on_loopback() {
    serving(healthy(), async |address| {
        for path in ["/", "/livez", "/readyz", "/metrics", "/api/status", "/elsewhere"] {
            let response = get_with(address, path, "Host: rebound.example:9464").await;
            assert_eq!(response.code, 403, "{path}");
            assert!(!response.body.contains("acme"), "{}", response.body);
        }
        assert_eq!(get_with(address, "/livez", "Host: [::1]").await.code, 200);
        let two = "Host: localhost\r\nHost: rebound.example";
        assert_ne!(get_with(address, "/livez", two).await.code, 200);
        let absolute = get_with(address, "http://rebound.example/livez", "Host: localhost").await;
        assert_eq!(absolute.code, 403);
    })
    .await;
}

#[tokio::test]
async fn status_names_the_service_and_its_parts() {
    let state = healthy();
    state.metrics.count_received("centiloc/acme", 1);
    serving(state, async |address| {
        let status = fetch(&address.into(), None).await.expect("a status");
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(status["tenant"], "acme<&>");
        assert_eq!(status["client_id"], "acme-bridge");
        assert_eq!(status["instance"], Uuid::nil().to_string());
        assert_eq!(status["ready"], true);
        assert_eq!(status["session"]["phase"], "subscribed");
        assert_eq!(status["database"]["up"], true);
        assert_eq!(status["figures"]["received"], 1);
        assert!(status["uptime_seconds"].is_u64());
    })
    .await;
}

#[tokio::test]
async fn page_loads_nothing_external() {
    serving(healthy(), async |address| {
        let response = get(address, "/").await;
        assert_eq!(response.code, 200);
        assert!(response.head.contains("content-type: text/html"));
        assert!(response.head.contains("content-security-policy: default-src 'none'"));
        assert!(response.head.contains("script-src 'self'; style-src 'self'"));
        assert!(response.body.contains("<noscript><meta http-equiv=\"refresh\""));
        let style = get(address, "/assets/style.css").await;
        assert!(style.code == 200 && style.head.contains("content-type: text/css"));
        assert!(response.body.contains("acme&lt;&amp;&gt;"));
        for word in ["<style", "onclick", "http://", "https://", "acme<"] {
            assert!(!response.body.contains(word), "{word}");
        }
    })
    .await;
}

#[tokio::test]
async fn unknown_path_lists_the_known_ones() {
    serving(healthy(), async |address| {
        let response = get(address, "/health").await;
        assert_eq!(response.code, 404);
        assert!(response.body.contains("/readyz"));
    })
    .await;
}

#[tokio::test]
async fn hoarded_connections_do_not_block_probes() {
    serving(healthy(), async |address| {
        let mut hoard = Vec::new();
        for _ in 0..listen::MAX_CONNECTIONS + 64 {
            hoard.push(TcpStream::connect(address).await.expect("connected"));
        }
        assert_eq!(get(address, "/livez").await.code, 200);
        let mut byte = [0];
        let oldest = timeout(SOON, hoard[0].read(&mut byte)).await.expect("ended in time");
        assert!(matches!(oldest, Ok(0) | Err(_)), "the oldest connection is still open");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unfinished_request_is_cut_off() {
    serving(healthy(), async |address| {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost:").await.expect("sent");
        let mut response = Vec::new();
        let end = timeout(Duration::from_secs(60), stream.read_to_end(&mut response)).await;
        assert!(matches!(end.expect("cut off"), Ok(0) | Err(_)));
    })
    .await;
}

#[tokio::test]
async fn stop_does_not_wait_for_slow_clients() {
    let listener = bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let client = async {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("sent");
        stop.cancel();
        let mut response = Vec::new();
        // A reset ends the connection as well as a close.
        let _ = timeout(SOON, stream.read_to_end(&mut response)).await.expect("cut off");
    };
    let both = async { tokio::join!(serve(listener, healthy(), stop.clone()), client) };
    timeout(SOON, both).await.expect("stopped in time");
    TcpStream::connect(address).await.expect_err("nobody listens any more");
}

#[tokio::test]
async fn missing_service_is_reported_as_not_running() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let error = fetch(&address.into(), None).await.expect_err("nobody listens");
    assert!(matches!(error, StatusError::NotRunning(_)), "{error}");
    assert!(error.to_string().starts_with("the service is not running"));
}

#[tokio::test(start_paused = true)]
async fn silent_service_is_reported_as_stuck() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let error = fetch(&address.into(), None).await.expect_err("silence");
    assert!(matches!(error, StatusError::Silent(_)), "{error}");
}

#[tokio::test]
async fn taken_port_is_named_with_a_hint() {
    let holder = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = holder.local_addr().expect("an address");
    let error = bind(address).await.expect_err("taken").to_string();
    assert!(error.contains(&address.to_string()) && error.contains("admin.listen"), "{error}");
    let elsewhere = bind("192.0.2.1:9464".parse().expect("an address")).await;
    assert!(elsewhere.expect_err("not ours").to_string().contains("no interface of this host"));
}
