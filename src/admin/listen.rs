//! Connections of the admin endpoint, kept from doing harm: slow or many clients cost a bounded
//! number of sockets for a bounded time, and never keep a probe out.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Only this many connections live: a person, a few scrapers and probes use a handful. When
/// another comes, the oldest gives way, so that a client that hoards them locks nobody out.
pub const MAX_CONNECTIONS: usize = 64;
/// A connection lives at most this long, however slowly its client sends or reads. Scrapers
/// that keep theirs open connect again.
const MAX_LIFE: Duration = Duration::from_secs(30);
/// Accepting failed (file descriptors are short): try again after this.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The endpoint could not listen.
#[derive(Debug, thiserror::Error)]
#[error("the admin endpoint could not listen on {address}: {source}; {cure}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
    cure: &'static str,
}

/// Listens on the address of `admin.listen`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| {
        let cure = match source.kind() {
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
        BindError { address, source, cure }
    })
}

/// Hands out connections with a limited life.
#[derive(Debug)]
pub struct LimitedListener {
    listener: TcpListener,
    /// Ends every connection.
    all: CancellationToken,
    /// Ends the newest connections one by one; an older one was told to end. Some of these may
    /// be over already. Invariant: at most [`MAX_CONNECTIONS`].
    newest: VecDeque<CancellationToken>,
}

impl LimitedListener {
    /// `all` ends every connection.
    pub fn new(listener: TcpListener, all: CancellationToken) -> Self {
        Self { listener, all, newest: VecDeque::with_capacity(MAX_CONNECTIONS) }
    }

    /// Makes room for one more connection; returns what will end it.
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
                    tracing::warn!(%error, "the admin endpoint could not accept a connection");
                    sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its time is up or it is told to end.
#[derive(Debug)]
pub struct LimitedConnection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl LimitedConnection {
    fn new(stream: TcpStream, end: CancellationToken) -> Self {
        Self { stream, deadline: Box::pin(sleep(MAX_LIFE)), ended: Box::pin(end.cancelled_owned()) }
    }

    /// Ready with an error once the connection may no longer be used.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
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
        if let Poll::Ready(over) = self.poll_over(cx) {
            return Poll::Ready(Err(over));
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
        if let Poll::Ready(over) = self.poll_over(cx) {
            return Poll::Ready(Err(over));
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
