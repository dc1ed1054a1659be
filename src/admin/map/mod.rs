//! The live map of `/map`: boards with the items on them, moving as events are committed.
//!
//! One task ([`feed`]) reads the database while somebody looks at the map. [`state`] combines the reads
//! into the content, [`plan`] places the boards, and [`stream`] sends the changes to each viewer.

pub mod feed;
mod page;
pub mod plan;
pub mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::HEADERS;
use super::listen::ConnectionFacts;
use crate::store::Store;
use crate::store::map_reads::{ItemHistory, PastMove, PastStay};
use feed::{MapFeed, MapStatus, MapView};
use page::PageQuery;
use state::{MapState, millis};

/// Most viewers at a time. Each has a connection open.
const MAX_STREAMS: usize = 100;
/// Most questions for the history of an item at a time. They share one connection to the database.
const MAX_QUESTIONS: usize = 8;
/// Wait for the first read of a map that nobody looked at.
const FIRST_READ: Duration = Duration::from_secs(3);
/// Seconds after which a refused viewer may try again.
const RETRY_AFTER: &str = "5";

/// The map as the admin endpoint sees it.
#[derive(Debug)]
pub struct MapAccess {
    feed: Arc<MapFeed>,
    store: Arc<Store>,
    tenant: String,
    streams: Arc<Semaphore>,
    questions: Semaphore,
    encoded: Mutex<Option<EncodedSnapshot>>,
}

/// The newest content as a document, encoded once for all viewers.
#[derive(Debug, Clone)]
struct EncodedSnapshot {
    name: String,
    plain: Bytes,
    gzip: Bytes,
}

#[derive(Serialize)]
struct SnapshotDocument<'a> {
    id: &'a str,
    #[serde(flatten)]
    status: MapStatus<'a>,
    #[serde(flatten)]
    state: &'a MapState,
}

impl MapAccess {
    /// Returns the map that `feed` fills.
    pub fn new(feed: Arc<MapFeed>, store: Arc<Store>, tenant: String) -> Self {
        Self {
            feed,
            store,
            tenant,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            questions: Semaphore::new(MAX_QUESTIONS),
            encoded: Mutex::default(),
        }
    }

    /// Encodes the content, unless that was done before.
    async fn encoded(&self, view: MapView) -> EncodedSnapshot {
        let name = self.feed.name_of(view.number);
        let known = self.encoded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.name == name) {
            return known;
        }
        // Milliseconds of computing, which other tasks must not wait for.
        let encode = tokio::task::spawn_blocking(move || encode(name, &view));
        // Unwrap safety: encoding does not panic, and is not aborted.
        let encoded = encode.await.expect("a snapshot is encoded");
        let mut newest = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        newest.insert(encoded).clone()
    }
}

fn encode(name: String, view: &MapView) -> EncodedSnapshot {
    let document = SnapshotDocument { id: &name, status: MapStatus::of(view), state: &view.state };
    // Unwrap safety: structs of text and numbers with text keys, written to memory.
    let plain = serde_json::to_vec(&document).expect("a snapshot is JSON");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&plain).expect("memory");
    let gzip = gzip.finish().expect("memory");
    EncodedSnapshot { name, plain: plain.into(), gzip: gzip.into() }
}

/// Returns the routes of the map.
pub fn router(access: Arc<MapAccess>) -> Router {
    Router::new()
        .route("/map", get(show_page))
        .route("/api/map", get(snapshot))
        .route("/api/map/events", get(events))
        .route("/api/map/item", get(item))
        .with_state(access)
}

type SharedAccess = State<Arc<MapAccess>>;

async fn show_page(State(map): SharedAccess, Query(query): Query<PageQuery>) -> Response {
    let view = map.feed.fresh_view(FIRST_READ).await;
    let page = page::render(&view, &map.tenant, &query);
    (HEADERS, Html(page.into_string())).into_response()
}

