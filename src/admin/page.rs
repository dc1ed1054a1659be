//! The status page: the content of `/api/status` in HTML, without anything from another server. The template engine escapes every value.

use maud::{Markup, html};

use super::shell::{Glance, PageLink, PageShell};
use super::status_view::{StatusView, ViewSection};

/// Interval at which the page reloads itself without scripts, seconds.
const REFRESH_SECONDS: u32 = 5;

/// Renders the page for a status.
pub fn render(view: &StatusView) -> Markup {
    let shell = PageShell {
        title: readiness(view.ready),
        current: Some(PageLink::Status),
        tenant: "",
        glance: if view.ready { Glance::Good } else { Glance::Bad },
        styles: &[],
        scripts: &["status.js"],
        reload_seconds: Some(REFRESH_SECONDS),
    };
    shell.render(&html! {
        (state(view))
        div #facts data-live {
            @for section in &view.sections { (table(section)) }
        }
        (footer())
    })
}

fn readiness(ready: bool) -> &'static str {
    if ready { "ready" } else { "not ready" }
}

fn state(view: &StatusView) -> Markup {
    html! {
        section #verdict role="status" data-live class=(if view.ready { "verdict good" } else { "verdict bad" }) {
            (if view.ready { Glance::Good.icon() } else { Glance::Bad.icon() })
            div {
                h1 { "The service is " (readiness(view.ready)) "." }
                @for (part, problem) in &view.problems { p { (part) ": " (problem) } }
            }
        }
    }
}

fn table(section: &ViewSection) -> Markup {
    html! {
        h2 { (section.title) }
        table {
            @for (label, value) in &section.rows {
                tr { th scope="row" { (label) } td { (value) } }
            }
        }
    }
}

fn footer() -> Markup {
    html! {
        footer {
            "This page refreshes itself. For programs: "
            a href="api/status" { "status" } ", " a href="metrics" { "metrics" } ", "
            a href="readyz" { "readiness" } ", " a href="livez" { "liveness" } "."
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn page(status: &Value) -> String {
        render(&StatusView::new(status)).into_string()
    }

    #[test]
    fn problems_are_shown_on_top() {
        let html = page(&json!({
            "ready": false,
            "not_ready": [{"part": "database", "problem": "no route to db.example"}],
        }));
        assert!(html.contains("<title>not ready · centiloc-bridge</title>"));
        assert!(html.contains("database: no route to db.example"));
        assert!(page(&json!({"ready": true})).contains("The service is ready."));
    }

    proptest! {
        #[test]
        fn no_text_from_outside_becomes_markup(text in ".*[<>\"'&].*") {
            let html = page(&json!({
                "ready": false, "tenant": text, "not_ready": [{"part": text, "problem": text}],
                "session": {"problem": text, "filters": [text]},
            }));
            let ours = page(&json!({
                "ready": false, "tenant": "x", "not_ready": [{"part": "x", "problem": "x"}],
                "session": {"problem": "x", "filters": ["x"]},
            }));
            // The template quotes attributes with '"' only, so that "'" needs no escape.
            for mark in ['<', '>', '"'] {
                prop_assert_eq!(html.matches(mark).count(), ours.matches(mark).count());
            }
        }
    }
}
