//! `descord-relay probe`: tests relays end to end, as a client does.
//!
//! Two clients with fresh keys connect through the relay. One reserves a slot and listens, the other
//! dials it as `<relay>/p2p-circuit/p2p/<listener>`; then they exchange data in both directions and
//! verify every byte. Each [`Step`] has a deadline, and the report names the step that fails. The probe
//! uses at most half of the data of an announced limit.
//!
//! It works with any Circuit Relay v2 relay, and needs no access to the relay itself.

mod client;
mod failure;
mod private_network;
mod report;
mod resolve;
mod session;
#[cfg(test)]
mod tests;
mod traffic;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use bytesize::ByteSize;
use libp2p::Multiaddr;
use peer_id_text::parse_multiaddr;
use report::Printer;
use session::ProbeSettings;
use transports::SwarmKey;
use zeroize::Zeroizing;

pub use failure::{Cause, Failure, Step};
pub use report::{Format, Report};

/// Test relays end to end: reserve on each, connect through it, and echo data in both directions.
///
/// Exits with 0 if all relays work, otherwise with 1.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Addresses of relays, such as `/ip4/192.0.2.1/tcp/9000/p2p/12D3KooW…`. Without `/p2p/…`, any peer
    /// id is accepted; `/dnsaddr/…` stands for all relays in its records.
    #[arg(required = true, value_name = "ADDRESS", value_parser = parse_multiaddr)]
    pub addresses: Vec<Multiaddr>,
    /// Name server for the records of `/dnsaddr/…`, with a port (default 53), instead of the system's
    /// resolver; for a zone that is not delegated yet, for instance.
    #[arg(long, value_name = "HOST")]
    pub dns_server: Option<String>,
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
    let mut out = io::stdout();
    let format = if args.json || !out.is_terminal() {
        Format::Json
    } else {
        Format::Text
    };
    let reports = run(&args, format, &mut out).await?;
    Ok(if reports.iter().all(|report| report.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Probes the relays one after the other, so that they do not compete, and writes the results.
///
/// # Errors
///
/// When the output cannot be written. Failures of a relay are part of its report.
pub async fn run(args: &Args, format: Format, out: &mut impl Write) -> io::Result<Vec<Report>> {
    let settings = ProbeSettings {
        bytes: args.bytes.as_u64(),
        pings: args.pings,
        timeout: args.timeout,
        swarm_key: args.swarm_key.as_ref().map(SwarmKey::pre_shared_key),
    };
    let mut printer = Printer { format, out };
    let mut reports = Vec::new();
    for address in &args.addresses {
        for relay in resolve(address, args.dns_server.as_deref(), args.timeout).await {
            let report = match relay {
                Ok(address) => {
                    printer.begin(&address)?;
                    session::probe(address, settings, |step, report| printer.step(step, report))
                        .await?
                }
                Err((address, failure)) => {
                    printer.begin(&address)?;
                    Report::new(address).failed(failure)
                }
            };
            printer.end(&report)?;
            reports.push(report);
        }
    }
    printer.summary(&reports)?;
    Ok(reports)
}

/// The relays of an address, and failures to resolve it.
async fn resolve(
    address: &Multiaddr,
    server: Option<&str>,
    timeout: Duration,
) -> Vec<Result<Multiaddr, (Multiaddr, Failure)>> {
    let step = Step::Resolve;
    let lookup = async |name| resolve::txt_records(server, name).await;
    match tokio::time::timeout(timeout, resolve::relays(address, lookup)).await {
        Ok(relays) => relays
            .into_iter()
            .map(|relay| relay.map_err(|lost| (lost.address, Failure::new(step, lost.cause))))
            .collect(),
        Err(_) => vec![Err((address.clone(), Failure::timeout(step, timeout)))],
    }
}
