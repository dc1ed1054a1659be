//! The page of the map. Without scripts it is a table of items and one of boards, sorted and searched
//! on the server. The script draws the map above them and replaces the tables as they change.

use std::collections::{BTreeMap, HashMap};

use maud::{Markup, html};
use serde::Deserialize;
use time::OffsetDateTime;
use time::macros::format_description;

use super::feed::MapView;
use super::plan::PlanBoard;
use super::state::{BoardMark, ItemMark};
use crate::admin::shell::{Glance, PageLink, PageShell};

/// Items on a page of the table.
const ITEMS_A_PAGE: usize = 50;
/// Interval at which a browser without scripts loads the page again, seconds.
const RELOAD_SECONDS: u32 = 30;

/// Parameters of the page.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PageQuery {
    /// Part of a tag, product, location, board, shelf or furniture.
    #[serde(default)]
    q: String,
    /// Column to sort by, with `-` before it for the reverse.
    #[serde(default)]
    sort: String,
    /// Number of the page, from 1.
    #[serde(default)]
    page: Option<usize>,
}

/// Columns of the table: key and title.
const COLUMNS: [(&str, &str); 8] = [
    ("tag", "Tag"),
    ("product", "Product"),
    ("location", "Location"),
    ("board", "Board"),
    ("shelf", "Shelf"),
    ("position", "Position, mm"),
    ("since", "On the board since"),
    ("moved", "Last event"),
];

/// An item with its board.
struct ItemRow<'a> {
    uid: &'a str,
    item: &'a ItemMark,
    board: Option<&'a PlanBoard>,
}

impl ItemRow<'_> {
    fn contains(&self, text: &str) -> bool {
        let board = self.board.map(|board| [&board.shelf, &board.furniture]);
        let parts = [Some(self.uid), Some(&self.item.board_sn)].into_iter().flatten();
        parts
            .chain(self.item.product.as_deref())
            .chain(self.item.location.as_deref())
            .chain(board.into_iter().flatten().map(String::as_str))
            .any(|part| part.to_lowercase().contains(text))
    }

    fn shelf(&self) -> &str {
        self.board.map_or("", |board| &board.shelf)
    }
}

/// Renders the page.
pub fn render(view: &MapView, tenant: &str, query: &PageQuery) -> Markup {
    let shell = PageShell {
        title: "Map",
        current: Some(PageLink::Map),
        tenant,
        glance: if view.problem.is_some() { Glance::Bad } else { Glance::Good },
        styles: &["map.css"],
        scripts: &["map.js"],
        reload_seconds: Some(RELOAD_SECONDS),
    };
    shell.render(&html! {
        h1 .hidden { "Map of boards and items" }
        (toolbar(query))
        div #map-app .map-app hidden {
            div #map-stage .map-stage {
                canvas #map-canvas tabindex="0" role="img"
                    aria-label="Map of boards with the items on them. The tables below have the same content. Arrow keys move, plus and minus zoom, 0 shows everything, Enter selects the middle." {}
                p #map-banner .map-banner hidden {}
                p #map-empty .map-empty hidden { "No board has reported yet. Boards appear here with their first event." }
                div .map-scale aria-hidden="true" { span #map-scale {} }
            }
            aside #map-detail .card.map-detail aria-label="Selection" { (legend()) div #map-selection {} }
        }
        (tables(view, query))
    })
}

fn toolbar(query: &PageQuery) -> Markup {
    html! {
        div .map-tools {
            form #map-search .map-search role="search" action="map" method="get" {
                label .hidden for="map-q" { "Search tag, product, location, board or shelf" }
                input #map-q type="search" name="q" value=(query.q) autocomplete="off"
                    placeholder="Tag, product, location, board";
                button { "Search" }
            }
            p #map-found .muted role="status" {}
            div #map-buttons .map-buttons hidden {
                span #map-live .badge {}
                button .quiet #map-pause type="button" aria-pressed="false" { "Pause" }
                button .quiet #map-out type="button" aria-label="Zoom out" { "−" }
                button .quiet #map-in type="button" aria-label="Zoom in" { "+" }
                button .quiet #map-fit type="button" { "Show all" }
            }
        }
    }
}

