//! A viewer of the map without a browser: the snapshot, and the stream of server-sent events.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::bridge::Bridge;
use super::process::loopback;
use super::wait::{SOON, until};

/// An event of the stream.
#[derive(Debug, Clone, Default)]
pub struct MapEvent {
    pub id: String,
    pub event: String,
    pub data: Value,
}

impl MapEvent {
    /// Returns the uids of the items that changed.
    pub fn uids(&self) -> Vec<String> {
        let items = self.data["items"].as_array().into_iter().flatten();
        items.map(|item| item[0].as_str().unwrap().to_owned()).collect()
    }
}

/// An open stream.
pub struct MapStream {
    lines: Lines<BufReader<OwnedReadHalf>>,
    _write: OwnedWriteHalf,
    port: u16,
    /// Newest event received.
    last: String,
    /// Status line and headers.
    pub head: String,
}

impl MapStream {
    /// Follows the map after this event.
    pub async fn after(bridge: &Bridge, id: &str) -> Self {
        Self::open(bridge.admin_port(), id).await
    }

    async fn open(port: u16, id: &str) -> Self {
        // A small buffer, so that the bridge soon notices that nobody reads.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let stream = socket.connect(loopback(port)).await.unwrap();
        let (read, mut write) = stream.into_split();
        let request = format!(
            "GET /api/map/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {id}\r\n\r\n"
        );
        write.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(read).lines();
        let mut head = String::new();
        while let Some(line) = lines.next_line().await.unwrap().filter(|line| !line.is_empty()) {
            head += &line.to_lowercase();
            head.push('\n');
        }
        Self { lines, _write: write, port, last: id.to_owned(), head }
    }

    /// Returns the next event, or `None` at the end of the stream. Sizes of chunks are skipped: a chunk
    /// is one or more whole events.
    pub async fn next(&mut self) -> Option<MapEvent> {
        let mut event = MapEvent::default();
        let read = async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                match line.split_once(": ") {
                    Some(("id", id)) => id.clone_into(&mut event.id),
                    Some(("event", name)) => name.clone_into(&mut event.event),
                    Some(("data", data)) => {
                        event.data = serde_json::from_str(data).unwrap();
                        return Some(event);
                    }
                    _ => {}
                }
            }
            None
        };
        let event = tokio::time::timeout(SOON, read).await.expect("no event of the map in time")?;
        if !event.id.is_empty() {
            self.last.clone_from(&event.id);
        }
        Some(event)
    }

    /// Reads until an event fulfils a condition, and returns it. Connects again at the end of the stream,
    /// as a browser does.
    pub async fn until(&mut self, wanted: impl Fn(&MapEvent) -> bool) -> MapEvent {
        let mut newest = None;
        let read = async {
            loop {
                let Some(event) = self.next().await else {
                    let last = std::mem::take(&mut self.last);
                    *self = Self::open(self.port, &last).await;
                    continue;
                };
                if wanted(&event) {
                    return event;
                }
                newest = Some(event);
            }
        };
        let found = tokio::time::timeout(SOON, read).await;
        found.unwrap_or_else(|_| {
            panic!("no such event of the map in time, the newest was {newest:?}")
        })
    }
}

/// Returns the snapshot, once it was read.
pub async fn snapshot(bridge: &Bridge) -> Value {
    until("a snapshot of the map", SOON, || async {
        match bridge.get("/api/map").await {
            Ok((200, body)) => Ok(serde_json::from_str(&body).unwrap()),
            other => Err(other),
        }
    })
    .await
}

/// Returns the name of the newest event.
pub async fn newest_id(bridge: &Bridge) -> String {
    snapshot(bridge).await["id"].as_str().unwrap().to_owned()
}
