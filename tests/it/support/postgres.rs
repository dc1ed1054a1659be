//! PostgreSQL clusters in scratch folders: one shared by the tests that only need a database, and
//! separate ones for tests that stop, kill or constrain the server.
//!
//! `fsync` stays on, because the tests make claims about durability.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::OnceCell;

use super::process::{Log, Process, ScratchFolder, free_port, run, run_command};
use super::wait::{SOON, until};

pub use super::database::Database;

/// Role that owns the databases. It is no superuser, as in production.
pub const ROLE: &str = "bridge";
/// Password of the role, required over TCP.
pub const PASSWORD: &str = "p@ss/word: 1";

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
fsync = on
synchronous_commit = on
max_connections = 200
shared_buffers = 64MB
max_wal_size = 256MB
log_line_prefix = '%m [%p] %u@%d '
log_checkpoints = off
";

/// A running server. Dropping it stops the server and removes the data.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    address: ServerAddress,
    home: DataFolder,
}

/// The addresses that a server listens on.
#[derive(Debug, Clone)]
pub struct ServerAddress {
    /// TCP port on 127.0.0.1. It requires a password.
    pub port: u16,
    /// Folder of the unix socket. It requires no password.
    pub socket_dir: PathBuf,
}

impl ServerAddress {
    /// Options for the superuser over the unix socket.
    pub fn superuser(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.socket_dir)
            .port(self.port)
            .username("postgres")
            .database(database)
    }
}

impl Postgres {
    /// Returns the cluster for tests that leave the server itself alone. It ends with the process.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::own).await
    }

    /// Starts a cluster for one test.
    pub async fn own() -> Self {
        Self::own_with(&[]).await
    }

    /// Starts a cluster for one test with further lines in `postgresql.conf`.
    pub async fn own_with(settings: &[&str]) -> Self {
        let home = DataFolder::create(&settings.join("\n")).await;
        let address =
            ServerAddress { port: free_port(), socket_dir: home.scratch.path().join("socket") };
        let process = home.start(address.port, Log::default());
        let mut postgres = Self { process, address, home };
        postgres.wait_ready().await;
        let role = format!("create role {ROLE} login password '{PASSWORD}'");
        postgres.execute(&role).await;
        postgres
    }

    /// Creates an empty database on this server.
    pub async fn database(&self) -> Database {
        self.database_with("").await
    }

    /// Does the same as [`Postgres::database`], with further options of CREATE DATABASE.
    pub async fn database_with(&self, options: &str) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let create = format!("create database {name} owner {ROLE} template template0 {options}");
        self.execute(&create).await;
        Database::new(self.address.clone(), name)
    }

    /// Runs statements as the superuser, outside any test's database.
    pub async fn execute(&self, sql: &str) {
        self.try_execute(sql).await.unwrap_or_else(|e| panic!("{sql:?} failed: {e}"));
    }

    /// Runs SQL with psql over the unix socket, without a password, and returns its output.
    pub fn psql(&self, role: &str, database: &str, sql: &str) -> Result<String, String> {
        let folder = ScratchFolder::new("psql");
        let file = folder.write("script.sql", sql);
        let output = Command::new("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", database, "-h"])
            .arg(&self.address.socket_dir)
            .args(["-p", &self.address.port.to_string(), "-f"])
            .arg(file)
            .output()
            .expect("psql is installed");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Returns the TCP port, which is the same over restarts.
    pub fn port(&self) -> u16 {
        self.address.port
    }

    /// Returns the addresses that it listens on.
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Returns the server's log.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// Stops the server as an administrator does. Sessions are ended.
    pub async fn stop(&mut self) {
        self.process.signal("INT");
        let process = std::cell::RefCell::new(&mut self.process);
        until("PostgreSQL to stop", SOON, || {
            let status = process.borrow_mut().status();
            async move { status.ok_or("still running") }
        })
        .await;
    }

    /// Kills the server and all its sessions with SIGKILL.
    pub fn kill(&mut self) {
        let pid = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        self.process.kill();
        for child in children.unwrap_or_default().split_whitespace() {
            // The process holds the shared memory until it is gone, and a new server would refuse
            // to start. It may also have ended by itself.
            while Path::new("/proc").join(child).exists() {
                let _ = Command::new("sh").args(["-c", "kill -KILL \"$0\" 2>&-", child]).status();
            }
        }
    }

    /// Starts the server again on the same port, and waits until it answers.
    pub async fn start(&mut self) {
        assert!(self.process.status().is_some(), "the server runs already");
        let log = self.process.log().clone();
        self.process = self.home.start(self.address.port, log);
        self.wait_ready().await;
    }

    /// Creates a folder that the server may write to, and lets the server traverse the one above.
    pub fn own_folder(&self, folder: &Path) {
        std::fs::create_dir(folder).unwrap();
        if let (Some(user), Some(parent)) = (&self.home.user, folder.parent()) {
            chown(folder, Some(user.uid), Some(user.gid)).unwrap();
            std::fs::set_permissions(parent, PermissionsExt::from_mode(0o711)).unwrap();
        }
    }

    /// Makes every transaction read-only (SQLSTATE 25006 for a write), as on a standby.
    pub async fn set_read_only(&self, on: bool) {
        self.execute(&format!("alter system set default_transaction_read_only = {on}")).await;
        self.execute("select pg_reload_conf()").await;
    }

    async fn try_execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let mut connection =
            PgConnection::connect_with(&self.address.superuser("postgres")).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
        connection.close().await
    }

    async fn wait_ready(&mut self) {
        let address = self.address.clone();
        let process = std::cell::RefCell::new(&mut self.process);
        until("PostgreSQL to answer", SOON, || {
            process.borrow_mut().assert_running();
            let options = address.superuser("postgres");
            async move { PgConnection::connect_with(&options).await.map(drop) }
        })
        .await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate stop ends the sessions too, which SIGKILL does not.
        self.process.signal("QUIT");
        if !std::thread::panicking() {
            self.process.wait(SOON);
        }
    }
}

