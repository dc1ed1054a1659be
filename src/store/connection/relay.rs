//! Leads a connection that was made here to `sqlx`, which otherwise tries the addresses of a name one
//! after another inside one limit, and needs the name itself for TLS. It is given a socket of this
//! process in Linux' abstract namespace. TLS and credentials pass through as they are.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use uuid::Uuid;

/// `sqlx` connects at once.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

/// A batch of events is several times as large.
const BUFFER: usize = 64 * 1024;

/// Returns the folder to name to `sqlx` as that of a unix socket. The first connection to it from
/// this process is `remote`, until either end closes.
pub(in crate::store) fn lead_to(mut remote: TcpStream, port: u16) -> io::Result<PathBuf> {
    let folder = format!("\0centiloc-bridge-{}", Uuid::new_v4().simple());
    // As sqlx names the socket.
    let listener = UnixListener::bind(format!("{folder}/.s.PGSQL.{port}"))?;
    #[expect(clippy::disallowed_methods, reason = "ends with the connection that it carries")]
    tokio::spawn(async move {
        let Ok(Ok(mut local)) = timeout(ACCEPT_WITHIN, accept(&listener)).await else { return };
        drop(listener);
        // Either end sees the other's close as its own.
        let _ = copy_bidirectional_with_sizes(&mut local, &mut remote, BUFFER, BUFFER).await;
    });
    Ok(folder.into())
}

/// Accepts a connection of this process. Others have no business here.
async fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await?;
        let peer = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        if peer == Some(std::process::id()) {
            return Ok(stream);
        }
    }
}
