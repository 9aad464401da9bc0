//! `descord-relay probe`: tests relays end to end, as a client does.
//!
//! Two clients with fresh keys connect through the relay. One reserves a slot and listens, the other
//! dials it as `<relay>/p2p-circuit/p2p/<listener>`; then they exchange data in both directions and
//! verify every byte. Each [`Step`] has a deadline, and the report names the step that fails. The probe
//! uses at most half of the data of an announced limit.
//!
//! It works with any Circuit Relay v2 relay, and needs no access to the relay itself.

mod address;
mod client;
mod diagnosis;
mod failure;
mod network;
mod plain_words;
mod printer;
mod private_network;
mod report;
mod resolve;
mod session;
#[cfg(test)]
mod tests;
mod traffic;
mod transport;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use futures::{StreamExt as _, future::join_all, stream};
use libp2p::Multiaddr;
use tokio::time::{MissedTickBehavior, interval};
use transports::SwarmKey;
use zeroize::Zeroizing;

pub use failure::{Cause, Failure, Step};
pub use printer::Format;
pub use report::Report;

use network::Network;
use printer::Printer;
use session::ProbeSettings;

/// Maximum number of addresses that are probed at the same time.
const MAX_PARALLEL: usize = 16;
/// Interval of updates of the progress line.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Test relays end to end: reserve on each, connect through it, and echo data in both directions.
///
/// All addresses are tested at the same time, so that they share the bandwidth of this machine. Exits
/// with 0 if all relays work, otherwise with 1.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Addresses of relays, such as `/ip4/192.0.2.1/tcp/9000/p2p/12D3KooW…`. Without `/p2p/…`, any peer
    /// id is accepted; `/dnsaddr/…` stands for all relays in its records.
    #[arg(required = true, value_name = "ADDRESS", value_parser = address::parse)]
    pub addresses: Vec<Multiaddr>,
    /// Name server for the names in addresses, with a port (default 53), instead of the system's
    /// resolver; for a zone that is not delegated yet, for instance.
    #[arg(long, value_name = "HOST")]
    pub dns_server: Option<String>,
    /// PEM file of certificate authorities to trust for `/tls/ws`, besides those of browsers; default:
    /// the file in `SSL_CERT_FILE`.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// File with the key of a private network, in the format of kubo's `swarm.key`. There is no QUIC in
    /// private networks.
    #[arg(long, value_name = "FILE", value_parser = read_swarm_key)]
    pub swarm_key: Option<SwarmKey>,
    /// Print one JSON object per relay; the default if the output is not a terminal.
    #[arg(long)]
    pub json: bool,
    /// Bulk data to send in each direction; less if the relay announces a limit.
    #[arg(long, default_value = "8MiB", value_name = "SIZE")]
    pub bytes: ByteSize,
    /// Number of small messages to send, one after the other.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pings: u32,
    /// Deadline of each step.
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

fn read_swarm_key(path: &str) -> Result<SwarmKey, String> {
    let content = std::fs::read(path).map(Zeroizing::new);
    let content = content.map_err(|error| format!("cannot be read: {error}"))?;
    SwarmKey::parse(&content).map_err(|error| format!("the file {error}"))
}

/// Runs the subcommand with standard output. The exit code is a failure unless all relays work.
///
/// # Errors
/// When the output cannot be written.
pub async fn execute(args: Args) -> io::Result<ExitCode> {
    let format = if args.json || !io::stdout().is_terminal() {
        Format::Json
    } else {
        Format::Live
    };
    // Removes colours if `NO_COLOR` is set.
    let mut out = anstream::stdout();
    let reports = run(&args, format, &mut out).await?;
    Ok(if reports.iter().all(|report| report.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Probes the relays, at most 16 at the same time, and writes the results in the order of
/// the addresses.
///
/// # Errors
///
/// When the output cannot be written. Failures of a relay are part of its report.
pub async fn run(args: &Args, format: Format, out: &mut impl Write) -> io::Result<Vec<Report>> {
    let settings = ProbeSettings {
        bytes: args.bytes.as_u64(),
        pings: args.pings,
        timeout: args.timeout,
    };
    let mut printer = Printer { format, out };
    let started = Instant::now();
    if printer.is_live() {
        printer.progress(0, None, Duration::ZERO)?;
    }
    let network = Network::new(
        args.dns_server.as_deref(),
        args.ca.as_deref(),
        args.swarm_key.as_ref().map(SwarmKey::pre_shared_key),
    )
    .await;
    let relays = join_all(
        args.addresses
            .iter()
            .map(|address| resolve(address, network.as_ref(), args.timeout)),
    );
    let relays: Vec<_> = relays.await.into_iter().flatten().collect();
    let total = relays.len();
    let network = network.as_ref();
    let probes = relays
        .into_iter()
        .map(async |relay| match (relay, network) {
            (Ok(address), Ok(network)) => session::probe(address, settings, network).await,
            (Ok(address), Err(cause)) => {
                Report::new(address).failed(Failure::new(Step::Resolve, cause.clone()))
            }
            (Err((address, failure)), _) => Report::new(address).failed(failure),
        });
    let mut probes = Box::pin(stream::iter(probes).buffered(MAX_PARALLEL));
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reports = Vec::new();
    loop {
        tokio::select! {
            report = probes.next() => match report {
                Some(report) => {
                    printer.report(&report)?;
                    reports.push(report);
                }
                None => break,
            },
            _ = ticks.tick(), if printer.is_live() => {
                printer.progress(reports.len(), Some(total), started.elapsed())?;
            }
        }
    }
    printer.summary(&reports)?;
    Ok(reports)
}

/// The relays of an address, and failures to resolve it.
async fn resolve(
    address: &Multiaddr,
    network: Result<&Network, &Cause>,
    timeout: Duration,
) -> Vec<Result<Multiaddr, (Multiaddr, Failure)>> {
    let step = Step::Resolve;
    let lookup = async |name: String| match network {
        Ok(network) => network.txt_records(&name).await,
        Err(cause) => Err(cause.clone()),
    };
    match tokio::time::timeout(timeout, resolve::relays(address, lookup)).await {
        Ok(relays) => relays
            .into_iter()
            .map(|relay| relay.map_err(|lost| (lost.address, Failure::new(step, lost.cause))))
            .collect(),
        Err(_) => vec![Err((address.clone(), Failure::timeout(step, timeout)))],
    }
}
