//! The subcommands and their output.

mod dns;
mod operator;
mod output;

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use futures::StreamExt;
use lifecycle::Lifecycle;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_tokio::Signals;
use tracing::{error, info, warn};

use crate::{
    access,
    admin::Admin,
    config::{Config, Loaded, reference},
    identity::{self, Identity, KeySource},
    node::Node,
    probe,
    telemetry::{self, StartError, Telemetry},
};

/// Exit code for invalid arguments or an invalid configuration (`EX_USAGE`).
pub const EX_USAGE: u8 = 64;

/// How long shutdown waits for blocking threads, such as the lookup of a name.
const BLOCKING_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Number of tasks that a worker runs between two polls for I/O events. With tokio's default of 61, a
/// message waits for as many polls of busy circuits: milliseconds, many times the cost of polling for
/// events.
const EVENT_INTERVAL: u32 = 2;

/// Signals that start the drain; a second one ends the process.
const STOP_SIGNALS: [i32; 2] = [SIGTERM, SIGINT];
/// Signals that are logged and otherwise ignored. Their default action would end the process with all
/// circuits; they are sent when a terminal closes, or by tools that reload or rotate logs.
const IGNORED_SIGNALS: [i32; 3] = [SIGHUP, SIGUSR1, SIGUSR2];
/// The signal that makes a task panic, in debug builds only.
#[cfg(debug_assertions)]
const PANIC_SIGNAL: i32 = signal_hook::consts::SIGALRM;

/// A libp2p Circuit Relay v2 server.
///
/// The configuration comes from environment variables; `descord-relay config` lists them.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay (the default).
    Serve,
    /// Test relays end to end: reserve, connect through them, send data both ways.
    Probe(probe::Args),
    /// Check whether the relay with this environment is ready; for images without a shell.
    Healthcheck,
    /// Print the status of the relay with this environment as JSON: phase, limits, totals.
    Status,
    /// Print or change the log filter of the relay with this environment, without a restart.
    LogFilter {
        /// A filter in the syntax of `RUST_LOG`, such as `debug` or `descord_relay=trace`; empty restores
        /// the default.
        filter: Option<String>,
    },
    /// Print the peer id of a relay with this environment.
    Identity {
        #[command(subcommand)]
        command: Option<IdentityCommand>,
    },
    Dnsaddr(dns::DnsaddrArgs),
    /// Answer DNS queries for the fleet's zone with the relays that are ready.
    Dns,
    /// Print the configuration from this environment, with masked secrets.
    Config {
        /// Print the reference of all variables instead, as tables in Markdown.
        #[arg(long)]
        reference: bool,
    },
}

#[derive(Debug, Subcommand)]
enum IdentityCommand {
    /// Print a new seed for a fleet, for `RELAY_IDENTITY_SEED`.
    Generate {
        /// Write the seed to this file instead, readable by its owner and group, unless the file exists;
        /// for `RELAY_IDENTITY_SEED_FILE`.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// Parses the arguments and runs the command. `--version` prints `allocator`, a description of the
/// process's allocator, below the version; `-V` prints the version alone.
pub fn main(allocator: &str) -> ExitCode {
    let version = format!("{}\nallocator: {allocator}", env!("CARGO_PKG_VERSION"));
    // The parser keeps a reference to the text until the process ends.
    let parser = Cli::command().long_version(&*version.leak());
    let parsed = parser.try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print();
            return if error.use_stderr() {
                EX_USAGE.into()
            } else {
                output::exit_code(printed.and_then(|()| io::stdout().flush()))
            };
        }
    };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => with_config(serve),
        Command::Probe(args) => with_runtime(async {
            let ended = probe::execute(args).await;
            ended.unwrap_or_else(|error| output::exit_code(Err(error)))
        }),
        Command::Identity {
            command: Some(IdentityCommand::Generate { to }),
        } => generate_seed(to.as_deref()),
        Command::Healthcheck => {
            load_config_from(env_without_external_addresses(), operator::healthcheck)
        }
        Command::Status => load_config_from(env_without_external_addresses(), operator::status),
        Command::LogFilter { filter } => {
            load_config_from(env_without_external_addresses(), |loaded| {
                operator::log_filter(loaded, filter)
            })
        }
        Command::Dnsaddr(args) => dns::dnsaddr(&args),
        Command::Dns => load_config_from(env_without_external_addresses(), dns::dns),
        Command::Identity { command: None } => with_config(print_identity),
        Command::Config { reference: true } => output::print(reference()),
        Command::Config { reference: false } => with_config(print_config),
    }
}

/// Runs a command with the configuration from the environment, or prints all errors.
fn with_config(command: impl FnOnce(&Loaded) -> ExitCode) -> ExitCode {
    load_config_from(env::vars_os(), command)
}

fn load_config_from(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    command: impl FnOnce(&Loaded) -> ExitCode,
) -> ExitCode {
    match Config::from_env(environment) {
        Ok(loaded) => command(&loaded),
        Err(errors) => usage_error(&errors),
    }
}

/// The environment without external addresses. Commands that do not announce any may run with the
/// environment of a fleet, where the instance name is unknown and the template cannot be expanded.
fn env_without_external_addresses() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter(|(name, _)| name != "RELAY_EXTERNAL_ADDRESSES")
}

fn usage_error(error: &dyn std::fmt::Display) -> ExitCode {
    output::report(error);
    EX_USAGE.into()
}

