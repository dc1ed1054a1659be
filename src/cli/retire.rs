//! `retire`: ends the durable session of a bridge that is decommissioned.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::ConfigFileArgs;
use crate::telemetry::logging;

/// Command-line arguments of `retire`.
#[derive(Debug, clap::Args)]
pub struct RetireArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// Give up after this time
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Runs the command. Returns exit code 1 if the session could not be ended. It is then unchanged.
pub async fn run(args: RetireArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    let _log = logging::init(&config.log)?;
    let client_id = config.mqtt.client_id.clone();
    let retired = crate::service::retire(config, args.timeout).await.with_context(|| {
        format!("{client_id:?} is not retired; nothing is lost: run the command again")
    })?;
    let mut out = std::io::stdout().lock();
    let received = retired.received;
    writeln!(
        out,
        "{client_id} is retired: {received} messages received, and the session has ended"
    )
    .and_then(|()| out.flush())
    .context("could not write to stdout")?;
    Ok(ExitCode::SUCCESS)
}
