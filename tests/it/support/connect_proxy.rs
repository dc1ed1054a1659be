//! A small HTTP CONNECT proxy, as hospitals put between their networks and the internet.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::process::{background, loopback};

/// Longest accepted request head, bytes.
const MAX_HEAD: u64 = 8 * 1024;

/// The proxy. Dropping it ends its connections.
pub struct ConnectProxy {
    port: u16,
    shared: Arc<ConnectProxyState>,
    task: AbortHandle,
}

#[derive(Default)]
struct ConnectProxyState {
    requests: Mutex<Vec<String>>,
    /// The required `TcpProxy-Authorization`. `None` admits everyone.
    authorization: Mutex<Option<String>>,
}

impl ConnectProxy {
    /// Starts a proxy without authentication.
    pub async fn open() -> Self {
        Self::start(None).await
    }

    /// Starts a proxy that requires Basic credentials.
    pub async fn with_credentials(user: &str, password: &str) -> Self {
        Self::start(Some(format!("Basic {}", base64(&format!("{user}:{password}"))))).await
    }

    async fn start(authorization: Option<String>) -> Self {
        let listen = background().spawn(TcpListener::bind(loopback(0)));
        let listener = listen.await.unwrap().expect("could not listen");
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(ConnectProxyState {
            authorization: Mutex::new(authorization),
            ..ConnectProxyState::default()
        });
        let server = serve(listener, Arc::clone(&shared));
        Self { port, shared, task: background().spawn(server).abort_handle() }
    }

    /// Stops requiring credentials.
    pub fn let_everybody_pass(&self) {
        *self.shared.authorization.lock().unwrap() = None;
    }

    /// Returns the port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the requested targets (`host:port`), allowed or not.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts connections until aborted.
async fn serve(listener: TcpListener, shared: Arc<ConnectProxyState>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        connections.spawn(tunnel(stream, Arc::clone(&shared)));
    }
}

async fn tunnel(client: TcpStream, shared: Arc<ConnectProxyState>) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let head = read_head(&mut client).await?;
    let request = head.first().map(String::as_str).unwrap_or_default();
    let Some(target) = request.strip_prefix("CONNECT ").and_then(|r| r.split(' ').next()) else {
        return answer(&mut client, "405 Method Not Allowed").await;
    };
    shared.requests.lock().unwrap().push(target.to_owned());
    let given = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
    });
    let authorization = shared.authorization.lock().unwrap().clone();
    if authorization.is_some() && authorization != given {
        return answer(&mut client, "407 Proxy Authentication Required").await;
    }
    // Every target is replaced by loopback.
    let port = target.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let Ok(mut server) = TcpStream::connect(loopback(port)).await else {
        return answer(&mut client, "502 Bad Gateway").await;
    };
    answer(&mut client, "200 Connection established").await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

async fn read_head(client: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut limited = client.take(MAX_HEAD);
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

async fn answer(client: &mut BufReader<TcpStream>, status: &str) -> io::Result<()> {
    let challenge = "TcpProxy-Authenticate: Basic realm=\"test\"\r\n";
    let challenge = if status.starts_with("407") { challenge } else { "" };
    client.get_mut().write_all(format!("HTTP/1.1 {status}\r\n{challenge}\r\n").as_bytes()).await
}

/// Encodes base64 of RFC 4648, with padding.
fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4usize {
            let sextet = word >> (18 - 6 * place) & 0x3f;
            let symbol = char::from(ALPHABET[sextet as usize]);
            encoded.push(if place <= chunk.len() { symbol } else { '=' });
        }
    }
    encoded
}
