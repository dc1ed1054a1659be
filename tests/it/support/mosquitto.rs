//! A Mosquitto broker owned by one test, configured as Centiloc's: mutual TLS and a password,
//! sessions persisted on disk.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::certs::{CertificateAuthority, CertifiedKey};
use super::process::{Log, Process, ScratchFolder, free_port, loopback, run};
use super::publisher::TestPublisher;
use super::wait::{SOON, until};

/// Tenant that the broker's files are made for.
pub const TENANT: &str = "acme";
/// User name of the tenant.
pub const USERNAME: &str = "acme-mqtt";
/// Password of the tenant, with characters that a shell, a URL or TOML could misread.
pub const PASSWORD: &str = "tr1cky #\"pass'word$";
/// User that the platform publishes as.
pub const PLATFORM: &str = "platform";
/// Password of the platform.
pub const PLATFORM_PASSWORD: &str = "platform";

/// File of dynamic security roles in the broker's folder.
const RIGHTS: &str = "rights.json";
const OPENSSL: &str = "openssl.cnf";

/// Settings of a broker to start.
#[derive(Debug, Clone)]
pub struct BrokerBuilder {
    max_queued: u32,
    max_inflight: u16,
    acl: Option<String>,
    server_names: Vec<String>,
    lines: Vec<String>,
    tls_lines: Vec<String>,
    openssl: Option<String>,
    rights: Option<String>,
}

impl BrokerBuilder {
    /// Messages kept for an absent session. 0 is unlimited. Mosquitto's default is 1,000.
    pub fn max_queued_messages(mut self, messages: u32) -> Self {
        self.max_queued = messages;
        self
    }

    /// Messages delivered and not yet acknowledged. Mosquitto's default is 20.
    pub fn max_inflight_messages(mut self, messages: u16) -> Self {
        self.max_inflight = messages;
        self
    }

    /// An ACL file. Without one, everyone may do everything.
    pub fn acl(mut self, acl: &str) -> Self {
        self.acl = Some(acl.to_owned());
        self
    }

    /// Names in the server certificate in place of `localhost` and 127.0.0.1.
    pub fn server_names(mut self, names: &[&str]) -> Self {
        self.server_names = names.iter().map(ToString::to_string).collect();
        self
    }

    /// A further line for the global part of `mosquitto.conf`.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// A further line for the TLS listener alone.
    pub fn tls_line(mut self, line: &str) -> Self {
        self.tls_lines.push(line.to_owned());
        self
    }

    /// Restricts the TLS version of the listener to `TLSv1.2` or `TLSv1.3`. Mosquitto itself has a
    /// lower bound only.
    pub fn tls_version(mut self, version: &str) -> Self {
        self.openssl = Some(format!(
            "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = versions\n\
             [versions]\nMinProtocol = {version}\nMaxProtocol = {version}\n"
        ));
        self
    }

    /// Roles for Mosquitto's dynamic security plugin, which answers SUBSCRIBE with 0x80 where the
    /// ACL file keeps silent. Users and passwords stay in the password file.
    pub fn rights(mut self, json: &serde_json::Value) -> Self {
        self.rights = Some(json.to_string());
        self
    }

    /// Starts the broker and waits until it accepts clients.
    pub async fn start(self) -> Mosquitto {
        let authority = CertificateAuthority::new("Test Root CA");
        let names: Vec<&str> = self.server_names.iter().map(String::as_str).collect();
        let server = authority.server_for(&names);
        let client = authority.client(TENANT);
        let scratch = ScratchFolder::new("mqtt");
        let (port, plain_port) = (free_port(), free_port());
        let config = self.configuration(&scratch, &authority, &server, port, plain_port);
        scratch.write("mosquitto.conf", config);
        let process = spawn(&scratch, Log::default());
        let mut broker = Mosquitto { process, scratch, authority, client, port, plain_port };
        broker.wait_ready().await;
        broker
    }

