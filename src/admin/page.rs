//! The page for people: what `/api/status` says, in HTML that needs nothing from elsewhere and no
//! script. Everything that comes from the outside world passes [`Escaped`].

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::status_view::{StatusView, ViewSection};

/// The page loads itself again after this many seconds.
const REFRESH_SECONDS: u32 = 5;

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

/// Text in HTML, safe between tags and in quoted attributes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The page for a status document.
pub fn render(status: &Value) -> String {
    let mut html = String::with_capacity(8 * 1024);
    // Unwrap safety: writing to a String does not fail.
    write(&mut html, &StatusView::new(status)).expect("a String takes everything");
    html
}

fn write(out: &mut String, view: &StatusView) -> fmt::Result {
    write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"{REFRESH_SECONDS}\">\
         <title>centiloc-bridge: {}</title><style>{STYLE}</style></head><body>\
         <h1>centiloc-bridge</h1>",
        in_words(view.ready)
    )?;
    write_state(out, view)?;
    for section in &view.sections {
        write_section(out, section)?;
    }
    out.push_str(
        "<footer>This page loads itself again. For programs: \
         <a href=\"/api/status\">status</a>, <a href=\"/metrics\">metrics</a>, \
         <a href=\"/readyz\">readiness</a>, <a href=\"/livez\">liveness</a>.</footer></body></html>\n",
    );
    Ok(())
}

fn in_words(ready: bool) -> &'static str {
    if ready { "ready" } else { "not ready" }
}

fn write_state(out: &mut String, view: &StatusView) -> fmt::Result {
    let class = if view.ready { "good" } else { "bad" };
    write!(out, "<div class=\"state {class}\"><strong>The service is ")?;
    write!(out, "{}.</strong>", in_words(view.ready))?;
    for (part, problem) in &view.obstacles {
        write!(out, "<br>{}: {}", Escaped(part), Escaped(problem))?;
    }
    out.write_str("</div>")
}

fn write_section(out: &mut String, section: &ViewSection) -> fmt::Result {
    write!(out, "<h2>{}</h2><table>", Escaped(&section.title))?;
    for (label, value) in &section.rows {
        write!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            Escaped(label),
            Escaped(value)
        )?;
    }
    out.write_str("</table>")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_keeps_it_from_being_ready_stands_on_top() {
        let html = render(&json!({
            "ready": false,
            "not_ready": [{"part": "database", "problem": "no route to db.example"}],
        }));
        assert!(html.contains("<title>centiloc-bridge: not ready</title>"));
        assert!(html.contains("database: no route to db.example"));
        assert!(render(&json!({"ready": true})).contains("The service is ready."));
    }

    proptest! {
        #[test]
        fn nothing_from_outside_becomes_markup(text in ".*[<>\"'&].*") {
            let html = render(&json!({
                "ready": false, "tenant": text, "not_ready": [{"part": text, "problem": text}],
                "session": {"problem": text, "filters": [text]},
            }));
            let ours = render(&json!({
                "ready": false, "tenant": "x", "not_ready": [{"part": "x", "problem": "x"}],
                "session": {"problem": "x", "filters": ["x"]},
            }));
            for mark in ['<', '>', '"', '\''] {
                prop_assert_eq!(html.matches(mark).count(), ours.matches(mark).count());
            }
        }
    }
}
