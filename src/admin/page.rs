//! The status page: the content of `/api/status` in HTML, without scripts and without anything from
//! another server. The template engine escapes every value.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::status_view::{StatusView, ViewSection};

/// Interval at which the page reloads itself, seconds.
const REFRESH_SECONDS: u32 = 5;

/// Style sheet of the page.
const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}\
body{max-width:56rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.5rem 0 .3rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.25rem .5rem;border-bottom:1px solid #8884;\
overflow-wrap:anywhere}\
th{width:14rem;font-weight:normal;opacity:.75}\
.state{padding:.5rem .8rem;border-left:.4rem solid}\
.good{border-color:#2a8a3e}.bad{border-color:#c0392b}\
footer{margin-top:2rem;opacity:.75}";

/// Renders the page for a status.
pub fn render(view: &StatusView) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta http-equiv="refresh" content=(REFRESH_SECONDS);
                title { "centiloc-bridge: " (readiness(view.ready)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "centiloc-bridge" }
                (state(view))
                @for section in &view.sections { (table(section)) }
                (footer())
            }
        }
    }
}

fn readiness(ready: bool) -> &'static str {
    if ready { "ready" } else { "not ready" }
}

fn state(view: &StatusView) -> Markup {
    html! {
        div .state .good[view.ready] .bad[!view.ready] {
            strong { "The service is " (readiness(view.ready)) "." }
            @for (part, problem) in &view.problems { br; (part) ": " (problem) }
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
            "This page reloads automatically. For programs: "
            a href="/api/status" { "status" } ", " a href="/metrics" { "metrics" } ", "
            a href="/readyz" { "readiness" } ", " a href="/livez" { "liveness" } "."
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
        assert!(html.contains("<title>centiloc-bridge: not ready</title>"));
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
