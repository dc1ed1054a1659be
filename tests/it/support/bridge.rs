//! The program under test, as built.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::clock::Clock;
use super::config::Config;
use super::process::{Log, Process, ScratchFolder, loopback};
use super::wait::{SOON, until, until_eq};

/// Path of another build to be run in place of the one under test, for comparisons.
const OTHER_BUILD: &str = "BRIDGE_BIN";

/// Returns a command for `centiloc-bridge` with these arguments, without the environment's own
/// settings.
pub fn command<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let built = || env!("CARGO_BIN_EXE_centiloc-bridge").into();
    let mut command = Command::new(std::env::var_os(OTHER_BUILD).unwrap_or_else(built));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CENTILOC_BRIDGE__") {
            command.env_remove(name);
        }
    }
    command.env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
    command.args(args);
    command
}

/// Runs a command of the program to its end, off the test's runtime.
pub async fn finish(mut command: Command) -> Output {
    command.stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(Duration::from_secs(120), run).await;
    ended.expect("the command did not end").unwrap().expect("could not start the program")
}

/// The text of a `/metrics` response.
#[derive(Debug, Clone)]
pub struct MetricsText(String);

impl MetricsText {
    /// Scrapes the bridge on this admin port. Returns `None` if none answers.
    pub async fn of(admin_port: u16) -> Option<Self> {
        get(admin_port, "/metrics").await.ok().map(|(_, text)| Self(text))
    }

    /// Returns the values of a metric. `labels` (`kind="item"`) narrows them.
    pub fn values<T: std::str::FromStr>(&self, name: &str, labels: &str) -> Vec<T> {
        let value = |line: &str| {
            let (key, value) = line.rsplit_once(' ')?;
            let rest = key.strip_prefix(name)?;
            let matches = rest.is_empty() || rest.starts_with('{');
            (matches && rest.contains(labels)).then(|| value.parse().ok())?
        };
        self.0.lines().filter_map(value).collect()
    }
}

/// Name of the process in failure messages.
const NAME: &str = "centiloc-bridge";

/// Adjusts the command of a process before it starts, for example its environment variables.
pub type CommandSetup = Arc<dyn Fn(&mut Command) + Send + Sync>;

/// A running `run -c FILE`. Dropping it kills it.
pub struct Bridge {
    process: Process,
    config: PathBuf,
    admin_port: u16,
    surroundings: Option<CommandSetup>,
    /// The files that the configuration names.
    _folder: Arc<ScratchFolder>,
}

impl Bridge {
    /// Starts it and returns at once.
    pub fn start(config: &Config) -> Self {
        Self::start_by(None, config)
    }