/// A data folder, and the user who may use it.
#[derive(Debug)]
struct DataFolder {
    scratch: ScratchFolder,
    user: Option<ServerUser>,
}

impl DataFolder {
    /// Copies the one cluster that `initdb` made for this process. The copy takes a tenth of the
    /// time.
    async fn create(settings: &str) -> Self {
        static TEMPLATE: OnceCell<DataFolder> = OnceCell::const_new();
        let template = TEMPLATE.get_or_init(|| async { blocking(DataFolder::initdb).await }).await;
        let (from, user) = (template.data(), template.user.clone());
        let home = blocking(move || {
            let home = Self::empty(user);
            run("cp", ["-a".as_ref(), from.as_os_str(), home.data().as_os_str()]);
            home
        })
        .await;
        let conf = home.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap() + SETTINGS + settings + "\n";
        std::fs::write(&conf, text).unwrap();
        home
    }

    fn initdb() -> Self {
        let home = Self::empty(ServerUser::to_run_postgres_as());
        let mut command = home.command("initdb");
        command.arg("--pgdata").arg(home.data()).args([
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--no-sync",
            "--wal-segsize=4",
        ]);
        run_command(&mut command);
        home
    }

    fn empty(user: Option<ServerUser>) -> Self {
        let scratch = ScratchFolder::new("pg");
        // The folder itself only has to be traversed.
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let socket = scratch.join("socket");
        std::fs::create_dir(&socket).unwrap();
        if let Some(user) = &user {
            chown(&socket, Some(user.uid), Some(user.gid)).unwrap();
            chown(scratch.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        Self { scratch, user }
    }

    fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    fn start(&self, port: u16, log: Log) -> Process {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &port.to_string(), "-k"]);
        command.arg(self.scratch.join("socket"));
        Process::start_logging("postgres", &mut command, "QUIT", log)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.current_dir(self.scratch.path()).env("LC_ALL", "C");
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

/// An unprivileged user. PostgreSQL refuses to run as root.
#[derive(Debug, Clone)]
pub(super) struct ServerUser {
    pub uid: u32,
    pub gid: u32,
}

impl ServerUser {
    /// Returns the user to run PostgreSQL as. `None` means the user who runs the tests.
    pub fn to_run_postgres_as() -> Option<Self> {
        if run("id", ["-u"]).trim() != "0" {
            return None;
        }
        let id = |flag: &str, name: &str| {
            let output = Command::new("id").args([flag, name]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        let user = ["postgres", "nobody"]
            .iter()
            .find_map(|name| Some(Self { uid: id("-u", name)?, gid: id("-g", name)? }));
        Some(user.expect("PostgreSQL cannot run as root, and there is no user postgres or nobody"))
    }
}

/// Finds a program of PostgreSQL: that of the newest Debian version, else the one in PATH.
pub fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let program = entry.path().join("bin").join(name);
            program.exists().then_some((version, program))
        })
        .max_by_key(|(version, _)| *version);
    newest.map_or_else(|| Path::new(name).to_owned(), |(_, program)| program)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("a helper of the test support panicked")
}
