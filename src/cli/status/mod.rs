//! `status`: shows the status of the running service, as text or as JSON.

mod screen;
mod watch;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use secrecy::SecretString;
use serde_json::Value;
use time::OffsetDateTime;

use self::screen::StatusScreen;
use super::ConfigFileArgs;
use crate::admin::client::{AdminTarget, fetch, fetch_history};
use crate::admin::status_view::StatusView;
use crate::config::{DEFAULT_FILE, RunningService, find_service, process_environment, read_secret};
use crate::exit;
use crate::telemetry::stderr;

/// Command-line arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 ready (with --live: live); 1 not ready, not reachable, or the \
    service of another client id; 64 wrong usage; 78 no valid admin.listen in the \
    configuration."
)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Query this admin endpoint instead of admin.listen, `http://HOST:PORT` (without -c, no
    /// configuration is read)
    #[arg(long, value_name = "URL")]
    url: Option<AdminTarget>,
    /// Exit with 0 if the service makes progress, ready or not: for health checks that restart it
    #[arg(long)]
    live: bool,
    /// Print the JSON document of /api/status, for programs
    #[arg(long)]
    json: bool,
    /// Draw the status again every two seconds, until q or Ctrl-C
    #[arg(long, conflicts_with_all = ["json", "live"])]
    watch: bool,
    /// File with the token of the endpoint, instead of that of the configuration
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Queries the service that the configuration describes. Returns exit code 0 if it is ready.
pub async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let file = args.config.file.clone();
    let expected = match (&args.url, &file) {
        (Some(_), None) => None,
        _ => Some(find_service(file.as_deref(), process_environment())?),
    };
    let found = show(&args, expected.as_ref()).await?;
    Ok(ExitCode::from(if found { 0 } else { exit::FAILED }))
}

/// Prints the status. Returns true if the service is ready, or live with `--live`.
async fn show(args: &StatusArgs, expected: Option<&RunningService>) -> anyhow::Result<bool> {
    if let Some(problems) = expected.and_then(|service| service.problems.as_ref()) {
        stderr::line(format_args!(
            "{problems}\nA running service keeps the configuration that it was started or last reloaded \
             with; querying it nevertheless."
        ));
    }
    let listen = expected.and_then(|service| service.listen).map(AdminTarget::from);
    let Some(target) = args.url.clone().or(listen) else {
        stderr::line(format_args!(
            "the admin endpoint is turned off (admin.listen = \"\"), so a running service cannot \
             be queried; set it to an address such as 127.0.0.1:9464 and restart the service"
        ));
        return Ok(false);
    };
    let token = match &args.token_file {
        Some(file) => Some(
            read_secret(file)
                .map_err(|error| anyhow::anyhow!("--token-file: {} {error}", file.display()))?,
        ),
        None => expected.and_then(|service| service.token.clone()),
    };
    let status = match fetch(&target, token.as_ref()).await {
        Ok(status) => status,
        Err(error) => {
            stderr::line(format_args!("{error}"));
            return Ok(false);
        }
    };
    if let Some(differs) = expected.and_then(|service| other_service(&status, service, &target)) {
        let file = args.config.file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        stderr::line(format_args!(
            "{differs} in {}; use -c with the file of that service, or --url with the address of this one. \
             After a change of the tenant or of mqtt.client_id, restart the service.",
            file.display()
        ));
        return Ok(false);
    }
    if args.watch {
        watch::watch(async || frame(&target, token.as_ref()).await).await?;
        return Ok(true);
    }
    let history = fetch_history(&target, token.as_ref()).await;
    print(&status, history.as_ref(), args.json)?;
    let key = if args.live { "live" } else { "ready" };
    Ok(status.get(key) == Some(&Value::Bool(true)))
}

