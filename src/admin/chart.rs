//! Line charts as SVG, drawn on the server: they need no library and no script. Pure: the time is an
//! argument.

use std::fmt::Write as _;

use maud::{Markup, html};
use time::OffsetDateTime;

use super::moment::{count, span};
use crate::timestamp;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 84.0;
/// Space for the largest value above the curve.
const TOP: f64 = 12.0;
/// Columns that show the value at a time on hover.
const COLUMNS: usize = 60;

/// Unit of the values of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChartUnit {
    /// Events each second.
    Rate,
    /// Seconds.
    Seconds,
    /// A number of messages.
    Count,
}

impl ChartUnit {
    /// Formats a value.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Rate if value >= 9.95 => format!("{}/s", whole(value)),
            Self::Rate if value > 0.0 && value < 0.095 => format!("{:.1}/min", value * 60.0),
            Self::Rate => format!("{value:.1}/s"),
            Self::Seconds => span(value),
            Self::Count => whole(value),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count for display")]
fn whole(value: f64) -> String {
    count(value.round().max(0.0) as u64)
}

/// A time and the value at it.
pub type ChartPoint = (OffsetDateTime, f64);

/// A line chart.
#[derive(Debug)]
pub struct LineChart<'a> {
    /// Period, such as "Last hour".
    pub period: &'a str,
    /// Quantity, for screen readers.
    pub quantity: &'a str,
    /// Points, oldest first. Values that are not finite are left out.
    pub points: &'a [ChartPoint],
    /// Length of the period, seconds.
    pub span_seconds: f64,
    /// Usual interval of points, seconds. A longer one interrupts the curve.
    pub step_seconds: f64,
    /// Unit of the values.
    pub unit: ChartUnit,
    /// Present time, the right edge.
    pub now: OffsetDateTime,
}

impl LineChart<'_> {
    /// Draws the chart.
    pub fn render(&self) -> Markup {
        let points: Vec<_> = self.visible().collect();
        let most = points.iter().map(|point| point.1).fold(0.0, f64::max);
        let top = ceiling(most);
        let place = |(x, value): (f64, f64)| (x, HEIGHT - value / top * (HEIGHT - TOP));
        let segments = self.segments(&points);
        let label = if points.is_empty() {
            format!("{}, {}: no values", self.quantity, self.period)
        } else {
            let newest = points.last().map_or(0.0, |point| point.1);
            let (most, newest) = (self.unit.text(most), self.unit.text(newest));
            format!("{}, {}: at most {most}, newest {newest}", self.quantity, self.period)
        };
        html! {
            figure .chart {
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + 2.0) } role="img" aria-label=(label) {
                    line .grid x1="0" x2=(WIDTH) y1=(TOP) y2=(TOP) {}
                    line .grid x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
                    @for segment in &segments {
                        @if let [only] = segment[..] {
                            @let (x, y) = place(only);
                            circle .dot cx=(number(x)) cy=(number(y)) r="1.5" {}
                        } @else {
                            @let curve = path(segment.iter().copied().map(place));
                            path .area d={ (curve) (closing(segment)) } {}
                            path .curve d=(curve) {}
                        }
                    }
                    text x="0" y=(TOP - 3.0) aria-hidden="true" { (self.unit.text(top)) }
                    @if points.is_empty() {
                        text x=(WIDTH / 2.0) y=(HEIGHT / 2.0 + 4.0) text-anchor="middle" aria-hidden="true"
                            { "no values yet" }
                    }
                    @for (x, width, text) in self.columns() {
                        rect .hit x=(number(x)) y="0" width=(number(width)) height=(HEIGHT) {
                            title { (text) }
                        }
                    }
                }
                figcaption aria-hidden="true" {
                    span { (self.period) }
                    span { "peak " (self.unit.text(most)) }
                    span { "now" }
                }
            }
        }
    }

    /// Returns the points within the period, with their place from left to right.
    fn visible(&self) -> impl Iterator<Item = (f64, f64)> {
        self.points.iter().filter_map(|(at, value)| {
            let age = (self.now - *at).as_seconds_f64();
            let x = WIDTH * (1.0 - age / self.span_seconds);
            let is_shown = value.is_finite() && *value >= 0.0 && (0.0..=WIDTH).contains(&x);
            is_shown.then_some((x, *value))
        })
    }

    /// Cuts the curve where points are missing.
    fn segments(&self, points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
        let widest = WIDTH * self.step_seconds * 2.5 / self.span_seconds;
        points.chunk_by(|a, b| b.0 - a.0 <= widest).map(<[_]>::to_vec).collect()
    }

    /// Returns place, width and text of the columns that have a value.
    fn columns(&self) -> Vec<(f64, f64, String)> {
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let width = WIDTH / COLUMNS as f64;
        let mut columns: Vec<(f64, f64, String)> = Vec::new();
        for (at, value) in self.points {
            let age = (self.now - *at).as_seconds_f64();
            let x = (WIDTH * (1.0 - age / self.span_seconds) / width).floor() * width;
            if !value.is_finite() || *value < 0.0 || !(0.0..WIDTH).contains(&x) {
                continue;
            }
            let text = format!("{} at {}", self.unit.text(*value), timestamp::shown(*at));
            match columns.last_mut() {
                Some(last) if (last.0 - x).abs() < f64::EPSILON => last.2 = text,
                _ => columns.push((x, width, text)),
            }
        }
        columns
    }
}

