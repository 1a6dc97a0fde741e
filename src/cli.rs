//! The command line: one subcommand, one thing that is started.

mod classify;
pub mod environment;
mod health;
mod models;
mod prepare;

use std::env;
use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::app::Application;
use crate::app::stop::StopSignal;
use crate::config::ServeArgs;
use crate::inference::prepared::DAMAGED_EXIT_CODE;
use crate::logging::{self, LogFormat};
use crate::panics::end_after_panic;
use crate::residency::loader::chain;

/// It was tried and failed.
const EXIT_FAILED: u8 = 1;

/// Everything was done but for some bad rows.
const EXIT_BAD_ROWS: u8 = 2;

/// A setting or an argument is wrong (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Reads the emotions in English text
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    /// How log lines look; the variable RUST_LOG chooses what is logged, e.g. debug or emotion_server=debug [default: info]
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text", global = true)]
    log_format: LogFormat,

    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer over HTTP; what is done without a command
    Serve(Box<ServeArgs>),
    /// Classify texts from arguments, a file or standard input
    #[command(after_help = classify::EXIT_CODES)]
    Classify(Box<classify::ClassifyArgs>),
    /// Write the prepared weights of the models ahead of time
    Prepare(Box<prepare::PrepareArgs>),
    /// List the models, or verify their files
    Models(models::ModelsArgs),
    /// Ask a running server whether it is ready; exit code 0 if it is
    Health(health::HealthArgs),
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A setting or argument is wrong.
    Usage(String),
    /// It was tried and failed.
    Failed(String),
    /// A model's files are not what its bundle says.
    Damaged(String),
    /// It was done, but for some rows that could not be used.
    BadRows(String),
    /// A signal asked to stop.
    Stopped(StopSignal, String),
}

impl Failure {
    fn failed(error: &dyn std::error::Error) -> Self {
        Self::Failed(chain(error))
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs the command that the arguments name; its exit code is 0, 1 when it failed, 2 when it was done
/// but for some bad rows, 64 when a setting is wrong, 65 when a model's files are damaged, 70 after a
/// panic that the program cannot go on from, or 130 or 143 when a signal stopped it.
#[must_use]
pub fn run() -> ExitCode {
    let code = catch_unwind(run_command).unwrap_or_else(|_logged| end_after_panic("the command"));
    logging::flush();
    code
}

fn run_command() -> ExitCode {
    let mut command = without_empty_variables(Cli::command());
    let cli = match command.try_get_matches_from_mut(env::args_os()).and_then(|matches| Cli::from_arg_matches(&matches))
    {
        Ok(cli) => cli,
        Err(error) => {
            if !error.use_stderr() {
                // A closed terminal is nobody to tell.
                let _closed = error.print();
                return ExitCode::SUCCESS;
            }
            let what = error.render();
            let what = if logging::has_colours() { what.ansi().to_string() } else { what.to_string() };
            logging::tell(what.trim_end());
            if let Some(setting) = setting_of(&error, &command) {
                logging::tell(setting);
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let result = match cli.command {
        None => serve(cli.log_format, &cli.serve),
        Some(Command::Serve(arguments)) => serve(cli.log_format, &arguments),
        Some(Command::Classify(arguments)) => classify::run(&arguments),
        Some(Command::Prepare(arguments)) => prepare::run(cli.log_format, &arguments),
        Some(Command::Models(arguments)) => models::run(&arguments),
        Some(Command::Health(arguments)) => health::run(&arguments),
    };
    let (code, what) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(what)) => (EXIT_FAILED, what),
        Err(Failure::BadRows(what)) => (EXIT_BAD_ROWS, what),
        Err(Failure::Usage(what)) => (EXIT_USAGE, what),
        Err(Failure::Damaged(what)) => (DAMAGED_EXIT_CODE, what),
        Err(Failure::Stopped(signal, what)) => (signal.exit_code(), what),
    };
    logging::tell(format_args!("error: {what}"));
    ExitCode::from(code)
}

/// A variable that is set to nothing counts as unset: that is how compose files and manifests leave
/// a setting out.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |argument: &Arg| argument.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|argument| if is_empty(&argument) { argument.env(Resettable::Reset) } else { argument })
        .mut_subcommands(without_empty_variables)
}

/// The flag and the variable of the setting whose value was refused, and what it takes.
fn setting_of(error: &clap::Error, command: &clap::Command) -> Option<String> {
    let Some(ContextValue::String(refused)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = refused.strip_prefix("--")?.split(' ').next()?;
    let argument = std::iter::once(command)
        .chain(command.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .find(|argument| argument.get_long() == Some(flag))?;
    let variable = argument.get_env()?.to_string_lossy();
    Some(format!("{variable}, or --{flag}: {}.", argument.get_help()?))
}

fn serve(log_format: LogFormat, arguments: &ServeArgs) -> Result<(), Failure> {
    logging::start(log_format, arguments.guard.log_texts);
    actix_web::rt::System::new().block_on(async {
        let application = Application::build(arguments)?;
        application.run_until_stopped().await.map_err(|error| Failure::failed(&error))
    })
}