/// Describes the difference if the service that answered has another tenant or client id.
fn other_service(status: &Value, service: &RunningService, target: &AdminTarget) -> Option<String> {
    let differs = |key: &str, configured: &Option<String>| {
        let running = status.get(key)?.as_str()?;
        let configured = configured.as_deref()?;
        (running != configured).then(|| {
            let running = printable(running);
            format!("{target} is the service of {key} {running:?}, but it is {configured:?}")
        })
    };
    differs("client_id", &service.client_id).or_else(|| differs("tenant", &service.tenant))
}

/// Draws one frame of `--watch`. A service that does not answer is shown, and asked again.
async fn frame(target: &AdminTarget, token: Option<&SecretString>) -> String {
    let hint = "\nq or Ctrl-C ends.\n";
    match fetch(target, token).await {
        Ok(status) => {
            let history = fetch_history(target, token).await;
            let (now, colours) = (OffsetDateTime::now_utc(), colours());
            let screen =
                StatusScreen { status: &status, history: history.as_ref(), colours, now }.draw();
            screen.unwrap_or_else(|| render(&status, None)) + hint
        }
        Err(error) => format!("✗ {error}\n{hint}"),
    }
}

fn colours() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    wanted && std::io::stdout().is_terminal()
}

fn print(status: &Value, history: Option<&Value>, json: bool) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string_pretty(status).context("could not write JSON")? + "\n"
    } else {
        let (now, colours) = (OffsetDateTime::now_utc(), colours());
        render(status, StatusScreen { status, history, colours, now }.draw())
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not write to stdout")
}

/// Renders the values of a status, below the problems of a service whose version has no screen.
fn render(status: &Value, screen: Option<String>) -> String {
    let view = StatusView::new(status);
    // Writing to a String does not fail.
    let mut text = screen.unwrap_or_else(|| problems(&view));
    let labels = view.sections.iter().flat_map(|section| &section.rows);
    let width = labels.map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    for section in &view.sections {
        let _ = writeln!(text, "\n{}", section.title);
        for (label, value) in &section.rows {
            let _ = writeln!(text, "  {label:width$}  {}", printable(value));
        }
    }
    text
}

fn problems(view: &StatusView) -> String {
    let ready = if view.ready { "ready" } else { "NOT ready" };
    let line = |(part, problem): &(String, String)| format!("  {part}: {}\n", printable(problem));
    format!("The service is {ready}.\n") + &view.problems.iter().map(line).collect::<String>()
}

/// Replaces control characters with blanks, so that text from the network cannot control the
/// terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_are_shown_before_everything_else() {
        let text = render(
            &json!({
                "ready": false, "tenant": "acme", "version": "0.1.0",
                "not_ready": [{"part": "session", "problem": "refused\u{1b}[31m; see the password"}],
                "figures": {"received": 12, "unacked": 0},
            }),
            None,
        );
        let expected = "The service is NOT ready.\n  session: refused [31m; see the password\n\n\
            Service\n  Version   0.1.0\n  Tenant    acme\n\n\
            Since the start\n  Received  12\n  Unacked   0\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn another_service_is_recognised_by_its_names() {
        let target = "http://127.0.0.1:9464".parse().expect("a target");
        let service = |tenant: Option<&str>, client_id: Option<&str>| RunningService {
            listen: None,
            token: None,
            tenant: tenant.map(str::to_owned),
            client_id: client_id.map(str::to_owned),
            problems: None,
        };
        let status = json!({"tenant": "acme", "client_id": "acme-bridge"});
        for same in [
            service(None, None),
            service(Some("acme"), None),
            service(Some("acme"), Some("acme-bridge")),
        ] {
            assert_eq!(other_service(&status, &same, &target), None);
        }
        let other = other_service(&status, &service(Some("acme"), Some("acme-2")), &target);
        assert!(other.expect("another").contains("client_id \"acme-bridge\""));
        let other = other_service(&status, &service(Some("other"), None), &target);
        assert!(other.expect("another").contains("tenant \"acme\""));
    }
}
