//! Notifies the service manager of state changes, as `sd_notify(3)` describes.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

/// The environment variable that names the socket of the service manager.
const SOCKET: &str = "NOTIFY_SOCKET";

/// True after a failed notification, until one succeeds.
static UNREACHABLE: AtomicBool = AtomicBool::new(false);

/// Sends state changes and returns false if that failed. Does nothing where no service manager asks
/// for them. Never blocks, and logs a socket that cannot be reached once, however often it is tried.
pub fn notify(state: &[NotifyState]) -> bool {
    let Some(socket) = std::env::var_os(SOCKET) else { return true };
    let failed = match send(&socket, state) {
        Ok(()) => {
            if UNREACHABLE.swap(false, Ordering::Relaxed) {
                tracing::info!("the service manager can be notified again");
            }
            return true;
        }
        Err(error) => error,
    };
    if !UNREACHABLE.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            error = %failed,
            socket = %socket.to_string_lossy(),
            "cannot notify the service manager at NOTIFY_SOCKET; it may take this process for hung \
             and restart it"
        );
    }
    false
}

fn send(socket: &OsStr, state: &[NotifyState]) -> io::Result<()> {
    let message = state.iter().fold(String::new(), |text, change| text + &format!("{change}\n"));
    let sender = UnixDatagram::unbound()?;
    // A service manager that does not read must not block a worker thread.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address(socket)?)?;
    Ok(())
}

/// Returns the address of a socket: a path, or `@` and the name of an abstract socket.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::new(
            ErrorKind::Unsupported,
            "neither an absolute path nor @ and the name of an abstract socket",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(receiver: &UnixDatagram) -> String {
        let mut datagram = [0; 64];
        let length = receiver.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    }

    #[test]
    fn an_abstract_socket_is_notified() {
        let name = format!("@centiloc-bridge-test-{}", std::process::id());
        let receiver = UnixDatagram::bind_addr(&address(name.as_ref()).unwrap()).unwrap();
        send(name.as_ref(), &[NotifyState::Reloading, NotifyState::MonotonicUsec(7)]).unwrap();
        assert_eq!(received(&receiver), "RELOADING=1\nMONOTONIC_USEC=7\n");
    }

    #[test]
    fn a_socket_file_is_notified() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), &[NotifyState::Ready]).unwrap();
        assert_eq!(received(&receiver), "READY=1\n");
    }

    #[test]
    fn full_sockets_do_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _receiver = UnixDatagram::bind(&path).unwrap();
        let full =
            (0..100_000).find_map(|_| send(path.as_os_str(), &[NotifyState::Watchdog]).err());
        assert_eq!(full.expect("the queue is bounded").kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn other_addresses_are_refused() {
        for socket in ["", "@", "relative", "vsock:2:9999"] {
            assert_eq!(address(socket.as_ref()).unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
}
