//! Child processes and scratch folders that never outlive the test process.
//!
//! Destructors do not run when a test binary is killed, and never for statics. So one guard, a
//! shell waiting on a pipe that closes with this process, keeps a list of processes to end and
//! folders to remove. Children are in process groups of their own, so that Ctrl-C reaches this
//! process alone and the guard does the rest.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Interval between two polls of a child that is ending.
const POLL: Duration = Duration::from_millis(10);

/// Bound on one captured log, bytes. The head is of no use once a test prints the tail.
const LOG_LINES: usize = 20_000;

/// Lines of a log in a failure message.
const LOG_TAIL: usize = 60;

/// First port to give out. It is below the ports that Linux gives to outgoing connections (from
/// 32,768 on), so that none of those takes the port of a service while it is down between stop and
/// start.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Ends every registered process, each with its signal and after five seconds with SIGKILL, then
/// unmounts and removes every folder.
const GUARD: &str = r#"
procs= dirs= mounts=
while read -r verb value signal; do
  case $verb in
    process) procs="$procs $signal:$value" ;;
    ended) procs=$(printf %s " $procs " | sed "s/ [A-Z]*:$value / /") ;;
    folder) dirs="$dirs $value" ;;
    mount) mounts="$mounts $value" ;;
    unmounted) mounts=$(printf %s " $mounts " | sed "s# $value # #") ;;
  esac
done
for p in $procs; do kill "-${p%%:*}" "${p#*:}" 2>/dev/null; done
for p in $procs; do
  tries=0
  while kill -0 "${p#*:}" 2>/dev/null && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -KILL "${p#*:}" 2>/dev/null
done
for m in $mounts; do umount -l "$m" 2>/dev/null; done
for d in $dirs; do rm -rf -- "$d"; done
"#;

/// Registers a process to end, or a folder to unmount or remove, or withdraws one.
pub fn guard(line: &str) {
    static PIPE: OnceLock<Mutex<std::process::ChildStdin>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| {
        #[expect(clippy::zombie_processes, reason = "it ends after this process, never before")]
        let mut guard = Command::new("sh")
            .args(["-c", GUARD])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("could not start sh as the guard of the test processes");
        Mutex::new(guard.stdin.take().unwrap())
    });
    let mut pipe = pipe.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    writeln!(pipe, "{line}").expect("the guard of the test processes is gone");
}

/// A folder that is removed when dropped, or at the latest when the test process ends.
#[derive(Debug)]
pub struct ScratchFolder(tempfile::TempDir);

impl ScratchFolder {
    /// Creates an empty folder with this name in its own.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("centiloc-it-{name}-"))
            .tempdir()
            .expect("could not make a scratch folder");
        let path = folder.path().to_str().expect("the temporary folder's path is UTF-8");
        assert!(!path.contains(char::is_whitespace), "TMPDIR {path:?} contains white space");
        guard(&format!("folder {path}"));
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns a path in the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file into the folder, readable by the owner alone.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.join(name);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_ref()));
        written.unwrap_or_else(|e| panic!("could not write {}: {e}", path.display()));
        path
    }
}

/// Returns a TCP port on loopback that nothing listens on, and that no other call returned.
///
/// The port is bound and never listened on. A child between fork and exec holds a copy of the
/// socket, and a copy that listens would keep the port from its next user.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let span = PORTS.end - PORTS.start;
    let next = NEXT.get_or_init(|| {
        // Test processes of several work trees may run at once, so they start at different ports.
        let apart = std::process::id().wrapping_mul(127) % u32::from(span);
        AtomicU16::new(u16::try_from(apart).unwrap())
    });
    for _ in 0..span {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % span;
        if can_bind(port).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}")
}

fn can_bind(port: u16) -> std::io::Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(loopback(port))
}

/// Returns `127.0.0.1:port`.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The output of a child, standard output and standard error together.
#[derive(Debug, Clone, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// Number of pipes still being read.
    open: Arc<AtomicUsize>,
}

impl Log {
    fn follow(&self, source: impl Read + Send + 'static) {
        let log = self.clone();
        log.open.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let mut lines = log.lines.lock().unwrap();
                if lines.len() == LOG_LINES {
                    lines.remove(0);
                }
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
            log.open.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Waits for the rest of the output. A child's last output may still be in the pipe when it is
    /// gone. A grandchild may hold the pipe open, so the wait is bounded.
    fn drain(&self) {
        let started = Instant::now();
        while self.open.load(Ordering::SeqCst) > 0 && started.elapsed() < Duration::from_secs(1) {
            thread::sleep(POLL);
        }
    }

    /// Returns the lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Returns the first line that contains all of `parts`.
    pub fn find(&self, parts: &[&str]) -> Option<String> {
        self.lines.lock().unwrap().iter().find(|l| parts.iter().all(|p| l.contains(p))).cloned()
    }

    /// Counts the lines that contain `part`.
    pub fn count(&self, part: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }

    /// Returns the last lines, for a failure message.
    pub fn tail(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Log,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`. `end_with` is the signal that ends it and all its children immediately,
    /// should this process die.
    pub fn start(name: &str, command: &mut Command, end_with: &str) -> Self {
        Self::start_logging(name, command, end_with, Log::default())
    }

    /// Does the same as [`Process::start`], adding to the log of an earlier run.
    pub fn start_logging(name: &str, command: &mut Command, end_with: &str, log: Log) -> Self {
        Self::start_with_stderr(name, command.stderr(Stdio::piped()), end_with, log)
    }

    /// Does the same as [`Process::start_logging`], with the standard error that `command` has.
    pub fn start_with_stderr(name: &str, command: &mut Command, end_with: &str, log: Log) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("could not start {name} ({command:?}): {e}"));
        guard(&format!("process {} {end_with}", child.id()));
        log.follow(child.stdout.take().unwrap());
        if let Some(stderr) = child.stderr.take() {
            log.follow(stderr);
        }
        Self { name: name.to_owned(), child, log, status: None }
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Returns its exit status, or `None` while it runs.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("could not ask for a child's status");
            if self.status.is_some() {
                guard(&format!("ended {}", self.child.id()));
                self.log.drain();
            }
        }
        self.status
    }

    /// Sends a signal, for example `TERM`.
    pub fn signal(&mut self, signal: &str) {
        if self.status().is_none() {
            // The shell's own kill, because /bin/kill is not installed everywhere.
            run("sh", ["-c", "kill -\"$0\" \"$1\"", signal, &self.pid().to_string()]);
        }
    }

    /// Waits for the end. Blocks the thread. Panics after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(
                started.elapsed() < deadline,
                "{} did not end within {deadline:?}; its log:\n{}",
                self.name,
                self.log.tail()
            );
            thread::sleep(POLL);
        }
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        if self.status().is_none() {
            self.child.kill().expect("could not kill a child");
            self.wait(Duration::from_secs(10));
        }
    }

    /// Panics with the log if it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.status() {
            panic!("{} ended unasked ({status}); its log:\n{}", self.name, self.log.tail());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end and returns its output. Panics with its errors if it fails.
pub fn run<I, S>(program: impl AsRef<OsStr>, args: I) -> String
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    run_command(&mut command)
}

/// Does the same as [`run`] for a prepared command.
pub fn run_command(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("could not start {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the runtime of everything that must go on while a test blocks its own: proxies,
/// publishers.
pub fn background() -> &'static tokio::runtime::Handle {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("could not build the support runtime")
        })
        .handle()
}
