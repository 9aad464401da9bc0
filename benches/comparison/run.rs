//! Command line options, and the alternating rounds of the relays.

mod clients;
mod document;
mod haproxy;
mod idle;
mod latency;
mod relay;
mod report;
mod requests;
mod throughput;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::{
    clients::Channel,
    haproxy::HaProxy,
    relay::{Kind, Relay},
    report::{Sample, Table},
};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// If set, missing tools are an error.
const REQUIRE_ALL: &str = "RELAY_TEST_REQUIRE_ALL";

/// Open files of a process in addition to one per client; descord-relay reserves 256.
const OTHER_FILES: u64 = 300;
/// Requested limit of open files, if the system allows it.
const WANTED_FILES: u64 = 65_536;

/// A group of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    Throughput,
    Haproxy,
    Latency,
    Requests,
    Idle,
}

/// Compares descord-relay with libp2p's relay, and with HAProxy if it is installed.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench comparison --")]
struct Options {
    /// Sections to measure; all by default.
    sections: Vec<Section>,
    /// Transports to use.
    #[arg(
        long = "channel",
        value_delimiter = ',',
        default_value = "noise,tls,quic"
    )]
    channels: Vec<Channel>,
    /// Number of rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Duration of throughput and latency measurements, in seconds.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Numbers of reservations, in ascending order.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,20000")]
    reservations: Vec<usize>,
    /// Duration of idle measurements, in seconds. descord-relay sends its first keep-alive after one to
    /// two minutes.
    #[arg(long, default_value_t = 130.0)]
    rest: f64,
    /// Bandwidth limit of descord-relay (`RELAY_MAX_BANDWIDTH`); unlimited by default.
    #[arg(long, conflicts_with = "write")]
    bandwidth: Option<String>,
    /// Also write the tables to docs/design/performance-results.md.
    #[arg(long)]
    write: bool,
    /// Run a minimal smoke test, without meaningful figures.
    #[arg(long, conflicts_with = "write")]
    quick: bool,
    /// Set by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Durations and sizes of the measurements.
struct Plan {
    /// Duration of throughput and latency measurements.
    span: Duration,
    /// Numbers of concurrent circuits with traffic.
    circuits: Vec<usize>,
    /// Length of an interval in which CPU usage is compared with the idle threshold.
    idle_interval: Duration,
    /// Duration of idle measurements.
    rest: Duration,
    /// Memory that the relay has not released for this duration counts as retained.
    retention: Duration,
    sizes: Vec<usize>,
    /// Clients that are added to each number of reservations.
    new_clients: usize,
    /// Renewals and circuits for each number of reservations.
    requests: usize,
}

impl Plan {
    fn new(options: &Options) -> Result<Self> {
        if options.quick {
            return Ok(Self {
                span: Duration::from_millis(100),
                circuits: vec![2],
                idle_interval: Duration::from_millis(50),
                rest: Duration::from_millis(100),
                retention: Duration::from_millis(100),
                sizes: vec![8],
                new_clients: 2,
                requests: 8,
            });
        }
        let new_clients = 200;
        let most = usize::try_from(open_files()?)? - new_clients;
        let mut sizes: Vec<_> = options
            .reservations
            .iter()
            .map(|&n| n.clamp(2, most))
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        if sizes != options.reservations {
            eprintln!("reservations: {sizes:?}, because of the limit of open files");
        }
        Ok(Self {
            span: Duration::try_from_secs_f64(options.seconds)?,
            circuits: vec![1, 16],
            idle_interval: Duration::from_millis(500),
            rest: Duration::try_from_secs_f64(options.rest)?,
            retention: Duration::from_secs(5),
            sizes,
            new_clients,
            requests: 4000,
        })
    }
}

/// Raises the limit of open files, which the relays inherit. Returns the possible number of clients.
fn open_files() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = WANTED_FILES.max(hard);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(soft.saturating_sub(OTHER_FILES))
}

/// Parses the command line. Without cargo's `--bench`, this runs as a test named `comparison`, if the
/// test filter selects it.
fn options() -> Option<Options> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--bench") {
        return Some(Options::parse());
    }
    let is_listed = arguments.iter().any(|a| a == "--list");
    let mut names = arguments.iter().filter(|a| !a.starts_with('-'));
    let is_chosen = names.all(|name| "comparison".contains(name.as_str()));
    (is_chosen && !is_listed)
        .then(|| Options::parse_from(["comparison", "--quick", "--rounds", "1"]))
}

