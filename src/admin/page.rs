//! The status page: the content of `/api/status` in HTML, without anything from another server. The
//! template engine escapes every value. Parts with `data-live` are replaced by the script.

use maud::{Markup, html};
use time::OffsetDateTime;

use super::chart::{ChartPoint, ChartUnit, LineChart};
use super::moment;
use super::overview_cache::CachedOverview;
use super::report::ServiceStatus;
use super::shell::{PageLink, PageShell};
use super::status_view::{StatusView, ViewSection};
use super::summary::{Finding, Summary};
use super::tables;
use super::tiles::Tile;
use crate::telemetry::history::{DAY, DAY_STEP, HOUR, HOUR_STEP, HistoryPoint, HistorySnapshot};

/// Interval at which the page reloads itself without scripts, seconds.
const REFRESH_SECONDS: u32 = 5;

/// The facts of a status page.
#[derive(Debug)]
pub struct StatusPage<'a> {
    /// The status.
    pub status: &'a ServiceStatus,
    /// Rows of the database.
    pub cached: &'a CachedOverview,
    /// Points of the charts.
    pub history: &'a HistorySnapshot,
    /// Present time.
    pub now: OffsetDateTime,
}

impl StatusPage<'_> {
    /// Renders the page.
    pub fn render(&self) -> Markup {
        let summary = &self.status.summary;
        let shell = PageShell {
            title: summary.verdict.words(),
            current: Some(PageLink::Status),
            tenant: &self.status.tenant,
            glance: summary.verdict.glance(),
            styles: &[],
            scripts: &["status.js"],
            reload_seconds: Some(REFRESH_SECONDS),
        };
        shell.render(&html! {
            p #connection .note role="alert" hidden {}
            (verdict(summary))
            section aria-labelledby="parts" {
                h2 #parts .hidden { "Parts of the service" }
                ul #tiles .tiles data-live {
                    @for each in &self.status.tiles { (tile(each, self.now)) }
                }
            }
            section aria-labelledby="figures" {
                h2 #figures .hidden { "Figures over time" }
                div #charts .charts data-live { (self.charts()) }
            }
            (tables::render(self.cached, self.now))
            (self.facts())
            (footer())
        })
    }

    fn charts(&self) -> Markup {
        html! {
            (self.chart("series-1", "Rate", "events stored", ChartUnit::Rate, |p| Some(p.rate)))
            (self.chart("series-2", "Lag", "from event to commit", ChartUnit::Seconds, |p| p.lag))
            (self.chart("series-3", "Un-acked", "messages in flight", ChartUnit::Count,
                |p| Some(p.unacked)))
        }
    }

    fn chart(
        &self,
        class: &str,
        title: &str,
        meaning: &str,
        unit: ChartUnit,
        value: impl Fn(&HistoryPoint) -> Option<f64>,
    ) -> Markup {
        let points = |list: &[HistoryPoint]| -> Vec<ChartPoint> {
            list.iter().filter_map(|point| Some((point.at, value(point)?))).collect()
        };
        let (hour, day) = (points(&self.history.hour), points(&self.history.day));
        let newest = self.history.hour.last().and_then(&value);
        let draw = |period, points, span: std::time::Duration, step: std::time::Duration| {
            let chart = LineChart {
                period,
                quantity: title,
                points,
                span_seconds: span.as_secs_f64(),
                step_seconds: step.as_secs_f64(),
                unit,
                now: self.now,
            };
            chart.render()
        };
        html! {
            div class={ "card " (class) } {
                div .chart-head {
                    h3 { (title) " " span .muted { (meaning) } }
                    span .chart-now { (newest.map_or_else(|| "–".to_owned(), |v| unit.text(v))) }
                }
                (draw("Last hour", &hour, HOUR, self.hour_step()))
                (draw("Last day", &day, DAY, DAY_STEP))
            }
        }
    }

    /// Returns the usual interval of the points of the last hour, which is longer for those of an
    /// earlier process.
    fn hour_step(&self) -> std::time::Duration {
        let earlier =
            self.history.hour.windows(2).any(|pair| pair[1].at - pair[0].at > HOUR_STEP * 6);
        if earlier { DAY_STEP } else { HOUR_STEP }
    }

    fn facts(&self) -> Markup {
        // Unwrap safety: a struct of text, numbers and dates of this century.
        let status = serde_json::to_value(self.status).expect("a status is JSON");
        let view = StatusView::new(&status);
        html! {
            details .card {
                summary { "All values" }
                div #facts .facts data-live {
                    @for section in &view.sections { (facts(section)) }
                }
            }
        }
    }
}

