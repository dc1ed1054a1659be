//! Publishes at a steady rate and survives broker failures: unacknowledged messages are published
//! again on the next connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::expected::ExpectedState;
use super::source::{MessageSource, SourceMessage};
use crate::support::process::background;
use crate::support::publisher::TestPublisher;
use crate::support::wait::until_true;

/// Source events per [`TICK`]: about 190 messages a second.
const AT_ONCE: usize = 3;
const TICK: Duration = Duration::from_millis(20);

/// Source events published at once while a backlog is built.
const BACKLOG_AT_ONCE: usize = 500;

/// Deadline for a backlog, on a busy machine too.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(90);

/// Delay before reconnecting to an absent broker.
const RETRY: Duration = Duration::from_millis(50);

/// A publisher and its record of accepted messages.
pub struct LoadPublisher {
    shared: Arc<PublisherState>,
    task: JoinHandle<()>,
}

struct PublisherState {
    /// Port of the broker.
    port: u16,
    expected: Mutex<ExpectedState>,
    attempts: AtomicUsize,
    /// Number of messages to publish as fast as the broker accepts them.
    backlog: AtomicUsize,
    /// Held while messages are in flight.
    gate: Arc<tokio::sync::Mutex<()>>,
    stop: CancellationToken,
}

impl LoadPublisher {
    /// Starts publishing to a plain listener.
    pub fn start(port: u16, source: MessageSource) -> Self {
        let shared = Arc::new(PublisherState {
            port,
            expected: Mutex::default(),
            attempts: AtomicUsize::new(0),
            backlog: AtomicUsize::new(0),
            gate: Arc::default(),
            stop: CancellationToken::new(),
        });
        let task = background().spawn(Arc::clone(&shared).publish(source));
        Self { shared, task }
    }

    /// Pauses publishing while the guard lives. Everything published so far is acknowledged.
    pub async fn pause(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.shared.gate).lock_owned().await
    }

    /// Publishes that many messages at once, and waits until the broker has accepted them.
    pub async fn make_backlog(&self, messages: usize) {
        self.shared.backlog.store(messages, Ordering::SeqCst);
        until_true("the backlog", PUBLISHED_WITHIN, || {
            self.shared.backlog.load(Ordering::SeqCst) == 0
        })
        .await;
        drop(self.pause().await);
    }

    /// Stops after the last acknowledgement. The broker must be available.
    pub async fn stop(&mut self) {
        self.shared.stop.cancel();
        (&mut self.task).await.expect("the publisher failed");
    }

    /// Returns the rows expected of the accepted messages.
    pub fn expected(&self) -> MutexGuard<'_, ExpectedState> {
        self.shared.expected()
    }

    /// Counts the messages sent, repeated ones again.
    pub fn attempts(&self) -> usize {
        self.shared.attempts.load(Ordering::Relaxed)
    }
}

impl Drop for LoadPublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PublisherState {
    fn expected(&self) -> MutexGuard<'_, ExpectedState> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(self: Arc<Self>, mut source: MessageSource) {
        let mut connection = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stop.is_cancelled() {
            let missing = self.backlog.load(Ordering::SeqCst);
            let happenings = if missing > 0 { BACKLOG_AT_ONCE } else { AT_ONCE };
            if missing == 0 {
                tick.tick().await;
            }
            let _under_way = self.gate.lock().await;
            let messages: Vec<_> = (0..happenings).flat_map(|_| source.happening()).collect();
            let published = if missing > 0 { messages.len() } else { 0 };
            self.deliver(&mut connection, messages).await;
            let left = |backlog: usize| Some(backlog.saturating_sub(published));
            let _ = self.backlog.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        }
    }

    async fn deliver(
        &self,
        connection: &mut Option<TestPublisher>,
        mut messages: Vec<SourceMessage>,
    ) {
        let sent_at = Instant::now();
        while !messages.is_empty() {
            let Some(publisher) = self.connected(connection).await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            self.attempts.fetch_add(messages.len(), Ordering::Relaxed);
            let copies: Vec<_> =
                messages.iter().map(|m| (m.topic.clone(), m.payload.clone())).collect();
            let taken = publisher.publish_all(copies).await;
            let acked_at = Instant::now();
            for message in messages.drain(..taken) {
                self.expected().took(message, sent_at, acked_at);
            }
            if !messages.is_empty() {
                *connection = None;
            }
        }
    }

    async fn connected<'a>(
        &self,
        connection: &'a mut Option<TestPublisher>,
    ) -> Option<&'a TestPublisher> {
        if connection.is_none() {
            *connection = TestPublisher::try_connect(self.port, "platform-chaos").await.ok();
        }
        connection.as_ref()
    }
}