pub(crate) fn main() -> Result<()> {
    match options() {
        Some(options) => run(&options),
        None => Ok(()),
    }
}

#[tokio::main]
async fn run(options: &Options) -> Result<()> {
    let plan = Plan::new(options)?;
    document::check_versions()?;
    relay::build_stock().await?;
    for section in Section::value_variants() {
        if !options.sections.is_empty() && !options.sections.contains(section) {
            continue;
        }
        let mut versions = String::new();
        if *section == Section::Haproxy {
            if !options.channels.contains(&Channel::Tls) {
                continue;
            }
            match HaProxy::versions().await {
                Some(found) => versions = format!(" {found}."),
                None if std::env::var(REQUIRE_ALL).is_ok_and(|all| all == "1") => {
                    return Err("needs HAProxy, with OpenSSL".into());
                }
                None => {
                    println!("skipped: needs HAProxy, with OpenSSL");
                    continue;
                }
            }
        }
        let disturbance = if options.quick {
            "Quick: whether it works. The figures mean nothing.".to_owned()
        } else {
            document::disturbance().await?.unwrap_or_default()
        };
        let table = section.measure(options, &plan).await?.markdown();
        println!("\n{table}\n{disturbance}");
        if options.write {
            let circumstances = document::circumstances()?;
            let text = format!("\n{table}\n{circumstances}{versions} {disturbance}\n\n");
            document::replace(&section.name(), &text)?;
        }
    }
    Ok(())
}

impl Section {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Measures each case of the section in alternating rounds of descord-relay and the other program.
    async fn measure(self, options: &Options, plan: &Plan) -> Result<Table> {
        let circuits = match self {
            Self::Haproxy => return compare_with_haproxy(options, plan).await,
            Self::Throughput => plan.circuits.as_slice(),
            Self::Latency | Self::Requests | Self::Idle => &[0],
        };
        let mut table = Table::beside(Kind::Stock.name());
        for &channel in &options.channels {
            for &circuits in circuits {
                let mut kinds = Kind::ALL.to_vec();
                for round in 1..=options.rounds {
                    eprintln!("{} over {}, round {round}", self.name(), channel.name());
                    for kind in kinds.clone() {
                        let relay = Relay::start(kind, options.bandwidth.as_deref()).await?;
                        let samples = self.turn(&relay, channel, circuits, plan).await;
                        let samples = samples.map_err(|e| format!("{}: {e}", kind.name()));
                        match (kind, samples) {
                            (Kind::Ours, samples) => table.add_ours(samples?),
                            (Kind::Stock, Ok(samples)) => table.add_other(samples),
                            (Kind::Stock, Err(error)) if options.quick => {
                                return Err(error.into());
                            }
                            // The other relay cannot run this case, so its further rounds are skipped.
                            (Kind::Stock, Err(error)) => {
                                eprintln!("{error}");
                                kinds.retain(|&other| other != kind);
                            }
                        }
                        relay.end().await?;
                    }
                }
            }
        }
        Ok(table)
    }

    /// Measures one relay in one round.
    async fn turn(
        self,
        relay: &Relay,
        channel: Channel,
        circuits: usize,
        plan: &Plan,
    ) -> Result<Vec<Sample>> {
        match self {
            Self::Throughput => {
                let target = throughput::target(channel);
                throughput::measure(relay, channel, circuits, target, plan).await
            }
            Self::Haproxy => {
                throughput::measure(relay, channel, circuits, haproxy::TARGET, plan).await
            }
            Self::Latency => latency::measure(relay, channel, plan).await,
            Self::Requests => requests::measure(relay, channel, plan).await,
            Self::Idle => idle::measure(relay, channel, plan).await,
        }
    }
}

/// Measures the CPU time per byte over TLS, alternating between descord-relay and HAProxy.
async fn compare_with_haproxy(options: &Options, plan: &Plan) -> Result<Table> {
    let channel = Channel::Tls;
    let mut table = Table::beside("HAProxy");
    for &circuits in &plan.circuits {
        for round in 1..=options.rounds {
            eprintln!("haproxy over {}, round {round}", channel.name());
            let relay = Relay::start(Kind::Ours, None).await?;
            let ours = Section::Haproxy
                .turn(&relay, channel, circuits, plan)
                .await?;
            table.add_ours(ours);
            relay.end().await?;
            let mut haproxy = HaProxy::start().await?;
            table.add_other(haproxy.measure(channel.name(), circuits, plan).await?);
            haproxy.end().await?;
        }
    }
    Ok(table)
}