fn verdict(summary: &Summary) -> Markup {
    let glance = summary.verdict.glance();
    html! {
        // A live region must stay in the document to be announced. The script fills it.
        p #announcement .hidden role="status" {}
        section #verdict data-live class={ "verdict " (glance.class()) } {
            (glance.icon())
            div {
                h1 { (summary.sentence) }
                @for (at, each) in summary.findings.iter().enumerate() {
                    @if at > 0 { hr; }
                    (finding(each, summary.findings.len() > 1))
                }
            }
        }
    }
}

fn finding(finding: &Finding, is_one_of_many: bool) -> Markup {
    html! {
        dl {
            @if is_one_of_many { dt { (finding.verdict.words()) } dd { strong { (finding.problem) } } }
            dt { "Cause" } dd { (finding.cause) }
            dt { "Remedy" } dd { (finding.remedy) }
            dt { "Effect" } dd { (finding.effect) }
        }
    }
}

fn tile(tile: &Tile, now: OffsetDateTime) -> Markup {
    html! {
        li class={ "card tile " (tile.state.class()) } {
            div .tile-head { h3 { (tile.title) } (tile.state.badge(tile.word)) }
            p .tile-value { (tile.value) }
            p .tile-detail {
                (tile.detail)
                @if let Some(at) = tile.at {
                    @if !tile.detail.is_empty() { " · " }
                    (tile.label) " " (moment::render(at, now))
                }
            }
        }
    }
}

fn facts(section: &ViewSection) -> Markup {
    html! {
        table {
            caption { (section.title) }
            tbody {
                @for (label, value) in &section.rows {
                    tr { th scope="row" { (label) } td { (value) } }
                }
            }
        }
    }
}

fn footer() -> Markup {
    html! {
        p .small .muted {
            "For programs: "
            a href="api/status" { "status" } ", " a href="api/history" { "history" } ", "
            a href="metrics" { "metrics" } ", " a href="readyz" { "readiness" } ", "
            a href="livez" { "liveness" } "."
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::admin::tests::state;
    use crate::store::overview::{ConnectionLine, DeadLetterLine, GapLine, Overview};

    const NOW: OffsetDateTime = datetime!(2026-11-27 12:00 UTC);

    /// Renders the page of a service in which every text from outside is `text`.
    fn page(text: &str) -> String {
        let state = crate::admin::AdminState { tenant: text.to_owned(), ..state() };
        state.health.update(|s| {
            s.session.problem = Some(text.to_owned());
            s.session.filters = vec![text.to_owned()];
            s.database.problem = Some(text.to_owned());
        });
        let cache = crate::admin::overview_cache::OverviewCache::default();
        cache.note(Ok(Overview {
            gaps: vec![GapLine {
                id: 1,
                started_at: NOW,
                ended_at: None,
                cause: text.to_owned(),
                detail: text.to_owned(),
                acknowledged: false,
            }],
            open_gaps: 1,
            dead_letters: vec![DeadLetterLine {
                id: 1,
                last_seen_at: NOW,
                topic: text.to_owned(),
                reason: text.to_owned(),
                seen: 2,
            }],
            dead_letter_count: 1,
            connections: vec![ConnectionLine {
                connected_at: NOW,
                disconnected_at: Some(NOW),
                last_seen_at: NOW,
                reason: Some(text.to_owned()),
                session_present: true,
                is_open: false,
            }],
        }));
        cache.note(Err(text.to_owned()));
        let cached = cache.latest();
        let status = ServiceStatus::new(&state, &cached);
        let history = HistorySnapshot::default();
        StatusPage { status: &status, cached: &cached, history: &history, now: NOW }
            .render()
            .into_string()
    }

    #[test]
    fn problems_are_shown_on_top() {
        let html = page("no route to db.example; see the network");
        assert!(html.contains("<title>Degraded · centiloc-bridge</title>"));
        assert!(html.contains("<dt>Cause</dt><dd>no route to db.example</dd>"), "{html}");
        assert!(html.contains("<dt>Remedy</dt><dd>see the network</dd>"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_text_from_outside_becomes_markup(text in "[^;]*[<>\"'&][^;]*") {
            let (html, ours) = (page(&text), page("x"));
            // The template quotes attributes with '"' only, so that "'" needs no escape.
            for mark in ['<', '>', '"'] {
                prop_assert_eq!(html.matches(mark).count(), ours.matches(mark).count());
            }
        }
    }
}
