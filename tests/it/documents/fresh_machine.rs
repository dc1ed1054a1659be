//! The documented steps from nothing to a running service, in a copy of this machine on which
//! nothing of it is installed: its own mounts over /etc, /usr and /var/lib, processes that end with
//! it, and an ordinary user who has to use `sudo`.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::{FencedBlock, assert_succeeded, blocks_of, root, stub};
use crate::support::bridge::finish;
use crate::support::mosquitto::Mosquitto;
use crate::support::postgres::Postgres;
use crate::support::process::{ScratchFolder, free_port};

/// Mounts an in-memory layer over each folder that is written to, and runs the steps.
const MACHINE: &str = r#"set -euo pipefail
layers=$1 source=$2
mount -t tmpfs tmpfs "$layers"
for place in etc usr var/lib; do
    mkdir -p "$layers/$place/upper" "$layers/$place/work"
    mount -t overlay overlay \
        -o "lowerdir=/$place,upperdir=$layers/$place/upper,workdir=$layers/$place/work" "/$place"
done
cd "$source"
# An ordinary user who may become another one, and nothing else.
user() {
    echo "--- $1" >&2
    setpriv --reuid nobody --regid nogroup --clear-groups --inh-caps=+setuid,+setgid \
        --ambient-caps=+setuid,+setgid bash -euo pipefail "$1"
}
support_team() {
    openssl x509 -req -in /etc/centiloc-bridge/certificate-request.csr -CA ../ca.pem -CAkey ../ca.key \
        -CAcreateserial -days 365 -extfile ../extensions -out tls-cert.pem
}
"#;

const SUDO: &str = r#"#!/bin/sh
if [ "$1" = -u ]; then
    user=$2
    shift 2
    exec setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups --ambient-caps=-all \
        --inh-caps=-all "$@"
fi
exec setpriv --reuid 0 --regid 0 --clear-groups "$@"
"#;

/// Starts the command of the unit as its user, and waits until the service is ready.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -euo pipefail
unit=/etc/systemd/system/centiloc-bridge.service
setting() { sed -n "s/^$1=//p" "$unit"; }
ready() {
    exec 3<>"/dev/tcp/${CENTILOC_BRIDGE__ADMIN__LISTEN/://}" || return 1
    printf 'GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
    head -n 1 <&3 | grep -q ' 200 '
}
case $1 in
daemon-reload) test -e "$unit" ;;
enable)
    if (ready) 2>/dev/null; then exit 0; fi
    user=$(setting User) state=/var/lib/$(setting StateDirectory)
    install -d -m 0700 -o "$user" "$state"
    # Words, as systemd splits them.
    env STATE_DIRECTORY="$state" $(setting Environment) setpriv --reuid "$user" --regid "$user" \
        --init-groups $(setting ExecStart) >../service.log 2>&1 &
    echo $! >../service.pid
    for ((tick = 0; tick < 600; tick++)); do
        if (ready) 2>/dev/null; then exit 0; fi
        sleep 0.1
    done
    cat ../service.log >&2
    exit 1
    ;;
disable)
    pid=$(cat ../service.pid)
    kill -TERM "$pid"
    for ((tick = 0; tick < 300; tick++)); do
        kill -0 "$pid" 2>/dev/null || exit 0
        sleep 0.1
    done
    exit 1
    ;;
*) exit 64 ;;
esac
"#;

/// Returns the reason why there can be no such machine here.
fn impossible() -> Option<&'static str> {
    let works = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.is_ok_and(|output| output.status.success())
    };
    let mount = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w && mount -t overlay overlay \
                 -o lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w /etc";
    if !works("unshare", &["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", mount]) {
        return Some("mounts of its own need root and a kernel with overlayfs");
    }
    let missing =
        ["systemd-sysusers", "systemd-tmpfiles"].iter().find(|p| !works(p, &["--version"]));
    missing.map(|_| "systemd is not installed")
}