async fn snapshot(State(map): SharedAccess, headers: HeaderMap) -> Response {
    let view = map.feed.fresh_view(FIRST_READ).await;
    if view.read_at.is_none() {
        return unread(&view);
    }
    let snapshot = map.encoded(view).await;
    let tag = format!("\"{}\"", snapshot.name);
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut known = known.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    // Unwrap safety: hexadecimal digits and numbers.
    let tag_value = HeaderValue::from_str(&tag).expect("a header");
    let described = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, tag_value),
        (header::VARY, HeaderValue::from_static("Accept-Encoding")),
    ];
    if known.any(|known| known.trim().trim_start_matches("W/") == tag) {
        return (StatusCode::NOT_MODIFIED, HEADERS, described).into_response();
    }
    let json = (header::CONTENT_TYPE, "application/json");
    if accepts_gzip(&headers) {
        let encoding = [json, (header::CONTENT_ENCODING, "gzip")];
        return (HEADERS, described, encoding, snapshot.gzip).into_response();
    }
    (HEADERS, described, [json], snapshot.plain).into_response()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let mut codings = accepted.unwrap_or_default().split(',');
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|weight| weight == "q=0")
    })
}

#[derive(Deserialize)]
struct StreamQuery {
    /// Last frame that the viewer knows, where it has no `Last-Event-ID`.
    since: Option<String>,
}

async fn events(
    State(map): SharedAccess,
    ConnectInfo(ConnectionFacts { deadline, .. }): ConnectInfo<ConnectionFacts>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Response {
    let Ok(permit) = Arc::clone(&map.streams).try_acquire_owned() else {
        let text = format!("{MAX_STREAMS} viewers follow the map, and no more can.\n");
        return later(&text);
    };
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let since = last.or(query.since.as_deref());
    let number = since.and_then(|name| map.feed.number_of(name));
    let body = stream::body(Arc::clone(&map.feed), permit, number, deadline);
    let described = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // The next stream gets a connection with its whole time before it.
        (header::CONNECTION, "close"),
        // A reverse proxy must not collect events.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (HEADERS, described, body).into_response()
}

#[derive(Deserialize)]
struct ItemQuery {
    uid: String,
}

/// The document of `/api/map/item`.
#[derive(Debug, Serialize)]
struct ItemDocument {
    uid: String,
    stays: Vec<StayLine>,
    moves: Vec<MoveLine>,
}

#[derive(Debug, Serialize)]
struct StayLine {
    board: Option<String>,
    entered_at: i64,
    left_at: Option<i64>,
}

#[derive(Debug, Serialize)]
struct MoveLine {
    at: i64,
    board: Option<String>,
    is_in: bool,
    x: Option<i32>,
    y: Option<i32>,
}

impl ItemDocument {
    fn new(uid: String, history: ItemHistory) -> Self {
        let stay = |stay: PastStay| StayLine {
            board: stay.board_sn,
            entered_at: millis(stay.entered_at),
            left_at: stay.left_at.map(millis),
        };
        let step = |step: PastMove| MoveLine {
            at: millis(step.momentum),
            board: step.board_sn,
            is_in: step.is_in,
            x: step.position.map(|(x, _)| x),
            y: step.position.map(|(_, y)| y),
        };
        let stays = history.stays.into_iter().map(stay).collect();
        Self { uid, stays, moves: history.moves.into_iter().map(step).collect() }
    }
}

async fn item(State(map): SharedAccess, Query(query): Query<ItemQuery>) -> Response {
    let Ok(_permit) = map.questions.try_acquire() else {
        return later("Too many viewers ask for items at this moment.\n");
    };
    match map.store.read_item_history(&map.tenant, &query.uid).await {
        Ok(history) => (HEADERS, Json(ItemDocument::new(query.uid, history))).into_response(),
        Err(error) => {
            tracing::debug!(%error, "could not read the history of an item");
            later("The database could not be read. See the status page.\n")
        }
    }
}

/// Answers for a map that was never read.
fn unread(view: &MapView) -> Response {
    tracing::debug!(problem = view.problem, "the map was not read yet");
    later("The database was not read yet. See the status page.\n")
}

fn later(text: &str) -> Response {
    let retry = [(header::RETRY_AFTER, RETRY_AFTER)];
    (StatusCode::SERVICE_UNAVAILABLE, HEADERS, retry, text.to_owned()).into_response()
}