fn legend() -> Markup {
    let entries = [
        (Glance::Good, "works"),
        (Glance::Warn, "silent, degraded or in maintenance"),
        (Glance::Bad, "disconnected or in error"),
        (Glance::Idle, "no status reported"),
    ];
    html! {
        ul .map-legend aria-label="Legend" {
            @for (glance, word) in entries {
                li class=(glance.class()) { (glance.icon()) span { "Board: " (word) } }
            }
            li { span .map-dot aria-hidden="true" {} span { "Item" } }
            li { span .map-dot.loose aria-hidden="true" {} span { "Item, position not known" } }
            li { span .map-dot.found aria-hidden="true" {} span { "Item that was searched" } }
        }
    }
}

/// Renders both tables. The script replaces them as a whole.
fn tables(view: &MapView, query: &PageQuery) -> Markup {
    let places: HashMap<_, _> =
        view.state.plan.boards.iter().map(|board| (board.sn.as_str(), board)).collect();
    let text = query.q.trim().to_lowercase();
    let rows = view.state.items.iter().map(|(uid, item)| ItemRow {
        uid,
        item,
        board: places.get(item.board_sn.as_str()).copied(),
    });
    let mut rows: Vec<_> = rows.filter(|row| text.is_empty() || row.contains(&text)).collect();
    let (column, is_reverse) = sort(&mut rows, &query.sort);
    let pages = rows.len().div_ceil(ITEMS_A_PAGE).max(1);
    let page = query.page.unwrap_or(1).clamp(1, pages);
    let shown = rows.iter().skip((page - 1) * ITEMS_A_PAGE).take(ITEMS_A_PAGE);
    html! {
        div #map-tables .map-tables {
            (age(view))
            section .card {
                div .scroll {
                    table #map-items {
                        caption { "Items on boards (" (rows.len()) ")" }
                        thead { tr {
                            @for (key, title) in COLUMNS {
                                (heading(query, key, title, (key == column).then_some(is_reverse)))
                            }
                        } }
                        tbody { @for row in shown { (item_row(row)) } }
                    }
                }
                (pager(query, page, pages))
            }
            (boards(view, &places, &text))
        }
    }
}

fn age(view: &MapView) -> Markup {
    html! {
        @match (&view.problem, view.read_at) {
            (Some(_), Some(at)) => p .note { "The database cannot be read. This is the state of " (time(at)) "." },
            (None, Some(_)) => {},
            (_, None) => p .note { "The database was not read yet. See the status page." },
        }
    }
}

fn heading(query: &PageQuery, key: &str, title: &str, sorted: Option<bool>) -> Markup {
    let order = sorted.map(|reverse| if reverse { "descending" } else { "ascending" });
    let next = if sorted == Some(false) { format!("-{key}") } else { key.to_owned() };
    html! {
        th scope="col" aria-sort=[order] {
            a href=(link(&query.q, &next, 1)) { (title) }
            @match sorted { Some(true) => " ▾", Some(false) => " ▴", None => "" }
        }
    }
}

fn item_row(row: &ItemRow<'_>) -> Markup {
    let item = row.item;
    html! {
        tr {
            th scope="row" { a href={ "#item=" (encoded(row.uid)) } { (row.uid) } }
            td { (item.product.as_deref().unwrap_or("–")) }
            td { (item.location.as_deref().unwrap_or("–")) }
            td { a href={ "#board=" (encoded(&item.board_sn)) } { (item.board_sn) } }
            td { (row.shelf()) }
            td { @match item.position { Some((x, y)) => { (x) ", " (y) }, None => "not known" } }
            td { @if let Some(at) = item.entered_at.and_then(instant) { (time(at)) } @else { "–" } }
            td { @if let Some(at) = instant(item.moved_at) { (time(at)) } }
        }
    }
}

fn pager(query: &PageQuery, page: usize, pages: usize) -> Markup {
    html! {
        @if pages > 1 {
            nav .map-pager aria-label="Pages of the table" {
                @if page > 1 { a rel="prev" href=(link(&query.q, &query.sort, page - 1)) { "Previous" } }
                span { "Page " (page) " of " (pages) }
                @if page < pages { a rel="next" href=(link(&query.q, &query.sort, page + 1)) { "Next" } }
            }
        }
    }
}

