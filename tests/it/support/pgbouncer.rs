//! A `PgBouncer` owned by one test, in front of a `PostgreSQL` of the tests.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use sqlx::PgConnection;
use tokio::net::TcpStream;

use super::database::Database;
use super::postgres::{PASSWORD, Postgres, ROLE, ServerUser};
use super::process::{Log, Process, ScratchFolder, free_port, loopback};
use super::wait::{SOON, until};

/// A running pooler. Dropping it stops it.
#[derive(Debug)]
pub struct PgBouncer {
    process: Process,
    port: u16,
    /// Lines of the configuration, so that one can be replaced.
    settings: String,
    scratch: ScratchFolder,
}

impl PgBouncer {
    /// Starts a pooler with further lines in section `[pgbouncer]`.
    pub async fn start(postgres: &Postgres, settings: &[&str]) -> Self {
        let scratch = ScratchFolder::new("pgbouncer");
        let port = free_port();
        let users = scratch.write("users.txt", format!("\"{ROLE}\" \"{PASSWORD}\"\n"));
        let address = postgres.address();
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n\
             auth_file = {}\n{}\n",
            address.socket_dir.display(),
            address.port,
            users.display(),
            settings.join("\n")
        );
        let file = scratch.write("pgbouncer.ini", &settings);
        readable(scratch.path(), &[&users, &file]);
        let process =
            Process::start_logging("pgbouncer", &mut command(&file), "TERM", Log::default());
        until("PgBouncer to listen", SOON, || TcpStream::connect(loopback(port))).await;
        Self { process, port, settings, scratch }
    }

    /// Returns its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Replaces a setting and reloads the file.
    pub fn change(&mut self, from: &str, to: &str) {
        assert!(self.settings.contains(from), "{from:?} is not set");
        self.settings = self.settings.replace(from, to);
        let file = self.scratch.write("pgbouncer.ini", &self.settings);
        readable(self.scratch.path(), &[&file]);
        self.process.signal("HUP");
    }

    /// Opens a session of the role through it.
    pub async fn connect(&self, database: &Database) -> PgConnection {
        use sqlx::ConnectOptions as _;
        let url: url::Url = database.url_at(self.port).parse().unwrap();
        let options = sqlx::postgres::PgConnectOptions::from_url(&url).unwrap();
        let options = options.extra_float_digits(None);
        until("PgBouncer to answer", SOON, || options.connect()).await
    }
}

/// Builds its command. `PgBouncer` refuses to run as root.
fn command(file: &Path) -> Command {
    let mut command = Command::new("pgbouncer");
    // The package installs it where only root's PATH has it.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin")).arg(file);
    if let Some(user) = ServerUser::to_run_postgres_as() {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

fn readable(folder: &Path, files: &[&Path]) {
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    set(folder, 0o755).unwrap();
    for file in files {
        set(file, 0o644).unwrap();
    }
}
