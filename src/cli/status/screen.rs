//! The status for a terminal: the sentence with cause, remedy and effect, the tiles as lines, and the last
//! hour as small bars. It is drawn from JSON, so that the status of another version can be shown too.

use std::fmt::Write as _;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::printable;
use crate::admin::chart::ChartUnit;
use crate::admin::moment::relative;

/// Columns of the bars: one for 90 s.
const COLUMNS: usize = 40;
/// Length of the history, seconds.
const HOUR: f64 = 3_600.0;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Quantities of the history: key, title and unit.
const SERIES: [(&str, &str, ChartUnit); 3] = [
    ("rate", "Rate", ChartUnit::Rate),
    ("lag", "Lag", ChartUnit::Seconds),
    ("unacked", "Un-acked", ChartUnit::Count),
];

/// A status to be drawn.
#[derive(Debug)]
pub(super) struct StatusScreen<'a> {
    pub status: &'a Value,
    /// The document of `/api/history`.
    pub history: Option<&'a Value>,
    pub colours: bool,
    pub now: OffsetDateTime,
}

impl StatusScreen<'_> {
    /// Draws the sentence, the tiles and the bars. `None` if the service is of a version without them.
    pub fn draw(&self) -> Option<String> {
        let summary = self.status.get("summary")?;
        let mut out = String::new();
        let verdict = text(summary, "verdict");
        let sentence =
            self.paint(&verdict, &format!("{} {}", symbol(&verdict), text(summary, "sentence")));
        let _ = writeln!(out, "{sentence}");
        let findings = summary.get("findings").and_then(Value::as_array);
        let findings = findings.map_or(&[][..], Vec::as_slice);
        for finding in findings {
            if findings.len() > 1 {
                let verdict = text(finding, "verdict");
                let problem = format!("{} {}", symbol(&verdict), text(finding, "problem"));
                let _ = writeln!(out, "\n  {}", self.paint(&verdict, &problem));
            }
            for (key, label) in [("cause", "Cause"), ("remedy", "Remedy"), ("effect", "Effect")] {
                let _ = writeln!(out, "  {label:<8}{}", text(finding, key));
            }
        }
        out.push('\n');
        for tile in self.status.get("tiles").and_then(Value::as_array).into_iter().flatten() {
            let _ = writeln!(out, "{}", self.tile(tile));
        }
        if let Some(history) = self.history.and_then(|history| history.get("hour")) {
            out.push('\n');
            for (key, title, unit) in SERIES {
                let _ = writeln!(out, "{}", self.bars(history, key, title, unit));
            }
        }
        Some(out)
    }

    fn tile(&self, tile: &Value) -> String {
        let state = text(tile, "state");
        let at = tile.get("at").and_then(Value::as_str);
        let at = at.and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
        let at = at.map(|at| format!("{} {}", text(tile, "label"), relative(at, self.now)));
        let detail = Some(text(tile, "detail")).filter(|detail| !detail.is_empty());
        let facts: Vec<_> = detail.into_iter().chain(at).collect();
        let value = format!("{} {:<18}", symbol(&state), text(tile, "value"));
        let line = format!(
            "  {:<13}{}{}",
            text(tile, "title"),
            self.paint(&state, &value),
            facts.join(" · ")
        );
        line.trim_end().to_owned()
    }

    fn bars(&self, history: &Value, key: &str, title: &str, unit: ChartUnit) -> String {
        let points: Vec<(f64, f64)> = history
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|point| {
                let at = OffsetDateTime::parse(point.get("at")?.as_str()?, &Rfc3339).ok()?;
                Some(((self.now - at).as_seconds_f64(), point.get(key)?.as_f64()?))
            })
            .collect();
        let newest = points.last().map_or_else(|| "–".to_owned(), |point| unit.text(point.1));
        let peak = points.iter().map(|point| point.1).fold(0.0, f64::max);
        let bars = bars(&points, peak);
        format!("  {title:<13}{bars}  {newest:<9} peak of the hour {}", unit.text(peak))
    }

    fn paint(&self, state: &str, text: &str) -> String {
        let code = match state {
            "well" | "good" => "32",
            "degraded" | "warn" => "33",
            "needs_you" | "bad" => "31",
            _ => "2",
        };
        if self.colours { format!("\u{1b}[1;{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Draws the highest value of each column. A column without values is blank.
fn bars(points: &[(f64, f64)], peak: f64) -> String {
    let mut columns = [None; COLUMNS];
    for (age, value) in points {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let place = (1.0 - age / HOUR) * COLUMNS as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        if (0.0..=40.0).contains(&place) && value.is_finite() {
            let column = &mut columns[(place as usize).min(COLUMNS - 1)];
            *column = Some(f64::max(column.unwrap_or(0.0), *value));
        }
    }
    let bar = |value: &Option<f64>| {
        let Some(value) = value else { return ' ' };
        let share = if peak > 0.0 { (value / peak).clamp(0.0, 1.0) } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7")]
        BARS[(share * 7.0).round() as usize]
    };
    columns.iter().map(bar).collect()
}

fn symbol(state: &str) -> char {
    match state {
        "well" | "good" => '✓',
        "degraded" | "warn" => '▲',
        "needs_you" | "bad" => '✗',
        _ => '–',
    }
}

/// Returns a text of the document without control characters.
fn text(value: &Value, key: &str) -> String {
    printable(value.get(key).and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-27 12:00 UTC);

    fn draw(status: &Value, history: Option<&Value>, colours: bool) -> Option<String> {
        StatusScreen { status, history, colours, now: NOW }.draw()
    }

    #[test]
    fn sentence_tiles_and_bars_are_drawn() {
        let status = json!({
            "summary": {"verdict": "degraded", "sentence": "Degraded: slow.", "findings": [
                {"verdict": "degraded", "problem": "slow", "cause": "a\u{1b}[31m", "remedy": "b",
                 "effect": "c"},
            ]},
            "tiles": [{"title": "Database", "state": "good", "value": "Answers", "detail": "",
                       "label": "last commit", "at": "2026-11-27T11:59:00Z"}],
        });
        let history = json!({"hour": [
            {"at": "2026-11-27T11:30:00Z", "rate": 1.0, "lag": null, "unacked": 0},
            {"at": "2026-11-27T11:59:59Z", "rate": 2.0, "lag": 0.5, "unacked": 4},
        ]});
        let text = draw(&status, Some(&history), false).expect("a screen");
        let expected = "▲ Degraded: slow.\n  Cause   a [31m\n  Remedy  b\n  Effect  c\n\n  \
            Database     ✓ Answers           last commit 60 s ago\n\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("█  2.0/s     peak of the hour 2.0/s"), "{text}");
        assert!(text.contains("▅"), "{text}");
        let coloured = draw(&status, None, true).expect("a screen");
        assert!(coloured.starts_with("\u{1b}[1;33m▲ Degraded: slow.\u{1b}[0m\n"), "{coloured}");
        assert_eq!(draw(&json!({"ready": true}), None, false), None);
    }

    proptest! {
        #[test]
        fn any_points_draw_forty_columns(points in prop::collection::vec(any::<(f64, f64)>(), 0..60)) {
            let peak = points.iter().map(|point| point.1).fold(0.0, f64::max);
            prop_assert_eq!(bars(&points, peak).chars().count(), COLUMNS);
        }
    }
}
