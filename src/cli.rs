//! The subcommands and their output.

mod access;
mod addresses;
mod dns;
mod operator;
mod output;
mod peer;
mod shell;
mod signals;
mod status;

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use libp2p::PeerId;
use lifecycle::Lifecycle;
use tracing::{error, warn};

use self::{addresses::stable_identity, peer::parse_peer_id, signals::SignalHandler};

use crate::{
    access as access_control,
    admin::Admin,
    build_info,
    config::{Config, Loaded, reference},
    identity::{self, Identity, KeySource},
    node::Node,
    probe,
    pseudonym::{PeerIds, Pseudonyms},
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
    Status(operator::StatusArgs),
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
    /// Examine the access rules.
    Access {
        #[command(subcommand)]
        command: AccessCommand,
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
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the man page, such as for `descord-relay man | man -l -`.
    Man {
        /// Write the pages of all commands to this directory instead.
        #[arg(long, value_name = "DIRECTORY")]
        to: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum AccessCommand {
    Check(access::CheckArgs),
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
    /// Print the addresses that clients dial, of all relays of the fleet if `RELAY_FLEET_INSTANCES` is
    /// set; no relay needs to run.
    Addresses,
    /// Print the pseudonym of a peer in the log and in traces.
    Pseudonym {
        /// The peer id.
        #[arg(value_parser = parse_peer_id)]
        peer: PeerId,
    },
}

/// Parses the arguments and runs the command. `--version` prints the source revision, the target and
/// `allocator`, a description of the process's allocator, below the version; `-V` prints the version
/// alone.
pub fn main(allocator: &str) -> ExitCode {
    let version = format!(
        "{}\nrevision: {}\ntarget: {}\nallocator: {allocator}",
        build_info::VERSION,
        build_info::REVISION,
        build_info::target()
    );
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
        Command::Status(args) => load_config_from(env_without_external_addresses(), |loaded| {
            operator::status(loaded, &args)
        }),
        Command::Identity {
            command: Some(IdentityCommand::Addresses),
        } => addresses::print_addresses(),
        Command::Identity {
            command: Some(IdentityCommand::Pseudonym { peer }),
        } => load_config_from(env_without_external_addresses(), |loaded| {
            print_pseudonym(loaded, &peer)
        }),
        Command::Access {
            command: AccessCommand::Check(args),
        } => load_config_from(env_without_external_addresses(), |loaded| {
            access::check(loaded, &args)
        }),
        Command::Completions { shell } => shell::completions(Cli::command(), shell),
        Command::Man { to } => shell::man(Cli::command(), to.as_deref()),
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
    if let Err(error) = access_control::Setup::load(&loaded.config.access) {
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
    match stable_identity(&loaded.config) {
        Ok(identity) => output::print_line(identity.peer_id()),
        Err(code) => code,
    }
}

/// Prints the pseudonym of `peer` on the relay with this environment, and on all relays with its seed.
fn print_pseudonym(loaded: &Loaded, peer: &PeerId) -> ExitCode {
    match stable_identity(&loaded.config) {
        Ok(identity) => {
            let pseudonyms = Pseudonyms::new(PeerIds::Pseudonym, identity.pseudonym_key());
            output::print_line(pseudonyms.name(peer))
        }
        Err(code) => code,
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
    let access = match access_control::Setup::load(&config.access) {
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
    access: Option<access_control::Setup>,
    telemetry: &Telemetry,
) -> Result<(), Box<dyn std::error::Error>> {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_cancellable("lost log lines", telemetry.report_lost_lines());
    // Registered first: a signal during the start must not end the process without a drain.
    let signals = SignalHandler::register()?;
    let node = Node::bind(config, identity, access, lifecycle.clone(), telemetry)?;
    signals.spawn(&lifecycle, {
        let relay = Arc::clone(node.relay());
        move || relay.statistics().peers == 0
    });
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
