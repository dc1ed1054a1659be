//! The command line, with one module per command.

pub mod archive;
pub mod check;
pub mod config;
pub mod csr;
pub mod dead_letters;
pub mod decode;
pub mod erase;
pub mod gaps;
pub mod import_layout;
pub mod migrate;
mod output;
mod progress_bar;
pub mod rebuild;
pub mod retire;
pub mod run;
pub mod simulate;
pub mod status;

use std::io::{self, ErrorKind, LineWriter, stdout};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::config::{
    ConfigError, DEFAULT_FILE, KeepPayload, LoadedConfig, load, process_environment,
};
use crate::decode::ProtoSchemaError;
use crate::exit;
use crate::service::config_diff::ConfigSource;
use crate::telemetry::stderr::{self, StderrWriter};
use crate::version::VERSION;

/// Store Centiloc events in PostgreSQL without losing any
#[derive(Debug, Parser)]
#[command(name = "centiloc-bridge", version = VERSION, about, arg_required_else_help = true)]
pub struct CommandLine {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the service until a signal stops it
    Run(ConfigFileArgs),
    /// Validate configuration, credentials, broker and database access
    Check(check::CheckArgs),
    /// Show the effective configuration and the origin of each value
    Config(WithConfig<config::ConfigArgs>),
    /// Create a private key and a certificate signing request for Centiloc
    Csr(csr::CsrArgs),
    /// Show the status of the running service
    Status(status::StatusArgs),
    /// Decode one payload and show its row, or the reason for its rejection
    Decode(WithConfig<decode::DecodeArgs>),
    /// Apply or list database migrations
    Migrate(migrate::MigrateArgs),
    /// List, replay, export or purge dead letters
    DeadLetters(dead_letters::DeadLettersArgs),
    /// List periods of possible message loss, or acknowledge them with a note
    Gaps(gaps::GapsArgs),
    /// Import files of shelves and furniture, for maps and empty places
    ImportLayout(import_layout::ImportLayoutArgs),
    /// End the durable session at the broker for good, after storing its messages
    Retire(retire::RetireArgs),
    /// Erase all data of a tag or board, or everything before a date
    Erase(erase::EraseArgs),
    /// List the files of archived events, or restore them
    Archive(archive::ArchiveArgs),
    /// Compute derived tables again from the events
    Rebuild(rebuild::RebuildArgs),
    /// Publish simulated events to a test broker
    Simulate(simulate::SimulateArgs),
}

/// `-c FILE`, the same for every command that reads the configuration.
#[derive(Debug, clap::Args)]
pub struct ConfigFileArgs {
    /// Configuration file [default: /etc/centiloc-bridge/config.toml]
    #[arg(id = "config_file", short = 'c', long = "config", value_name = "FILE")]
    // Commands have a positional `file` of their own.
    #[arg(id = "config", short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// The arguments of a command and the configuration file.
#[derive(Debug, clap::Args)]
struct WithConfig<A: clap::Args> {
    #[command(flatten)]
    config: ConfigFileArgs,
    #[command(flatten)]
    args: A,
}

impl ConfigFileArgs {
    /// Loads the effective configuration.
    pub fn load(&self) -> Result<LoadedConfig, ConfigError> {
        load(self.file.as_deref(), process_environment())
    }

    /// Loads the effective configuration for a command that can do without one. Returns `None` if
    /// no file was named and the default one does not exist.
    fn load_if_any(&self) -> Result<Option<LoadedConfig>, ConfigError> {
        if self.file.is_none() && !Path::new(DEFAULT_FILE).exists() {
            return Ok(None);
        }
        self.load().map(Some)
    }
}

/// Parses the arguments, runs the command and turns its error into an exit code.
pub fn main() -> ExitCode {
    stderr::report_panics();
    let code = run_command_line();
    stderr::flush();
    code
}

fn run_command_line() -> ExitCode {
    let cli = match CommandLine::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            // Nothing can be reported if even stderr is closed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    // The panic hook has already reported a panic.
    match std::panic::catch_unwind(|| dispatch(cli.command)) {
        Err(_) => ExitCode::from(exit::INTERNAL),
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            if !is_broken_pipe(&error) {
                stderr::line(format_args!("centiloc-bridge: {error:#}"));
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn dispatch(command: CliCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let runtime = DetachedRuntime(Some(runtime));
    runtime.block_on(async {
        match command {
            CliCommand::Run(config) => {
                let loaded = config.load()?;
                run::run(loaded, ConfigSource { file: config.file }).await
            }
            CliCommand::Check(args) => Box::pin(check::run(args)).await,
            CliCommand::Config(with) => {
                let loaded = with.config.load()?;
                let err = &mut LineWriter::new(StderrWriter);
                if with.args.json {
                    config::show_json(&loaded, &mut stdout(), err)?;
                } else {
                    config::show(&loaded, &mut stdout(), err)?;
                }
                Ok(ExitCode::SUCCESS)
            }
            CliCommand::Csr(args) => {
                csr::run(&args, &mut stdout())?;
                Ok(ExitCode::SUCCESS)
            }
            CliCommand::Status(args) => status::run(args).await,
            CliCommand::Decode(with) => decode_with(&with),
            CliCommand::Migrate(args) => migrate::run(args).await,
            CliCommand::DeadLetters(args) => dead_letters::run(args).await,
            CliCommand::Gaps(args) => gaps::run(args).await,
            CliCommand::ImportLayout(args) => import_layout::run(args).await,
            CliCommand::Retire(args) => Box::pin(retire::run(args)).await,
            CliCommand::Erase(args) => erase::run(args).await,
            CliCommand::Archive(args) => archive::run(args).await,
            CliCommand::Rebuild(args) => rebuild::run(args).await,
            CliCommand::Simulate(args) => simulate::run(args).await,
        }
    })
}

/// A runtime that ends without waiting for its threads. One of them may be in a name lookup, which
/// cannot be interrupted and takes up to a minute if name servers do not answer.
struct DetachedRuntime(Option<Runtime>);

impl Deref for DetachedRuntime {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        // Unwrap safety: only `drop` takes the runtime.
        self.0.as_ref().expect("a runtime")
    }
}

impl Drop for DetachedRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn decode_with(with: &WithConfig<decode::DecodeArgs>) -> anyhow::Result<ExitCode> {
    let config = with.config.load_if_any()?.map(|loaded| loaded.config);
    let tenant = config.as_ref().map(|config| config.tenant.clone());
    let settings = config
        .map_or(crate::config::DecodeConfig::new(None, KeepPayload::Unknown), |config| {
            config.decode
        });
    decode::run(&with.args, &settings, tenant.as_deref())
}

/// Returns true if the reader of the output has closed the pipe, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Error for arguments that parse but contradict each other or the environment: exit code 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() {
        return exit::USAGE;
    }
    let problems = error.downcast_ref::<ConfigError>();
    let refused = problems.is_some_and(|all| !all.may_pass()) || error.is::<ProtoSchemaError>();
    if refused { exit::CONFIG } else { exit::FAILED }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }
}
