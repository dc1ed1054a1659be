//! The tables of the status page: the last gaps, dead letters and connections.

use maud::{Markup, html};
use time::OffsetDateTime;

use super::moment;
use super::overview_cache::CachedOverview;
use super::shell::Glance;
use crate::store::overview::{ConnectionLine, DeadLetterLine, GapLine};

/// Renders the tables. While the database does not answer they show the rows of the last read, with
/// their age.
pub(super) fn render(cached: &CachedOverview, now: OffsetDateTime) -> Markup {
    html! {
        section #rows data-live aria-labelledby="rows-title" {
            h2 #rows-title .hidden { "Last gaps, dead letters and connections" }
            @if let Some(problem) = &cached.problem {
                p .note {
                    (Glance::Warn.icon()) " The database does not answer. "
                    @match &cached.rows {
                        Some((_, at)) => { "The tables show its rows of " (moment::render(*at, now)) ". " }
                        None => { "Nothing was read from it yet. " }
                    }
                    span .wrap { (problem) }
                }
            }
            @match cached.overview() {
                Some(overview) => {
                    div .tables .stale[cached.problem.is_some()] {
                        (gaps(&overview.gaps, now))
                        (dead_letters(&overview.dead_letters, now))
                        (connections(&overview.connections, now))
                    }
                }
                None => {
                    @if cached.problem.is_none() { p .muted { "Gaps, dead letters and connections are being read." } }
                }
            }
        }
    }
}

/// Renders a table with a caption, or a sentence where it has no rows.
fn table(caption: &str, columns: &[&str], none: &str, rows: &[Markup]) -> Markup {
    html! {
        div .card .scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                @if rows.is_empty() {
                    tbody { tr { td .muted { (none) } } }
                } @else {
                    thead { tr { @for column in columns { th scope="col" { (column) } } } }
                    tbody { @for row in rows { (row) } }
                }
            }
        }
    }
}

fn gaps(gaps: &[GapLine], now: OffsetDateTime) -> Markup {
    let row = |gap: &GapLine| {
        html! {
            tr {
                td { (gap.id) }
                td { (moment::render(gap.started_at, now)) }
                td { (length(gap)) }
                td { (gap.cause.replace('_', " ")) }
                td {
                    @if gap.acknowledged { (Glance::Good.badge("acknowledged")) }
                    @else { (Glance::Warn.badge("open")) }
                }
            }
        }
    };
    let rows: Vec<_> = gaps.iter().map(row).collect();
    let columns = ["ID", "Began", "Lasted", "Cause", "Review"];
    table("Last gaps", &columns, "No gap: no message is known to be lost.", &rows)
}

fn length(gap: &GapLine) -> String {
    gap.ended_at.map_or_else(
        || "ongoing".to_owned(),
        |ended| moment::span((ended - gap.started_at).as_seconds_f64()),
    )
}

fn dead_letters(letters: &[DeadLetterLine], now: OffsetDateTime) -> Markup {
    let row = |letter: &DeadLetterLine| {
        html! {
            tr {
                td { (letter.id) }
                td { (moment::render(letter.last_seen_at, now)) }
                td { (letter.reason.replace('_', " ")) }
                td .wrap { (letter.topic) }
                td .number { (letter.seen) }
            }
        }
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    let columns = ["ID", "Last seen", "Reason", "Topic", "Seen"];
    table("Last dead letters", &columns, "No message is set aside.", &rows)
}

fn connections(connections: &[ConnectionLine], now: OffsetDateTime) -> Markup {
    let row = |connection: &ConnectionLine| {
        // Of a process that was killed only the last sign of life is known.
        let seen = connection.disconnected_at.unwrap_or(connection.last_seen_at);
        let end = if connection.is_open { now } else { seen };
        let lasted = (end - connection.connected_at).as_seconds_f64().max(0.0);
        html! {
            tr {
                td { (moment::render(connection.connected_at, now)) }
                td { (moment::span(lasted)) }
                td { @if connection.session_present { "resumed" } @else { "new" } }
                td .wrap {
                    @match &connection.reason {
                        Some(reason) => (reason.replace('_', " ")),
                        None if connection.is_open => "open",
                        None => "unknown",
                    }
                }
            }
        }
    };
    let rows: Vec<_> = connections.iter().map(row).collect();
    let columns = ["Connected", "Lasted", "Session", "End"];
    table("Last connections", &columns, "No connection yet.", &rows)
}