fn with_runtime(future: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build()
    {
        Ok(runtime) => {
            let code = runtime.block_on(future);
            runtime.shutdown_timeout(BLOCKING_SHUTDOWN_TIMEOUT);
            code
        }
        Err(error) => {
            output::report(format_args!("cannot start the runtime: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn print_config(loaded: &Loaded) -> ExitCode {
    if let Err(error) = access::Setup::load(&loaded.config.access) {
        return usage_error(&error);
    }
    let code = output::print(loaded.render());
    for warning in &loaded.warnings {
        output::report(format_args!("warning: {warning}"));
    }
    code
}

fn generate_seed(to: Option<&Path>) -> ExitCode {
    let Some(path) = to else {
        return output::print_line(identity::generate_seed());
    };
    let name = path.display();
    match identity::write_new_seed(path) {
        Ok(true) => output::print_line(format_args!("wrote a new seed to {name}")),
        Ok(false) => output::print_line(format_args!("{name} exists already")),
        Err(error) => {
            output::report(format_args!("cannot write a seed to {name}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn print_identity(loaded: &Loaded) -> ExitCode {
    match Identity::from_config(&loaded.config.identity) {
        Ok(identity) if identity.source() == KeySource::Ephemeral => usage_error(
            &"neither RELAY_IDENTITY_SEED nor RELAY_IDENTITY_KEY is set: the peer id would \
              change at every start",
        ),
        Ok(identity) => output::print_line(identity.peer_id()),
        Err(error) => usage_error(&error),
    }
}

/// Runs `service` with telemetry, and flushes telemetry afterwards.
fn with_telemetry(
    config: &Config,
    service: impl AsyncFnOnce(&Telemetry) -> Result<(), Box<dyn std::error::Error>>,
) -> ExitCode {
    // A value that is not Unicode is treated as empty.
    let filter = env::var_os("RUST_LOG").map(|text| text.into_string().unwrap_or_default());
    let (settings, ignored) = telemetry::Settings::from_env(env::vars_os());
    let options = telemetry::Options {
        log_format: config.log_format,
        filter: filter.as_deref(),
        instance: &config.identity.instance,
        serves_metrics: config.admin_address.is_some(),
    };
    with_runtime(async {
        let telemetry = match Telemetry::start(&options, &settings) {
            Ok(telemetry) => telemetry,
            Err(error @ StartError::Filter(_)) => return usage_error(&error),
            Err(error) => {
                output::report(error);
                return ExitCode::FAILURE;
            }
        };
        for warning in ignored {
            warn!("{warning}");
        }
        let code = match service(&telemetry).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(cause) => {
                error!("{cause}");
                ExitCode::FAILURE
            }
        };
        telemetry.stop().await;
        code
    })
}

fn serve(
    Loaded {
        config, warnings, ..
    }: &Loaded,
) -> ExitCode {
    let identity = match Identity::from_config(&config.identity) {
        Ok(identity) => identity,
        Err(error) => return usage_error(&error),
    };
    let access = match access::Setup::load(&config.access) {
        Ok(access) => access,
        Err(error) => return usage_error(&error),
    };
    with_telemetry(config, async |telemetry| {
        for warning in warnings {
            warn!("{warning}");
        }
        if identity.source() == KeySource::Ephemeral {
            warn!(
                "neither RELAY_IDENTITY_SEED nor RELAY_IDENTITY_KEY is set: the peer id changes \
                 at every start, and addresses that clients know become invalid"
            );
        }
        // Each connection uses a descriptor, and many systems set a soft limit of 1024.
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            warn!("cannot raise the limit of open files: {error}");
        }
        Box::pin(run(config, &identity, access, telemetry)).await
    })
}

async fn run(
    config: &Config,
    identity: &Identity,
    access: Option<access::Setup>,
    telemetry: &Telemetry,
) -> Result<(), Box<dyn std::error::Error>> {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_cancellable("lost log lines", telemetry.report_lost_lines());
    spawn_signals(&lifecycle)?;
    let node = Node::bind(config, identity, access, lifecycle.clone(), telemetry)?;
    if let Some(address) = config.admin_address {
        let admin = Admin::new(
            &node,
            config.identity.instance.clone(),
            lifecycle.clone(),
            telemetry,
        );
        admin.serve(address).map_err(|error| {
            format!("cannot listen on {address} (RELAY_ADMIN_ADDRESS): {error}")
        })?;
    }
    node.run().await?;
    Ok(())
}

/// Handles signals: some start the drain, others are ignored.
fn spawn_signals(lifecycle: &Lifecycle) -> io::Result<()> {
    let handled = STOP_SIGNALS.iter().chain(&IGNORED_SIGNALS);
    #[cfg(debug_assertions)]
    let handled = handled.chain(&[PANIC_SIGNAL]);
    let mut signals = Signals::new(handled)?;
    lifecycle.spawn_cancellable("signals", {
        let lifecycle = lifecycle.clone();
        async move {
            while let Some(signal) = signals.next().await {
                #[cfg(debug_assertions)]
                if signal == PANIC_SIGNAL {
                    lifecycle.spawn("fault", async { panic!("a fault was injected") });
                    continue;
                }
                let name = signal_name(signal);
                if IGNORED_SIGNALS.contains(&signal) {
                    warn!(signal = name, "signal ignored");
                    continue;
                }
                info!(signal = name, "received signal, stopping");
                lifecycle.stop();
            }
        }
    });
    Ok(())
}

fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("unknown")
}