    fn configuration(
        &self,
        scratch: &ScratchFolder,
        authority: &CertificateAuthority,
        server: &CertifiedKey,
        port: u16,
        plain_port: u16,
    ) -> String {
        let passwords = scratch.write("passwords", "");
        for (user, password) in [(USERNAME, PASSWORD), (PLATFORM, PLATFORM_PASSWORD)] {
            let file = passwords.to_str().unwrap();
            run(program("mosquitto_passwd"), ["-b", file, user, password]);
        }
        let ca = scratch.write("ca.crt", authority.pem());
        let (cert, key) = server.write(scratch, "server");
        let mut text = format!(
            "user root\npersistence true\npersistence_location {}/\nlog_dest stderr\n\
             log_type error\nlog_type warning\nlog_type notice\nlog_type information\n\
             set_tcp_nodelay true\nallow_anonymous false\npassword_file {}\n\
             max_queued_messages {}\nmax_inflight_messages {}\n",
            scratch.path().display(),
            passwords.display(),
            self.max_queued,
            self.max_inflight,
        );
        if let Some(acl) = &self.acl {
            let _ = writeln!(text, "acl_file {}", scratch.write("acl", acl).display());
        }
        if let Some(rights) = &self.rights {
            let file = scratch.write(RIGHTS, rights);
            let (plugin, file) = (dynamic_security().display().to_string(), file.display());
            let _ = writeln!(text, "plugin {plugin}\nplugin_opt_config_file {file}");
        }
        if let Some(openssl) = &self.openssl {
            scratch.write(OPENSSL, openssl);
        }
        for line in &self.lines {
            let _ = writeln!(text, "{line}");
        }
        let _ = write!(
            text,
            "listener {plain_port} 127.0.0.1\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\n\
             keyfile {}\nrequire_certificate true\nuse_identity_as_username false\n",
            ca.display(),
            cert.display(),
            key.display(),
        );
        for line in &self.tls_lines {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// A running broker. Dropping it kills it.
pub struct Mosquitto {
    process: Process,
    scratch: ScratchFolder,
    authority: CertificateAuthority,
    client: CertifiedKey,
    port: u16,
    plain_port: u16,
}

impl Mosquitto {
    /// Returns a builder with Mosquitto's default queues.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder {
            max_queued: 1000,
            max_inflight: 20,
            acl: None,
            server_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            lines: Vec::new(),
            tls_lines: Vec::new(),
            openssl: None,
            rights: None,
        }
    }

    /// Starts a broker with the defaults.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns the port of the TLS listener, which requires a client certificate and a password.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the port of the plain listener, which requires a password.
    pub fn plain_port(&self) -> u16 {
        self.plain_port
    }

    /// Returns the authority that signed its certificate and the accepted client certificates.
    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// Returns the tenant's certificate and key.
    pub fn client(&self) -> &CertifiedKey {
        &self.client
    }

    /// Returns the authority's certificate as a file.
    pub fn ca_file(&self) -> PathBuf {
        self.scratch.join("ca.crt")
    }

    /// Adds a user or changes a password. The broker applies it immediately.
    pub async fn set_password(&mut self, user: &str, password: &str) {
        let file = self.scratch.join("passwords");
        run(program("mosquitto_passwd"), ["-b", file.to_str().unwrap(), user, password]);
        self.reload().await;
    }

    /// Presents another certificate to clients, from the next start on.
    pub fn replace_certificate(&self, server: &CertifiedKey) {
        server.write(&self.scratch, "server");
    }

    /// Replaces the roles of [`BrokerBuilder::rights`], from the next start on.
    pub fn replace_rights(&self, json: &serde_json::Value) {
        self.scratch.write(RIGHTS, json.to_string());
    }

    async fn reload(&mut self) {
        let reloaded = "Reloading config.";
        let before = self.log().count(reloaded);
        self.process.signal("HUP");
        let log = self.log();
        super::wait::until_true("Mosquitto to reload", SOON, || log.count(reloaded) > before).await;
    }

    /// Returns the broker's log.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// Stops the broker with SIGTERM. It saves its sessions.
    pub async fn stop(&mut self) {
        self.process.signal("TERM");
        let process = RefCell::new(&mut self.process);
        until("Mosquitto to stop", SOON, || {
            let status = process.borrow_mut().status();
            async move { status.ok_or("still running") }
        })
        .await;
    }

    /// Kills the broker with SIGKILL. It forgets unsaved state, including messages that it had
    /// acknowledged to publishers.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the broker again on the same ports.
    pub async fn start_again(&mut self) {
        assert!(self.process.status().is_some(), "the broker runs already");
        self.process = spawn(&self.scratch, self.process.log().clone());
        self.wait_ready().await;
    }

    /// Writes the sessions to disk now, as autosave does every half hour.
    pub async fn save(&mut self) {
        let saved = || {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(self.scratch.join("mosquitto.db")).map(|file| file.ino()).ok()
        };
        let before = saved();
        self.process.signal("USR1");
        // A new file is renamed over the old one when it is complete.
        super::wait::until_true("Mosquitto to save", SOON, || saved() != before).await;
    }

    async fn wait_ready(&mut self) {
        let (port, plain_port) = (self.port, self.plain_port);
        let process = RefCell::new(&mut self.process);
        until("Mosquitto to accept clients", SOON, || {
            process.borrow_mut().assert_running();
            async move {
                tokio::net::TcpStream::connect(loopback(port)).await.map_err(|e| e.to_string())?;
                TestPublisher::try_connect(plain_port, "ready-probe").await.map(drop)
            }
        })
        .await;
    }
}

fn spawn(scratch: &ScratchFolder, log: Log) -> Process {
    let mut command = Command::new(program("mosquitto"));
    command.arg("-c").arg(scratch.join("mosquitto.conf"));
    if scratch.join(OPENSSL).exists() {
        command.env("OPENSSL_CONF", scratch.join(OPENSSL));
    }
    Process::start_logging("mosquitto", &mut command, "KILL", log)
}

/// Finds the broker. Debian installs it outside an ordinary user's PATH.
fn program(name: &str) -> PathBuf {
    let installed = PathBuf::from("/usr/sbin").join(name);
    if installed.exists() { installed } else { name.into() }
}

/// Finds the plugin of the Debian package, in the folder of the machine's architecture.
fn dynamic_security() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders
        .map(|entry| entry.path().join("mosquitto_dynamic_security.so"))
        .chain([PathBuf::from("/usr/lib/mosquitto_dynamic_security.so")])
        .find(|path| path.exists())
        .expect("mosquitto_dynamic_security.so is not installed; it comes with mosquitto 2")
}
