//! The admin endpoint: liveness, readiness, metrics, status and pages over HTTP. It is read-only and
//! shows no secrets. By default it listens on loopback.

mod access;
mod assets;
pub mod chart;
pub mod client;
mod host;
mod listen;
pub mod map;
pub mod moment;
mod negotiation;
mod overview_cache;
mod page;
mod recorder;
pub mod report;
pub mod shell;
pub mod status_view;
pub mod summary;
mod tables;
#[cfg(test)]
mod tests;
pub mod tiles;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use listen::{BindError, bind};
use secrecy::SecretString;

use crate::config::Config;
use crate::progress::ProgressRegistry;
use crate::store::Store;
use crate::store::overview::ReadingProcess;
use crate::telemetry::history::FigureHistory;
use crate::telemetry::{Health, Metrics};
use access::AccessGuard;
use listen::{ConnectionFacts, LimitedListener};
use map::MapAccess;
use map::feed::MapFeed;
use negotiation::MetricsFormat;
use overview_cache::OverviewCache;
use page::StatusPage;
use recorder::FigureRecorder;
use report::{LivenessReport, ReadinessReport, ServiceStatus, unaccounted};

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
    map: Option<Arc<MapAccess>>,
    history: Arc<FigureHistory>,
    overview: Arc<OverviewCache>,
    /// The database, or `None` without one.
    store: Option<Arc<Store>>,
    /// Token that every path but the probes needs.
    token: Option<SecretString>,
}

/// Parts of the service that the endpoint shows.
#[derive(Debug, Clone)]
pub struct AdminParts {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Health.
    pub health: Arc<Health>,
    /// Progress of all tasks.
    pub progress: Arc<ProgressRegistry>,
    /// Figures of the charts, kept over restarts of the endpoint.
    pub history: Arc<FigureHistory>,
    /// The database.
    pub store: Arc<Store>,
    /// Content of the map, kept over restarts of the endpoint.
    pub map: Arc<MapFeed>,
}

impl AdminState {
    /// Returns the state of a service whose uptime counts from now.
    pub fn new(config: &Config, instance: Uuid, parts: AdminParts) -> Self {
        let map = MapAccess::new(parts.map, Arc::clone(&parts.store), config.tenant.clone());
        Self {
            tenant: config.tenant.clone(),
            client_id: config.mqtt.client_id.clone(),
            instance,
            started_at: OffsetDateTime::now_utc(),
            started: Instant::now(),
            metrics: parts.metrics,
            health: parts.health,
            progress: parts.progress,
            history: parts.history,
            overview: Arc::default(),
            store: Some(parts.store),
            token: config.admin_token.clone(),
            map: Some(Arc::new(map)),
        }
    }

    /// Keeps what pages show up to date, until dropped.
    async fn keep_current(&self) {
        let Some(store) = &self.store else { return std::future::pending().await };
        let recorder = FigureRecorder {
            history: Arc::clone(&self.history),
            metrics: Arc::clone(&self.metrics),
            store: Arc::clone(store),
            client_id: self.client_id.clone(),
        };
        tokio::join!(recorder.run(), self.keep_overview(store));
    }

    async fn keep_overview(&self, store: &Store) {
        loop {
            self.overview.due().await;
            let connection = self.health.read(|snapshot| snapshot.session.connection.clone());
            let (instance, connection) = (self.instance, connection.as_ref());
            let reader = ReadingProcess { instance, connection };
            let result = store.overview(&self.client_id, reader).await;
            self.overview.note(result.map_err(|error| error.to_string()));
        }
    }

    async fn status(&self) -> ServiceStatus {
        ServiceStatus::new(self, &self.overview.current().await)
    }
}

/// Serves until `shutdown` is cancelled. Open requests may finish within [`STOP_GRACE`].
pub async fn serve(listener: TcpListener, state: AdminState, shutdown: CancellationToken) {
    let address = listener.local_addr();
    if let Ok(address) = address {
        tracing::info!(%address, "admin endpoint listening");
    }
    let pages = state.clone();
    let token = state.token.clone();
    let mut router = router(state);
    let guard = AccessGuard::new(token.as_ref(), address.as_ref().ok().copied());
    router = router.layer(from_fn_with_state(guard, access::check));
    if address.is_ok_and(host::is_checked_on) {
        router = router.layer(from_fn(host::require_loopback));
    }
    let connections = CancellationToken::new();
    let end_all = connections.clone().drop_guard();
    let service = router.into_make_service_with_connect_info::<ConnectionFacts>();
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
        () = Box::pin(pages.keep_current()) => {}
    }
    drop(end_all);
}

fn router(state: AdminState) -> Router {
    let map = state.map.clone().map(map::router).unwrap_or_default();
    Router::new()
        .route("/", get(page))
        .route("/assets/{name}", get(assets::serve))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/status", get(status))
        .route("/api/history", get(history))
        .fallback(not_found)
        .with_state(Arc::new(state))
        .merge(map)
}

type SharedAdminState = State<Arc<AdminState>>;

async fn page(State(state): SharedAdminState) -> Response {
    let cached = state.overview.current().await;
    let status = ServiceStatus::new(&state, &cached);
    let history = state.history.snapshot();
    let now = OffsetDateTime::now_utc();
    let page = StatusPage { status: &status, cached: &cached, history: &history, now }.render();
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
    (HEADERS, Json(state.status().await)).into_response()
}

async fn history(State(state): SharedAdminState) -> Response {
    (HEADERS, Json(state.history.snapshot())).into_response()
}

async fn not_found() -> Response {
    const TEXT: &str = "There is /, /map, /livez, /readyz, /metrics, /api/status, /api/history and \
        /api/map.\n";
    (StatusCode::NOT_FOUND, HEADERS, TEXT).into_response()
}

fn code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