fn boards(view: &MapView, places: &HashMap<&str, &PlanBoard>, text: &str) -> Markup {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for item in view.state.items.values() {
        *counts.entry(&item.board_sn).or_default() += 1;
    }
    let mut rows: Vec<_> =
        view.state.boards.iter().map(|(sn, mark)| (health(mark), sn, mark)).collect();
    rows.retain(|(_, sn, _)| {
        let place = places.get(sn.as_str()).map(|board| (&board.shelf, &board.furniture));
        let mut parts = [sn.as_str()]
            .into_iter()
            .chain(place.iter().flat_map(|(s, f)| [s.as_str(), f.as_str()]));
        text.is_empty() || parts.any(|part| part.to_lowercase().contains(text))
    });
    rows.sort_by_key(|((glance, _), sn, _)| (std::cmp::Reverse(*glance), *sn));
    html! {
        details .card {
            summary { "Boards (" (rows.len()) ")" }
            div .scroll {
                table #map-boards {
                    thead { tr {
                        @for title in ["Board", "Health", "Items", "Shelf", "Furniture", "Status since", "Last item event"] {
                            th scope="col" { (title) }
                        }
                    } }
                    tbody {
                        @for ((glance, word), sn, mark) in &rows {
                            @let place = places.get(sn.as_str());
                            tr {
                                th scope="row" { a href={ "#board=" (encoded(sn)) } { (sn) } }
                                td { (glance.badge(word)) }
                                td { (counts.get(sn.as_str()).copied().unwrap_or(0)) }
                                td { (place.map_or("–", |board| &board.shelf)) }
                                td { (place.map_or("–", |board| &board.furniture)) }
                                td { @if let Some(at) = mark.status_at.and_then(instant) { (time(at)) } @else { "–" } }
                                td { @if let Some(at) = mark.last_item_at.and_then(instant) { (time(at)) } @else { "–" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns the health of a board and its word. `map-state.js` has the same rule.
fn health(mark: &BoardMark) -> (Glance, String) {
    let word = |status: &str| {
        let lower = status.to_lowercase().replace('_', " ");
        if lower == "onerror" { "error".to_owned() } else { lower }
    };
    match mark.status.as_deref() {
        Some("CONNECTED") | None if mark.is_silent => (Glance::Warn, "silent".to_owned()),
        Some("CONNECTED") => (Glance::Good, "connected".to_owned()),
        Some(status @ ("DEGRADED" | "MAINTENANCE")) => (Glance::Warn, word(status)),
        Some(status) => (Glance::Bad, word(status)),
        None => (Glance::Idle, "no status".to_owned()),
    }
}

/// Sorts by a column of the query. Returns the column, and true for the reverse order.
fn sort(rows: &mut [ItemRow<'_>], by: &str) -> (&'static str, bool) {
    let (key, is_reverse) = by.strip_prefix('-').map_or((by, false), |key| (key, true));
    let column = COLUMNS.iter().find(|(name, _)| *name == key).map_or("tag", |(name, _)| name);
    match column {
        "product" => rows.sort_by_key(|row| row.item.product.as_deref()),
        "location" => rows.sort_by_key(|row| row.item.location.as_deref()),
        "board" => rows.sort_by_key(|row| row.item.board_sn.as_str()),
        "shelf" => rows.sort_by(|a, b| a.shelf().cmp(b.shelf())),
        "position" => rows.sort_by_key(|row| row.item.position),
        "since" => rows.sort_by_key(|row| row.item.entered_at),
        "moved" => rows.sort_by_key(|row| row.item.moved_at),
        _ => {}
    }
    if is_reverse {
        rows.reverse();
    }
    (column, is_reverse)
}

fn link(q: &str, sort: &str, page: usize) -> String {
    format!("map?q={}&sort={}&page={page}", encoded(q), encoded(sort))
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

fn instant(millis: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()
}

fn time(at: OffsetDateTime) -> Markup {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let text = at.format(&format).unwrap_or_default();
    html! { time datetime={ (text.replace(' ', "T")) "Z" } { (text) " UTC" } }
}