/// Returns the steps: README's first block, then docs/credentials.md, then the rest of README, then
/// the end of the service in docs/retire.md. A block of TOML is no step but the input of the one
/// before.
fn steps(database_url: &str) -> Vec<(FencedBlock, String)> {
    let (readme, credentials): (Vec<_>, Vec<_>) = blocks_of("fresh_machine")
        .into_iter()
        .partition(|block| block.place.starts_with("README.md"));
    let (end, credentials): (Vec<_>, Vec<_>) =
        credentials.into_iter().partition(|block| block.place.starts_with("docs/retire.md"));
    let (install, start) = readme.split_first().unwrap();
    let mut steps: Vec<(FencedBlock, String)> = Vec::new();
    for block in [install].into_iter().chain(&credentials).chain(start).chain(&end) {
        if block.language == "toml" {
            steps.last_mut().unwrap().1.clone_from(&block.text);
            continue;
        }
        let typed = match &block.text {
            text if text.contains("/dev/stdin /etc/centiloc-bridge/mqtt.password") => "PASSWORD\n",
            text if text.contains("/dev/stdin /etc/centiloc-bridge/database.url") => database_url,
            _ => "",
        };
        steps.push((block.clone(), typed.to_owned()));
    }
    steps
}

/// Copies everything that the machine reads into one folder that an ordinary user may enter.
fn prepare(broker: &Mosquitto, steps: &[(FencedBlock, String)]) -> ScratchFolder {
    let folder = ScratchFolder::new("machine");
    let mode = |name: &str, mode| {
        std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    for name in ["layers", "programs", "source/target/release"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    for name in ["", "layers", "programs", "source"] {
        mode(name, 0o755);
    }
    let built = env!("CARGO_BIN_EXE_centiloc-bridge");
    symlink(built, folder.join("source/target/release/centiloc-bridge")).unwrap();
    symlink(root().join("deploy"), folder.join("source/deploy")).unwrap();
    for (name, script) in [("cargo", "#!/bin/sh\n"), ("sudo", SUDO), ("systemctl", SYSTEMCTL)] {
        stub(&folder, &format!("programs/{name}"), script);
    }
    folder.write("ca.pem", broker.authority().pem());
    mode("ca.pem", 0o644);
    folder.write("ca.key", broker.authority().key_pem());
    folder.write("extensions", "extendedKeyUsage=clientAuth\n");
    let mut script = MACHINE.to_owned();
    for (number, (block, input)) in steps.iter().enumerate() {
        let name = format!("{number:02}-{}", block.place.replace(['/', ':'], "-"));
        folder.write(&name, &block.text);
        mode(&name, 0o644);
        folder.write(&format!("{name}.input"), input);
        if block.text.contains(" tls-cert.pem ") {
            script.push_str("support_team\n");
        }
        let _ = writeln!(script, "user ../{name} <../{name}.input");
    }
    folder.write("machine.sh", script);
    folder
}

#[tokio::test]
async fn fresh_machine_gets_a_running_service() {
    if let Some(reason) = impossible() {
        eprintln!("not shown here: {reason}");
        return;
    }
    let (mut broker, postgres) = tokio::join!(Mosquitto::start(), Postgres::own());
    broker.set_password("USER", "PASSWORD").await;
    postgres.execute("drop role bridge").await;
    for block in super::blocks_of("database").iter().filter(|b| b.text.contains("create database"))
    {
        postgres.psql("postgres", "postgres", &block.text).unwrap();
    }
    let port = postgres.port();
    let steps = steps(&format!("postgres://bridge:PASSWORD@127.0.0.1:{port}/centiloc\n"));
    let folder = prepare(&broker, &steps);
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.join("programs").display());
    let mut machine = Command::new("unshare");
    machine
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "bash"])
        .args([folder.join("machine.sh"), folder.join("layers"), folder.join("source")])
        .env("PATH", path)
        .env("CENTILOC_BRIDGE__MQTT__HOST", "127.0.0.1")
        .env("CENTILOC_BRIDGE__MQTT__PORT", broker.port().to_string())
        .env("CENTILOC_BRIDGE__MQTT__TLS__CA_FILE", folder.join("ca.pem"))
        .env("CENTILOC_BRIDGE__ADMIN__LISTEN", format!("127.0.0.1:{}", free_port()));
    let text = assert_succeeded(&finish(machine).await, "the way of the documents");
    for part in
        [" 0 failed", "Created the private key /etc/centiloc-bridge/private-key.pem", "Next step: "]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let connected = "select 'connected' from centiloc.connection limit 1";
    let output = postgres.psql("postgres", "centiloc", connected).unwrap();
    assert!(output.contains("connected"), "{output}");
}
