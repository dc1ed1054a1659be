//! Waiting on conditions. A test never sleeps and hopes. It states the condition that it waits for,
//! with a deadline.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Interval between two polls of a condition: short against everything waited for, long against the
/// poll itself.
const POLL: Duration = Duration::from_millis(20);

/// Deadline for operations that take milliseconds on an idle machine. It is generous, because tests
/// share two cores with builds. A passing test never waits for it.
pub const SOON: Duration = Duration::from_secs(30);

/// Polls until `poll` returns `Ok`, and returns its value.
///
/// Panics after `deadline` with `what` was waited for and the last `Err`, the state last seen.
pub async fn until<T, S, F>(what: &str, deadline: Duration, mut poll: impl FnMut() -> F) -> T
where
    S: Debug,
    F: Future<Output = Result<T, S>>,
{
    let started = Instant::now();
    let mut last = "nothing yet".to_owned();
    loop {
        // A hanging poll must not outlive the deadline either.
        let left = deadline.saturating_sub(started.elapsed()).max(POLL);
        match tokio::time::timeout(left, poll()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(state)) => last = format!("{state:?}"),
            Err(_) => last.push_str(" (the last poll did not return)"),
        }
        assert!(
            started.elapsed() < deadline,
            "waited {deadline:?} for {what} without success. Last state: {last}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Does the same as [`until`] for a synchronous poll that returns a bool.
pub async fn until_true(what: &str, deadline: Duration, mut poll: impl FnMut() -> bool) {
    until(what, deadline, || std::future::ready(if poll() { Ok(()) } else { Err("not yet") }))
        .await;
}

/// Polls until `poll` returns `expected`.
pub async fn until_eq<T, F>(
    what: &str,
    deadline: Duration,
    expected: T,
    mut poll: impl FnMut() -> F,
) where
    T: PartialEq + Debug,
    F: Future<Output = T>,
{
    until(what, deadline, || {
        let seen = poll();
        let expected = &expected;
        async move {
            let seen = seen.await;
            if &seen == expected { Ok(()) } else { Err(seen) }
        }
    })
    .await;
}

/// Runs futures concurrently and returns their outputs in order.
pub async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut pinned {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    pinned.into_iter().filter_map(|(_, output)| output).collect()
}
