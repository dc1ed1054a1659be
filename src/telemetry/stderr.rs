//! Non-blocking standard error. Lines wait in a bounded queue for a writer thread. A reader that
//! hangs (a container's log driver, a terminal after Ctrl-S) stops only that thread, and lines that
//! find the queue full are dropped and counted.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

/// Most bytes in the queue: some thousand lines, enough for a burst and little for a small host.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// Longest wait for queued lines at the end of the process.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Wait before a write is retried. Standard error may be in non-blocking mode, which it shares with
/// other programs on a terminal.
const WRITE_RETRY_DELAY: Duration = Duration::from_millis(10);

/// Writes one line. Never blocks and never fails.
pub fn line(text: impl Display) {
    queue().push(format!("{text}\n").into_bytes());
}

/// Waits until all lines are written, for one second at most.
pub fn flush() {
    queue().flush(FLUSH_WITHIN);
}

/// Returns the counter of dropped lines.
pub fn dropped() -> Counter {
    queue().shared.dropped.clone()
}

/// A writer to standard error through the queue. Each write must be a whole line, because it may be
/// dropped.
#[derive(Debug, Clone, Copy)]
pub struct StderrWriter;

impl Write for StderrWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        queue().push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reports panics as log errors, or as a line if there is no log. The default hook would block if
/// standard error blocks.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        if tracing::dispatcher::has_been_set() {
            let backtrace = backtrace.to_string();
            tracing::error!(error = %panic, backtrace, "internal error; please report it");
        } else {
            line(format_args!("centiloc-bridge: internal error: {panic}\n{backtrace}"));
        }
    }));
}

fn queue() -> &'static LineQueue {
    static QUEUE: OnceLock<LineQueue> = OnceLock::new();
    QUEUE.get_or_init(|| LineQueue::start(io::stderr()))
}

/// A queue of lines for a writer that may block.
#[derive(Debug)]
struct LineQueue {
    shared: Arc<SharedQueue>,
}

#[derive(Debug, Default)]
struct SharedQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    /// Sum of the bytes in `lines`. Invariant: at most [`MAX_QUEUED_BYTES`].
    bytes: usize,
    /// True while the thread writes a line taken from `lines`.
    writing: bool,
}

impl LineQueue {
    /// Starts the writer thread. If that fails, all lines are dropped and counted.
    fn start(mut writer: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(SharedQueue::default());
        let of_thread = Arc::clone(&shared);
        let started = thread::Builder::new()
            .name("stderr".to_owned())
            .spawn(move || of_thread.write_lines(&mut writer));
        if started.is_err() {
            shared.state().bytes = MAX_QUEUED_BYTES;
        }
        Self { shared }
    }

    fn push(&self, line: Vec<u8>) {
        let mut state = self.shared.state();
        if state.bytes + line.len() > MAX_QUEUED_BYTES {
            self.shared.dropped.inc();
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.shared.changed.notify_all();
    }

    /// Waits until all lines are written. Returns false after `limit`.
    fn flush(&self, limit: Duration) -> bool {
        let state = self.shared.state();
        let busy = |state: &mut QueueState| state.writing || !state.lines.is_empty();
        let waited = self.shared.changed.wait_timeout_while(state, limit, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl SharedQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lines(&self, writer: &mut impl Write) {
        let mut reported = 0;
        loop {
            let line = self.next_line();
            if write_whole(writer, &line).is_err() {
                self.dropped.inc();
            } else if self.caught_up() && self.dropped.get() > reported {
                let lines = self.dropped.get() - reported;
                reported += lines;
                tracing::warn!(lines, "log lines were dropped: standard error did not accept them");
            }
            self.state().writing = false;
            self.changed.notify_all();
        }
    }

    fn next_line(&self) -> Vec<u8> {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return line;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn caught_up(&self) -> bool {
        self.state().lines.is_empty()
    }
}

fn write_whole(writer: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(WRITE_RETRY_DELAY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// A writer that blocks until the test sends the result of its next write.
    struct GatedWriter {
        results: Receiver<io::Result<usize>>,
        written: Sender<Vec<u8>>,
    }

    impl Write for GatedWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.results.recv().expect("the test is over")?.min(bytes.len());
            let _ = self.written.send(bytes[..count].to_vec());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (LineQueue, Sender<io::Result<usize>>, Receiver<Vec<u8>>) {
        let (allow, results) = channel();
        let (written, writes) = channel();
        (LineQueue::start(GatedWriter { results, written }), allow, writes)
    }

    #[test]
    fn blocked_writer_drops_lines_without_delay() {
        const LINE: usize = 1024;
        let (queue, allow, _writes) = gated();
        // The thread has taken one line, and the queue is full.
        let most = MAX_QUEUED_BYTES / LINE + 1;
        for _ in 0..most + 10 {
            queue.push(vec![b'x'; LINE]);
        }
        let dropped = queue.shared.dropped.get();
        assert!((10..=11).contains(&dropped), "{dropped}");
        assert!(!queue.flush(Duration::from_millis(10)));
        for _ in 0..most {
            allow.send(Ok(LINE)).unwrap();
        }
        assert!(queue.flush(SOON), "all that was queued is written");
        assert_eq!(queue.shared.state().bytes, 0);
    }

    #[test]
    fn lines_are_written_whole_and_in_order() {
        let (queue, allow, writes) = gated();
        queue.push(b"first\n".to_vec());
        queue.push(b"second\n".to_vec());
        for result in [Ok(2), Err(ErrorKind::WouldBlock), Err(ErrorKind::Interrupted)] {
            allow.send(result.map_err(Into::into)).unwrap();
        }
        for _ in 0..2 {
            allow.send(Ok(usize::MAX)).unwrap();
        }
        assert!(queue.flush(SOON));
        let written: Vec<u8> = writes.try_iter().flatten().collect();
        assert_eq!(written, b"first\nsecond\n");
        assert_eq!(queue.shared.dropped.get(), 0);
    }

    #[test]
    fn line_that_cannot_be_written_is_counted() {
        let (queue, allow, writes) = gated();
        queue.push(b"lost\n".to_vec());
        queue.push(b"next\n".to_vec());
        allow.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
        allow.send(Ok(usize::MAX)).unwrap();
        assert!(queue.flush(SOON));
        assert_eq!(writes.try_iter().collect::<Vec<_>>(), [b"next\n"]);
        assert_eq!(queue.shared.dropped.get(), 1);
    }
}
