//! `descord-relay probe`: proves that relays work, with nothing but what any client does.
//!
//! Two clients with fresh keys meet through the relay. One reserves a slot and listens, the other
//! dials it as `<relay>/p2p-circuit/p2p/<listener>`; then they send data both ways and check every
//! byte of it. Each [`Step`] has a deadline, and the one that fails is named. An announced limit
//! is respected: no more than half of a circuit's data is used.
//!
//! Anyone can run it against any Circuit Relay v2 relay; it needs no access to the relay itself.

mod client;
mod failure;
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

pub use failure::{Cause, Failure, Step};
pub use report::{Format, Report};

use report::Printer;
use session::ProbeSettings;

/// Prove that relays work: reserve on each, connect through it, and echo data both ways.
///
/// Exits with 0 when every relay works, and with 1 when any does not.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Addresses of relays, such as `/ip4/192.0.2.1/tcp/9000/p2p/12D3KooW…`. Without `/p2p/…` the
    /// relay is taken for what it says it is; `/dnsaddr/…` stands for all the relays in its records.
    #[arg(required = true, value_name = "ADDRESS")]
    pub addresses: Vec<Multiaddr>,
    /// The name server, with its port or on port 53, to ask for the records of `/dnsaddr/…` instead
    /// of the system's: one that no zone is delegated to yet, for instance.
    #[arg(long, value_name = "HOST")]
    pub dns_server: Option<String>,
    /// Print one JSON object per relay, as is done whenever the output is not a terminal.
    #[arg(long)]
    pub json: bool,
    /// Bulk data to send each way; less is sent where the relay announces a limit.
    #[arg(long, default_value = "8MiB", value_name = "SIZE")]
    pub bytes: ByteSize,
    /// Small messages to send, one after the other.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pings: u32,
    /// Time that each step may take.
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Runs the subcommand on standard output. The exit code is a failure unless all relays work.
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

/// Probes the relays one after the other, so that they do not compete, and writes what it finds.
///
/// # Errors
///
/// Writing failed. What is wrong with a relay stands in its report.
pub async fn run(args: &Args, format: Format, out: &mut impl Write) -> io::Result<Vec<Report>> {
    let settings = ProbeSettings {
        bytes: args.bytes.as_u64(),
        pings: args.pings,
        timeout: args.timeout,
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

/// The relays behind an address, and what could not be resolved.
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
