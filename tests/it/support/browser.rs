//! A headless Chromium that drives the pages of the admin endpoint, over the `DevTools` protocol on a
//! pipe: JSON messages that end with NUL. It records what a page must not do: errors on the console,
//! violations of the Content-Security-Policy, and requests to other servers.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::process::{ScratchFolder, guard};
use super::wait::{SOON, until};

/// Bound on one command. Starting the first page takes seconds on a loaded machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Chromium reads commands from descriptor 3 and writes to 4, which the shell connects to its own
/// standard input and output.
const START: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;

/// Options of a browser that sends nothing by itself and looks the same on every machine.
const OPTIONS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--window-size=1280,900",
];

type PendingAnswers = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A running Chromium with one page. Dropping it ends it.
pub struct Browser {
    child: Child,
    commands: Mutex<ChildStdin>,
    pending: PendingAnswers,
    events: Arc<Mutex<Vec<Value>>>,
    next_id: AtomicU64,
    /// Session of the page.
    session: String,
    _profile: ScratchFolder,
}

impl Browser {
    /// Starts Chromium with an empty page.
    pub async fn start() -> Self {
        let profile = ScratchFolder::new("chromium");
        let mut child = Command::new("sh")
            .args(["-c", START, "chromium"])
            .args(OPTIONS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("could not start sh for chromium");
        guard(&format!("process {} KILL", child.id()));
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (pending, events) = (PendingAnswers::default(), Arc::<Mutex<Vec<Value>>>::default());
        let (read_pending, read_events) = (Arc::clone(&pending), Arc::clone(&events));
        std::thread::spawn(move || read(answers, &read_pending, &read_events));
        let mut browser = Self {
            child,
            commands: Mutex::new(commands),
            pending,
            events,
            next_id: AtomicU64::new(1),
            session: String::new(),
            _profile: profile,
        };
        browser.session = browser.attach().await;
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            browser.call(domain, json!({})).await;
        }
        browser
    }

    async fn attach(&self) -> String {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", target).await;
        attached["sessionId"].as_str().expect("a session of the page").to_owned()
    }

    /// Sends a `DevTools` command to the page and returns its result.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let (sender, answer) = oneshot::channel();
        self.pending.lock().unwrap().insert(id, sender);
        self.commands
            .lock()
            .unwrap()
            .write_all(format!("{message}\0").as_bytes())
            .expect("chromium is gone: is the package chromium installed (make deps)?");
        let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {method}"));
        let mut answer = answer.expect("chromium ended: is the package chromium installed?");
        assert!(answer.get("error").is_none(), "{method} failed: {}", answer["error"]);
        answer["result"].take()
    }

    /// Opens a page and waits until it has loaded.
    pub async fn open(&self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "could not open {url}: {opened}");
        self.until(&format!(
            "location.href.startsWith({url:?}) && document.readyState === 'complete'"
        ))
        .await;
    }

    /// Returns the value of a JavaScript expression in the page.
    pub async fn evaluate(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression} failed: {result}");
        result["result"]["value"].take()
    }

    /// Waits until a JavaScript expression is truthy in the page, and returns its value.
    pub async fn until(&self, expression: &str) -> Value {
        until(&format!("{expression} in the page"), SOON, || async {
            let params =
                json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
            let mut result = self.call("Runtime.evaluate", params).await;
            let failed = result.get("exceptionDetails").is_some();
            let value = result["result"]["value"].take();
            let is_falsy = matches!(&value, Value::Null | Value::Bool(false))
                || value == json!(0)
                || value == json!("");
            if failed || is_falsy { Err(result) } else { Ok(value) }
        })
        .await
    }

    /// Returns the visible text of the page.
    pub async fn text(&self) -> String {
        self.evaluate("document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Sets the size of the window, CSS pixels, and the number of device pixels for each.
    pub async fn resize(&self, width: u32, height: u32, scale: f64) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": false,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Sets media features, such as `prefers-color-scheme` to `dark`.
    pub async fn prefer(&self, features: &[(&str, &str)]) {
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Turns scripts of pages on or off. [`Browser::evaluate`] works nevertheless.
    pub async fn allow_scripts(&self, allowed: bool) {
        let params = json!({"value": !allowed});
        self.call("Emulation.setScriptExecutionDisabled", params).await;
    }

    /// Presses and releases a key, such as `Tab` or `Enter`.
    pub async fn press(&self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "code": key});
            if key == "Enter" {
                event["text"] = json!("\r");
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Types text into the element that has the focus.
    pub async fn type_text(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Writes a PNG of the page: the window, or the whole page.
    pub async fn screenshot(&self, file: &Path, whole: bool) {
        let params = json!({"format": "png", "captureBeyondViewport": whole});
        let shot = self.call("Page.captureScreenshot", params).await;
        let png = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(file, png).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }

    /// Returns the events of a method since the start, such as `Network.requestWillBeSent`.
    pub fn events(&self, method: &str) -> Vec<Value> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| event["method"] == method).cloned().collect()
    }

    /// Returns the URLs of all requests since the start.
    pub fn requests(&self) -> Vec<String> {
        let sent = self.events("Network.requestWillBeSent");
        let url = |event: &Value| event["params"]["request"]["url"].as_str().map(str::to_owned);
        sent.iter().filter_map(url).collect()
    }

    /// Returns all errors since the start: of the console, of scripts, and violations of the
    /// Content-Security-Policy.
    pub fn errors(&self) -> Vec<String> {
        let is_error = |event: &Value| {
            let params = &event["params"];
            match event["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Runtime.consoleAPICalled") => params["type"] == "error",
                Some("Log.entryAdded") => params["entry"]["level"] == "error",
                _ => false,
            }
        };
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter(|event| is_error(event))
            .map(|event| event["params"].to_string())
            .collect()
    }

    /// Asserts that there was no error, and no request to another server than `origin`.
    pub fn assert_clean(&self, origin: &str) {
        assert_eq!(self.errors(), [""; 0]);
        self.assert_only(origin);
    }

    /// Asserts that every request went to `origin`.
    pub fn assert_only(&self, origin: &str) {
        let is_foreign = |url: &String| !url.starts_with(origin) && url != "about:blank";
        let foreign: Vec<_> = self.requests().into_iter().filter(is_foreign).collect();
        assert_eq!(foreign, [""; 0]);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().expect("could not kill chromium");
        self.child.wait().expect("could not wait for chromium");
        guard(&format!("ended {}", self.child.id()));
        if std::thread::panicking() {
            eprintln!("errors of the page: {:#?}", self.errors());
        }
    }
}

/// Passes answers to those that wait for them, and keeps events.
fn read(answers: ChildStdout, pending: &PendingAnswers, events: &Mutex<Vec<Value>>) {
    for message in BufReader::new(answers).split(0).map_while(Result::ok) {
        let Ok(message) = serde_json::from_slice::<Value>(&message) else { continue };
        match message["id"].as_u64() {
            Some(id) => {
                if let Some(waiting) = pending.lock().unwrap().remove(&id) {
                    drop(waiting.send(message));
                }
            }
            None => events.lock().unwrap().push(message),
        }
    }
    // All that still wait see the end.
    pending.lock().unwrap().clear();
}
