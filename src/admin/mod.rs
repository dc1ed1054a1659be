//! The admin endpoint: liveness, readiness, metrics, status and pages over HTTP. It is read-only and
//! shows no secrets. By default it listens on loopback.

mod assets;
pub mod client;
mod host;
mod listen;
pub mod map;
mod negotiation;
mod page;
pub mod report;
pub mod shell;
pub mod status_view;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use listen::{BindError, bind};

use crate::config::Config;
use crate::progress::ProgressRegistry;
use crate::telemetry::{Health, Metrics};
use listen::{ConnectionDeadline, LimitedListener};
use map::MapAccess;
use negotiation::MetricsFormat;
use report::{LivenessReport, ReadinessReport, ServiceStatus, unaccounted};
use status_view::StatusView;

/// Time that open requests get to finish once the endpoint stops.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Headers of every response: it is not cached, its type is not guessed, and a page loads nothing
/// from elsewhere, contains no script or style of its own and is in no frame.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src \
         'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
];

/// The state of the service that the endpoint serves.
#[derive(Debug, Clone)]
pub struct AdminState {
    tenant: String,
    client_id: String,
    instance: Uuid,
    started_at: OffsetDateTime,
    started: Instant,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    progress: Arc<ProgressRegistry>,
    map: Arc<MapAccess>,
}

impl AdminState {
    /// Returns the state of a service whose uptime counts from now.
    pub fn new(
        config: &Config,
        instance: Uuid,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        progress: Arc<ProgressRegistry>,
        map: Arc<MapAccess>,
    ) -> Self {
        Self {
            tenant: config.tenant.clone(),
            client_id: config.mqtt.client_id.clone(),
            instance,
            started_at: OffsetDateTime::now_utc(),
            started: Instant::now(),
            metrics,
            health,
            progress,
            map,
        }
    }
}

/// Serves until `shutdown` is cancelled. Open requests may finish within [`STOP_GRACE`].
pub async fn serve(listener: TcpListener, state: AdminState, shutdown: CancellationToken) {
    let address = listener.local_addr();
    if let Ok(address) = address {
        tracing::info!(%address, "admin endpoint listening");
    }
    let mut router = router(state);
    if address.is_ok_and(host::is_checked_on) {
        router = router.layer(from_fn(host::require_loopback));
    }
    let connections = CancellationToken::new();
    let end_all = connections.clone().drop_guard();
    let service = router.into_make_service_with_connect_info::<ConnectionDeadline>();
    let server = axum::serve(LimitedListener::new(listener, connections), service)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        result = server => if let Err(error) = result {
            tracing::error!(%error, "admin endpoint failed");
        },
        () = overdue => {}
    }
    drop(end_all);
}

fn router(state: AdminState) -> Router {
    let map = map::router(Arc::clone(&state.map));
    Router::new()
        .route("/", get(page))
        .route("/assets/{name}", get(assets::serve))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/status", get(status))
        .fallback(not_found)
        .with_state(Arc::new(state))
        .merge(map)
}

type SharedAdminState = State<Arc<AdminState>>;

async fn page(State(state): SharedAdminState) -> Response {
    // Unwrap safety: a struct of text, numbers and dates of this century.
    let status = serde_json::to_value(ServiceStatus::new(&state)).expect("a status is JSON");
    let page = page::render(&StatusView::new(&status));
    (HEADERS, Html(page.into_string())).into_response()
}

async fn livez(State(state): SharedAdminState) -> Response {
    let liveness = LivenessReport::new(state.progress.stuck());
    (code(liveness.live), HEADERS, Json(liveness)).into_response()
}

async fn readyz(State(state): SharedAdminState) -> Response {
    let readiness = ReadinessReport::new(&state.health.snapshot(), unaccounted(&state.metrics));
    (code(readiness.ready), HEADERS, Json(readiness)).into_response()
}

async fn metrics(State(state): SharedAdminState, headers: HeaderMap) -> Response {
    let format = MetricsFormat::accepted_by(&headers);
    let text = match format {
        MetricsFormat::Text => state.metrics.encode_text(),
        MetricsFormat::OpenMetrics => state.metrics.encode_openmetrics(),
    };
    let headers = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, "Accept")];
    (HEADERS, headers, text).into_response()
}

async fn status(State(state): SharedAdminState) -> Response {
    (HEADERS, Json(ServiceStatus::new(&state))).into_response()
}

async fn not_found() -> Response {
    const TEXT: &str = "There is /, /map, /livez, /readyz, /metrics, /api/status and /api/map.\n";
    (StatusCode::NOT_FOUND, HEADERS, TEXT).into_response()
}

fn code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
