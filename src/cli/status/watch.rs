//! `status --watch`: draws the status every two seconds, until `q` or Ctrl-C. A frame replaces the one
//! before it line by line, so that nothing flickers.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use console::{Key, Term};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

/// Interval between two frames.
const INTERVAL: Duration = Duration::from_secs(2);

/// Another screen without a cursor, and back.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// Draws frames until the end is asked for. Where standard output is no terminal, each frame follows the
/// one before.
pub(super) async fn watch(mut frame: impl AsyncFnMut() -> String) -> io::Result<()> {
    let is_terminal = io::stdout().is_terminal();
    if is_terminal {
        write(ENTER)?;
    }
    let is_interactive = is_terminal && io::stdin().is_terminal();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let drawn = async {
        loop {
            ticks.tick().await;
            let text = frame().await;
            write(&if is_terminal { over_the_last(&text) } else { text + "\n" })?;
        }
    };
    let result = tokio::select! {
        result = drawn => result,
        () = quit_key(), if is_interactive => Ok(()),
        result = tokio::signal::ctrl_c() => result,
    };
    if is_terminal {
        write(LEAVE)?;
    }
    result
}

/// Waits for `q`. Reading a key blocks, so that a thread of its own reads.
async fn quit_key() {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let terminal = Term::stdout();
        while !matches!(
            terminal.read_key(),
            Ok(Key::Char('q' | 'Q') | Key::Escape | Key::CtrlC) | Err(_)
        ) {}
        let _ = sender.send(());
    });
    let _ = receiver.await;
}

/// Returns the bytes that replace the last frame: each line clears the rest of its own, and the last the
/// rest of the screen. The terminal shows them at once.
fn over_the_last(text: &str) -> String {
    let lines = text.replace('\n', "\u{1b}[K\n");
    format!("\u{1b}[?2026h\u{1b}[H{lines}\u{1b}[J\u{1b}[?2026l")
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