    /// Starts it with additional environment variables.
    pub fn start_with(config: &Config, environment: &[(&'static str, &str)]) -> Self {
        let owned = |(name, value): &(&'static str, &str)| (*name, (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(owned).collect();
        let add = move |command: &mut Command| _ = command.envs(environment.iter().cloned());
        Self::start_in(Arc::new(add), config)
    }

    /// Starts it under a clock of its own.
    pub fn start_under(clock: &Arc<Clock>, config: &Config) -> Self {
        let clock = Arc::clone(clock);
        Self::start_in(Arc::new(move |command| clock.govern(command)), config)
    }

    /// Starts it with this standard error, which is not part of its log.
    pub fn start_with_stderr(config: &Config, stderr: OwnedFd) -> Self {
        let file = config.write();
        let mut command = run_command(&file, None);
        command.stderr(stderr);
        let process = Process::start_with_stderr(NAME, &mut command, "KILL", Log::default());
        Self::of(process, file, None, config)
    }

    /// Starts it in adjusted surroundings.
    pub fn start_in(surroundings: CommandSetup, config: &Config) -> Self {
        Self::start_by(Some(surroundings), config)
    }

    fn start_by(surroundings: Option<CommandSetup>, config: &Config) -> Self {
        let file = config.write();
        let process = spawn(&file, surroundings.as_ref(), Log::default());
        Self::of(process, file, surroundings, config)
    }

    fn of(
        process: Process,
        file: PathBuf,
        surroundings: Option<CommandSetup>,
        config: &Config,
    ) -> Self {
        let (admin_port, folder) = (config.admin_port(), Arc::clone(config.folder()));
        Self { process, config: file, admin_port, surroundings, _folder: folder }
    }

    /// Starts it and waits until it is subscribed and the database answers.
    pub async fn ready(config: &Config) -> Self {
        let mut bridge = Self::start(config);
        bridge.until_ready().await;
        bridge
    }

    /// Starts it again with the same file, after it has ended.
    pub fn start_again(&mut self) {
        assert!(self.process.status().is_some(), "the bridge runs already");
        let log = self.process.log().clone();
        self.process = spawn(&self.config, self.surroundings.as_ref(), log);
    }

    /// Waits until the broker has granted that many subscriptions, counted over all processes.
    pub async fn until_subscribed(&self, times: usize) {
        until_eq("the subscriptions", SOON, times, || async {
            self.log().count("subscribed at QoS 1")
        })
        .await;
    }

    /// Waits for `/readyz` to answer 200.
    pub async fn until_ready(&mut self) {
        self.until_ready_within(SOON).await;
    }

    /// Does the same as [`Bridge::until_ready`], with a longer deadline after faults.
    pub async fn until_ready_within(&mut self, deadline: Duration) {
        let port = self.admin_port;
        let process = std::cell::RefCell::new(&mut self.process);
        until("the bridge to be ready", deadline, || {
            process.borrow_mut().assert_running();
            async move {
                match get(port, "/readyz").await {
                    Ok((200, _)) => Ok(()),
                    other => Err(other),
                }
            }
        })
        .await;
    }

    /// Returns the port of its admin endpoint, which is the same over restarts.
    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a GET to the admin endpoint. Returns status and body.
    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        get(self.admin_port, path).await
    }

    /// Returns a metric, summed over all its labels. `labels` (`kind="item"`) narrows them. `None`
    /// if there is no such line.
    pub async fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        self.values::<f64>(name, labels).await?.into_iter().reduce(|sum, value| sum + value)
    }

    /// Returns a metric that counts things, summed as in [`Bridge::metric`]. 0 if there is no such
    /// line, `None` if the bridge does not answer.
    pub async fn count(&self, name: &str, labels: &str) -> Option<usize> {
        Some(self.values::<usize>(name, labels).await?.into_iter().sum())
    }

    async fn values<T: std::str::FromStr>(&self, name: &str, labels: &str) -> Option<Vec<T>> {
        Some(self.scrape().await?.values(name, labels))
    }

    /// Returns all metrics at one moment. `None` if the bridge does not answer.
    pub async fn scrape(&self) -> Option<MetricsText> {
        MetricsText::of(self.admin_port).await
    }

    /// Returns its resident memory, bytes.
    pub fn memory(&self) -> usize {
        self.proc_status("VmRSS:").expect("the bridge runs")
    }

    /// Returns the peak resident memory of this process, bytes. `None` if it is gone.
    pub fn peak_memory(&self) -> Option<usize> {
        self.proc_status("VmHWM:")
    }

    fn proc_status(&self, field: &str) -> Option<usize> {
        let status = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(status).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim().trim_end_matches(" kB").parse::<usize>().ok()? * 1024)
    }

    /// Returns its log.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// Waits for a log line that contains all of `parts`, and returns it.
    pub async fn until_logged(&self, parts: &[&str]) -> String {
        let log = self.log();
        until(&format!("a log line with {parts:?}"), SOON, || async {
            log.find(parts).ok_or_else(|| log.tail())
        })
        .await
    }

    /// Panics with the log if it has ended.
    pub fn assert_running(&mut self) {
        self.process.assert_running();
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends a signal, for example `TERM`, `STOP` or `CONT`.
    pub fn signal(&mut self, signal: &str) {
        self.process.signal(signal);
    }

    /// Stops it with SIGTERM and returns its exit code.
    pub async fn terminate(&mut self) -> i32 {
        self.signal("TERM");
        self.exit_code(SOON).await
    }

    /// Waits for its end. A signal counts as 128 plus its number, as in a shell.
    pub async fn exit_code(&mut self, deadline: Duration) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let log = self.log().clone();
        let process = std::cell::RefCell::new(&mut self.process);
        let status = until("the bridge to end", deadline, || {
            let status = process.borrow_mut().status();
            let last = log.lines().pop();
            async move { status.ok_or(last) }
        })
        .await;
        status.code().or(status.signal().map(|signal| 128 + signal)).unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the bridge's log ends with:\n{}", self.log().tail());
        }
    }
}

fn spawn(config: &Path, surroundings: Option<&CommandSetup>, log: Log) -> Process {
    let mut command = run_command(config, surroundings);
    Process::start_logging(NAME, &mut command, "KILL", log)
}

fn run_command(config: &Path, surroundings: Option<&CommandSetup>) -> Command {
    let mut command = command(["run".as_ref(), "-c".as_ref(), config.as_os_str()]);
    // As systemd sets it.
    command.env("STATE_DIRECTORY", config.parent().expect("the file is in a folder"));
    if let Some(surroundings) = surroundings {
        surroundings(&mut command);
    }
    command
}

/// Returns status and body of a GET request to a port of this machine.
pub async fn get(port: u16, path: &str) -> Result<(u16, String), String> {
    let request = async {
        let mut stream = TcpStream::connect(loopback(port)).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), request);
    let answer = answer.await.map_err(|_| "no answer".to_owned())?.map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or("no HTTP status")?, body.to_owned()))
}