/// Rounds up to 1, 2 or 5 times a power of ten. Never 0.
fn ceiling(most: f64) -> f64 {
    if !most.is_finite() || most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(most.log10().floor()).max(f64::MIN_POSITIVE);
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= most * 0.999_999).unwrap_or(most)
}

fn number(value: f64) -> String {
    format!("{value:.1}")
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    for (x, y) in points {
        let command = if path.is_empty() { 'M' } else { 'L' };
        // Unwrap safety: writing to a String does not fail.
        write!(path, "{command}{x:.1} {y:.1}").expect("a String takes everything");
    }
    path
}

/// Returns the end of the area below a segment.
fn closing(segment: &[(f64, f64)]) -> String {
    let edge = |point: Option<&(f64, f64)>| point.map_or(0.0, |point| point.0);
    let (first, last) = (edge(segment.first()), edge(segment.last()));
    format!("L{last:.1} {HEIGHT}L{first:.1} {HEIGHT}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-27 12:00 UTC);

    fn drawn(points: &[ChartPoint]) -> String {
        let chart = LineChart {
            period: "Last hour",
            quantity: "Rate",
            points,
            span_seconds: 3_600.0,
            step_seconds: 10.0,
            unit: ChartUnit::Rate,
            now: NOW,
        };
        chart.render().into_string()
    }

    #[test]
    fn missing_points_interrupt_the_curve() {
        let at = |seconds: i64| (NOW - time::Duration::seconds(seconds), 4.0);
        let svg = drawn(&[at(300), at(290), at(280), at(20), at(10)]);
        assert_eq!(svg.matches("class=\"curve\"").count(), 2, "{svg}");
        assert!(svg.contains("at most 4.0/s, newest 4.0/s"), "{svg}");
        assert_eq!(drawn(&[at(100)]).matches("<circle").count(), 1);
        assert!(drawn(&[]).contains("no values yet"));
    }

    #[test]
    fn scale_ends_at_a_round_number() {
        for (most, top) in [(0.0, 1.0), (0.3, 0.5), (1.0, 1.0), (7.0, 10.0), (1_201.0, 2_000.0)] {
            assert!((ceiling(most) - top).abs() < 1e-9, "{most}");
        }
    }

    proptest! {
        #[test]
        fn any_values_draw_finite_numbers(
            points in prop::collection::vec((-9_000i64..9_000, any::<f64>()), 0..50)
        ) {
            let points: Vec<_> = points
                .into_iter()
                .map(|(age, value)| (NOW - time::Duration::seconds(age), value))
                .collect();
            let svg = drawn(&points);
            for word in ["NaN", "inf"] {
                prop_assert!(!svg.contains(word), "{}", svg);
            }
        }
    }
}
