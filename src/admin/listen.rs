//! Limits on the connections of the admin endpoint. Slow or many clients cost a bounded number of
//! sockets for a bounded time, and never keep a probe from connecting.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Most connections open at a time: a hundred viewers with a stream each, and scrapers and probes. When
/// one more is accepted, the oldest is closed, so that a client that hoards connections locks nobody
/// out.
pub const MAX_CONNECTIONS: usize = 256;
/// Longest lifetime of a connection, however slowly its client sends or reads. Scrapers that keep
/// theirs open connect again.
const MAX_LIFETIME: Duration = Duration::from_secs(30);
/// Wait after a failed accept, for example while file descriptors are short.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Error of [`bind`], with a hint for the operator.
#[derive(Debug, thiserror::Error)]
#[error("the admin endpoint could not listen on {address}: {source}; {hint}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
    hint: &'static str,
}

/// Opens the listening socket of `admin.listen`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| {
        let hint = match source.kind() {
            ErrorKind::AddrInUse => {
                "another program holds it: stop that one, or set admin.listen to a free port"
            }
            ErrorKind::AddrNotAvailable => {
                "no interface of this host has that address: set admin.listen to one it has, or \
                 to 127.0.0.1 for this host alone"
            }
            ErrorKind::PermissionDenied => {
                "ports below 1024 are reserved: set admin.listen to a higher one"
            }
            _ => "set admin.listen to another address, or to \"\" to turn the endpoint off",
        };
        BindError { address, source, hint }
    })
}

/// A listener whose connections are limited in number and lifetime.
#[derive(Debug)]
pub struct LimitedListener {
    listener: TcpListener,
    /// Closes every connection when cancelled.
    all: CancellationToken,
    /// Tokens that close the newest connections one by one. Older connections are already
    /// cancelled, and some of these may have ended by themselves. Invariant: at most
    /// [`MAX_CONNECTIONS`].
    newest: VecDeque<CancellationToken>,
}

impl LimitedListener {
    /// Limits the connections of `listener`. Cancelling `all` closes every connection.
    pub fn new(listener: TcpListener, all: CancellationToken) -> Self {
        Self { listener, all, newest: VecDeque::with_capacity(MAX_CONNECTIONS) }
    }

    /// Makes room for one more connection and returns the token that closes it.
    fn admit(&mut self) -> CancellationToken {
        if self.newest.len() == MAX_CONNECTIONS
            && let Some(oldest) = self.newest.pop_front()
        {
            oldest.cancel();
        }
        let end = self.all.child_token();
        self.newest.push_back(end.clone());
        end
    }
}

impl Listener for LimitedListener {
    type Io = LimitedConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedConnection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    return (LimitedConnection::new(stream, self.admit()), peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "admin endpoint failed to accept a connection; retrying");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its lifetime has passed or its token is cancelled.
#[derive(Debug)]
pub struct LimitedConnection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// A connection as its requests see it.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts {
    /// The time at which it is closed.
    pub deadline: Instant,
    /// The address of the client.
    pub peer: SocketAddr,
}

impl Connected<IncomingStream<'_, LimitedListener>> for ConnectionFacts {
    fn connect_info(stream: IncomingStream<'_, LimitedListener>) -> Self {
        Self { deadline: stream.io().deadline.deadline(), peer: *stream.remote_addr() }
    }
}

impl LimitedConnection {
    fn new(stream: TcpStream, end: CancellationToken) -> Self {
        Self {
            stream,
            deadline: Box::pin(sleep(MAX_LIFETIME)),
            ended: Box::pin(end.cancelled_owned()),
        }
    }

    /// Returns ready with an error once the connection may no longer be used.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(ErrorKind::ConnectionAborted.into());
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for LimitedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_closed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for LimitedConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_closed(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
