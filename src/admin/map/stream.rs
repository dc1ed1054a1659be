//! The stream of changes to one viewer, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream::{self, Stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::feed::{MapFeed, MapStatus, MapView, NextFrames};

/// A stream ends this long before its connection is closed. The browser connects again and continues
/// after the last event.
const MARGIN: Duration = Duration::from_secs(3);

/// An event is sent at least this often. It has the age of the content, and shows a browser that has
/// gone.
const BEAT: Duration = Duration::from_secs(5);

/// First line of a stream: wait of the browser before it connects again.
const RETRY: &str = "retry: 1000\n\n";

/// Sent in place of changes that are not kept any more. The viewer loads the content again.
const RESET: &str = "event: reset\ndata: {}\n\n";

/// A viewer and its place in the history. It holds no frame, so that a viewer that does not read costs
/// no memory.
struct Viewer {
    feed: Arc<MapFeed>,
    view: watch::Receiver<MapView>,
    /// Number of the last frame sent. `None` if the viewer starts with a reset.
    number: Option<u64>,
    ends: Instant,
    is_open: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.feed.want();
        self.feed.metrics.map_viewers.dec();
    }
}

/// Returns the body of a stream that begins after a frame. `number` is `None` if the viewer knows no
/// frame of this process. The permit is freed with the stream.
pub fn body(
    feed: Arc<MapFeed>,
    permit: OwnedSemaphorePermit,
    number: Option<u64>,
    deadline: Instant,
) -> Body {
    feed.metrics.map_viewers.inc();
    feed.want();
    let view = feed.subscribe();
    let ends = deadline.checked_sub(MARGIN).unwrap_or(deadline);
    let viewer = Viewer { feed, view, number, ends, is_open: true, _permit: permit };
    Body::from_stream(events(viewer))
}

fn events(viewer: Viewer) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let first = stream::iter([Ok([RETRY.as_bytes(), &viewer.beat()].concat().into())]);
    let rest = stream::unfold(viewer, async |mut viewer| {
        let bytes = viewer.next().await?;
        Some((Ok(bytes), viewer))
    });
    futures_util::StreamExt::chain(first, rest)
}

impl Viewer {
    /// Waits for the next bytes to send. `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.is_open {
            return None;
        }
        let beat = (Instant::now() + BEAT).min(self.ends);
        loop {
            self.view.borrow_and_update();
            let next = self.number.map_or(NextFrames::TooOld, |number| self.feed.after(number));
            match next {
                NextFrames::TooOld => {
                    self.is_open = false;
                    return Some(Bytes::from_static(RESET.as_bytes()));
                }
                NextFrames::Frames { bytes, number } if !bytes.is_empty() => {
                    self.number = Some(number);
                    return Some(bytes.concat().into());
                }
                NextFrames::Frames { .. } => {}
            }
            if Instant::now() >= self.ends {
                return None;
            }
            if timeout_at(beat, self.view.changed()).await.is_err() && beat < self.ends {
                return Some(self.beat());
            }
        }
    }

    /// Encodes the age of the content.
    fn beat(&self) -> Bytes {
        let view = self.view.borrow();
        // Unwrap safety: a struct of text and numbers.
        let status = serde_json::to_string(&MapStatus::of(&view)).expect("a status is JSON");
        format!("event: beat\ndata: {status}\n\n").into()
    }
}
