//! `retire`: decommissions a bridge for good.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::ConfigFileArgs;
use crate::telemetry::logging;

/// Arguments of `retire`.
#[derive(Debug, clap::Args)]
pub struct RetireArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    /// How long it may take
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Exit code 1 if the session could not be ended: it stays as it is then.
pub async fn run(args: RetireArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?.config;
    let _log = logging::init(&config.log)?;
    let client_id = config.mqtt.client_id.clone();
    let retired = crate::service::retire(config, args.timeout).await.with_context(|| {
        format!("{client_id:?} is not retired; nothing is lost, run this again")
    })?;
    let mut out = std::io::stdout().lock();
    let received = retired.received;
    writeln!(out, "{client_id} is retired: {received} messages received, and the session is ended")
        .and_then(|()| out.flush())
        .context("could not write to stdout")?;
    Ok(ExitCode::SUCCESS)
}
