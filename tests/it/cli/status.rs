//! `status` as an operator and a health check use it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdout, Command};

use crate::support::bridge::{Bridge, command, finish};
use crate::support::config::Config;
use crate::support::rig::Rig;
use crate::support::wait::{SOON, until};

async fn status(file: &Path, args: &[&str]) -> Output {
    let start = ["status".as_ref(), "-c".as_ref(), file.as_os_str()];
    finish(command(start.into_iter().chain(args.iter().map(OsStr::new)))).await
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Writes the configuration next to the one in use.
fn another(
    config: &Config,
    name: &str,
    change: impl FnOnce(Config) -> Config,
) -> std::path::PathBuf {
    let used = config.write();
    let text = std::fs::read_to_string(&used).unwrap();
    let changed = std::fs::read_to_string(change(config.clone()).write()).unwrap();
    std::fs::write(&used, text).unwrap();
    config.file(name, changed)
}

#[tokio::test]
async fn exit_code_follows_readiness() {
    let rig = Rig::new().await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    let file = config.write();
    let ready = status(&file, &[]).await;
    assert_eq!(code(&ready), Some(0), "{ready:?}");
    assert!(String::from_utf8_lossy(&ready.stdout).starts_with("✓ Well: "));
    rig.tap.proxy.refuse().await;
    let not_ready = until("status to end with 1", SOON, || async {
        let output = status(&file, &["--json"]).await;
        if code(&output) == Some(1) { Ok(output) } else { Err(output) }
    })
    .await;
    let document: serde_json::Value = serde_json::from_slice(&not_ready.stdout).unwrap();
    assert_eq!(document["ready"], false);
    assert_eq!(code(&status(&file, &["--live"]).await), Some(0));
    let url = format!("http://127.0.0.1:{}", config.admin_port());
    let by_url = finish(command(["status", "--live", "--url", &url])).await;
    assert_eq!(code(&by_url), Some(0), "{by_url:?}");
    bridge.terminate().await;
    for args in [&[][..], &["--live"]] {
        let output = status(&file, args).await;
        assert_eq!(code(&output), Some(1), "{output:?}");
        assert!(errors(&output).contains("not running"), "{output:?}");
    }
}

#[tokio::test]
async fn invalid_configuration_hides_no_service() {
    let rig = Rig::new().await;
    let config = rig.config();
    let _bridge = Bridge::ready(&config).await;
    let file = another(&config, "typo.toml", |config| {
        config.set("mqtt.keep_alife", "60s").set("batch.max_events", "many")
    });
    let output = status(&file, &[]).await;
    assert_eq!(code(&output), Some(0), "{output:?}");
    assert!(errors(&output).contains("mqtt.keep_alife"), "{output:?}");
    let text = std::fs::read_to_string(config.write()).unwrap();
    let broken = config.file("broken.toml", text + "\n[log]\nlevel = = \"info\"\n");
    let output = status(&broken, &[]).await;
    assert_eq!(code(&output), Some(0), "{output:?}");
    assert!(errors(&output).contains("broken.toml"), "{output:?}");
}

#[tokio::test]
async fn service_of_another_client_is_refused() {
    let rig = Rig::new().await;
    let config = rig.config();
    let _bridge = Bridge::ready(&config).await;
    let url = format!("http://127.0.0.1:{}", config.admin_port());
    for (name, key, value) in
        [("tenant.toml", "tenant", "other"), ("id.toml", "mqtt.client_id", "acme-second")]
    {
        let file = another(&config, name, |config| config.set(key, value));
        for args in [&[][..], &["--live"], &["--url", &url]] {
            let output = status(&file, args).await;
            assert_eq!(code(&output), Some(1), "{output:?}");
            assert!(output.stdout.is_empty(), "{output:?}");
            let said = errors(&output);
            assert!(said.contains("acme-bridge") && said.contains(name), "{said}");
        }
    }
}

#[tokio::test]
async fn unknown_address_exits_78_bad_url_64() {
    let rig = Rig::new().await;
    let config = rig.config();
    let file = another(&config, "nowhere.toml", |config| config.set("admin.listen", "somewhere"));
    let output = status(&file, &[]).await;
    assert_eq!(code(&output), Some(78), "{output:?}");
    assert!(errors(&output).contains("admin.listen"), "{output:?}");
    let output = status(Path::new("/nonexistent/config.toml"), &[]).await;
    assert_eq!(code(&output), Some(78), "{output:?}");
    let output = finish(command(["status", "--url", "https://127.0.0.1"])).await;
    assert_eq!(code(&output), Some(64), "{output:?}");
    assert!(errors(&output).contains("http://HOST:PORT"), "{output:?}");
    let off = another(&config, "off.toml", |config| config.set("admin.listen", ""));
    let output = status(&off, &[]).await;
    assert_eq!(code(&output), Some(1), "{output:?}");
    assert!(errors(&output).contains("turned off"), "{output:?}");
}

/// Reads until the output has a text, and returns what was read.
async fn read_until(out: &mut ChildStdout, wanted: &str) -> String {
    let mut shown = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&shown).contains(wanted) {
            let more = out.read_buf(&mut shown).await.unwrap();
            assert_ne!(more, 0, "no {wanted:?} in {}", String::from_utf8_lossy(&shown));
        }
    };
    tokio::time::timeout(SOON, read).await.unwrap_or_else(|_| panic!("no {wanted:?} in time"));
    String::from_utf8(shown).unwrap()
}

/// `script` gives the command a terminal.
#[tokio::test]
async fn watch_follows_the_service_until_q() {
    const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
    const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";
    let rig = Rig::new().await;
    let config = rig.config();
    let mut bridge = Bridge::ready(&config).await;
    let file = config.write();
    let watch = command(["status", "--watch", "-c", file.to_str().unwrap()]);
    let mut words = vec![watch.get_program()];
    words.extend(watch.get_args());
    let line: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--flush", "--command", &line.join(" "), "/dev/null"]);
    terminal.env("TERM", "xterm-256color").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut terminal = terminal.kill_on_drop(true).spawn().unwrap();
    let mut out = terminal.stdout.take().unwrap();
    let first = read_until(&mut out, "q or Ctrl-C ends.").await;
    assert!(first.starts_with(ENTER), "{first:?}");
    assert!(first.contains("Well: "), "{first:?}");
    bridge.terminate().await;
    read_until(&mut out, "not running").await;
    let _again = Bridge::ready(&config).await;
    read_until(&mut out, "Well: ").await;
    terminal.stdin.as_mut().unwrap().write_all(b"q").await.unwrap();
    let last = read_until(&mut out, LEAVE).await;
    assert!(last.ends_with(LEAVE), "{last:?}");
    let ended = tokio::time::timeout(SOON, terminal.wait()).await;
    assert!(ended.expect("q did not end it").unwrap().success());
}
