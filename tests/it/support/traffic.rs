//! The traffic through a proxy, as its observers see it.

use std::future::Future;
use std::pin::Pin;

/// Direction of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

/// Observes the bytes before they are forwarded, and may delay them by waiting.
pub trait TrafficObserver: Send + Sync + 'static {
    /// Handles a chunk of bytes. `connection` counts from 0.
    fn bytes<'a>(
        &'a self,
        connection: u64,
        direction: Direction,
        bytes: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}
