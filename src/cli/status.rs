//! `status`: the running service's state, for a person or a program.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use super::ConfigArgs;
use crate::admin::client::fetch;
use crate::admin::outline::Outline;
use crate::telemetry::stderr;

/// Exit code where there is no status to show.
const FAILED: u8 = 1;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// The document of /api/status, for programs.
    #[arg(long)]
    json: bool,
}

/// Asks the service that the configuration describes. Exit code 0 if it runs, ready or not.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let loaded = args.config.load()?;
    show(loaded.config.admin_listen, args.json).await
}

async fn show(listen: Option<SocketAddr>, json: bool) -> anyhow::Result<ExitCode> {
    let Some(listen) = listen else {
        stderr::line(format_args!(
            "the admin endpoint is turned off (admin.listen = \"\"), so a running service cannot \
             be asked; give it an address such as 127.0.0.1:9464 and restart the service"
        ));
        return Ok(ExitCode::from(FAILED));
    };
    let status = match fetch(listen).await {
        Ok(status) => status,
        Err(error) => {
            stderr::line(format_args!("{error}"));
            return Ok(ExitCode::from(FAILED));
        }
    };
    let text = if json {
        serde_json::to_string_pretty(&status).context("could not write JSON")? + "\n"
    } else {
        render(&status)
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("could not write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

fn render(status: &Value) -> String {
    let outline = Outline::new(status);
    let mut text = String::new();
    // Unwrap safety: writing to a String does not fail.
    write_outline(&mut text, &outline).expect("a String takes everything");
    text
}

fn write_outline(out: &mut String, outline: &Outline) -> std::fmt::Result {
    writeln!(out, "The service is {}.", if outline.ready { "ready" } else { "NOT ready" })?;
    for (part, problem) in &outline.obstacles {
        writeln!(out, "  {part}: {}", printable(problem))?;
    }
    let labels = outline.sections.iter().flat_map(|section| &section.rows);
    let width = labels.map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    for section in &outline.sections {
        writeln!(out, "\n{}", section.title)?;
        for (label, value) in &section.rows {
            writeln!(out, "  {label:width$}  {}", printable(value))?;
        }
    }
    Ok(())
}

/// What came over the network must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_person_sees_first_what_is_wrong_and_then_everything_else() {
        let text = render(&json!({
            "ready": false, "tenant": "acme", "version": "0.1.0",
            "not_ready": [{"part": "session", "problem": "refused\u{1b}[31m; see the password"}],
            "figures": {"received": 12, "unacked": 0},
        }));
        let expected = "The service is NOT ready.\n  session: refused [31m; see the password\n\n\
            Service\n  Version   0.1.0\n  Tenant    acme\n\n\
            Since the start\n  Received  12\n  Unacked   0\n";
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn no_endpoint_or_no_service_is_exit_code_one() {
        let failed = format!("{:?}", ExitCode::from(FAILED));
        let off = show(None, false).await.expect("said");
        assert_eq!(format!("{off:?}"), failed);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let away = show(Some(address), true).await.expect("said");
        assert_eq!(format!("{away:?}"), failed);
    }
}
