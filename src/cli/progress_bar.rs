//! Progress of a long command on standard error: amount, rate and time left. Nothing is shown where
//! standard error is no terminal.

use std::fmt;
use std::time::Duration;

use indicatif::{ProgressDrawTarget, ProgressState, ProgressStyle};

/// Interval of redraws while a step reports nothing.
const REDRAW: Duration = Duration::from_millis(250);

/// Redraws per second while a step reports often.
const MOST_REDRAWS: u8 = 10;

/// A line that shows how far a command is. It is removed at the end, so that the result replaces it.
#[derive(Debug)]
pub(super) struct ProgressBar {
    bar: indicatif::ProgressBar,
}

impl ProgressBar {
    /// Creates a bar for `total` things of this kind, such as `tags`.
    pub fn counting(doing: &str, things: &str, total: u64) -> Self {
        let template = format!(
            "{{msg}} {{bar:24}} {{percent:>3}} % {{human_pos}} of {{human_len}} {things}, \
             {{rate}}, {{eta}} left"
        );
        Self::with(doing, Some(total), &template)
    }

    /// Creates a bar for `total` bytes.
    pub fn bytes(doing: &str, total: u64) -> Self {
        let template = "{msg} {bar:24} {percent:>3} % {bytes} of {total_bytes}, \
                        {bytes_per_sec}, {eta} left";
        Self::with(doing, Some(total), template)
    }

    /// Creates a line for a number of things that has no end.
    pub fn endless(doing: &str, things: &str) -> Self {
        let template = format!("{{msg}} {{human_pos}} {things}, {{rate}}, for {{elapsed}}");
        Self::with(doing, None, &template)
    }

    /// Creates a line for steps of unknown length, with the time of the present one.
    pub fn steps() -> Self {
        Self::with("", None, "{spinner} {msg} {elapsed}")
    }

    fn with(doing: &str, total: Option<u64>, template: &str) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(MOST_REDRAWS);
        let bar = indicatif::ProgressBar::with_draw_target(total, target);
        // Unwrap safety: a test parses every template.
        let style = ProgressStyle::with_template(template).expect("a template that parses");
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A line that cannot be formatted is shown without its rate.
            let _ = write!(out, "{:.0}/s", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate).progress_chars("=> ").tick_chars("|/-\\ "));
        bar.set_message(doing.to_owned());
        bar.enable_steady_tick(REDRAW);
        Self { bar }
    }

    /// Returns true if nothing is shown, so that a command may print lines instead.
    pub fn is_hidden(&self) -> bool {
        self.bar.is_hidden()
    }

    /// Prints lines without the bar between them.
    pub fn hidden_while<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Shows how many things are done.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Shows how many things there are, and how many are done.
    pub fn set_of(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Shows the next step, and counts its time from now on.
    pub fn step(&self, name: String) {
        self.bar.set_message(name);
        self.bar.reset_elapsed();
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_a_template_that_parses() {
        let bars = [
            ProgressBar::counting("rebuilding", "tags", 10),
            ProgressBar::bytes("restoring", 10),
            ProgressBar::endless("publishing", "events"),
            ProgressBar::steps(),
        ];
        for bar in bars {
            bar.set_of(3, 12);
            bar.step("next".to_owned());
        }
    }
}
