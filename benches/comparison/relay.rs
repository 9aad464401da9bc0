//! A relay as a separate process, and its resource usage.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use nix::{time::ClockId, unistd::Pid};
use procfs::process::Process;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{Result, clients::Channel};

/// Exceeds the request rates of all benchmarks.
const HIGH_RATE: &str = "1000000+1000000/s";

/// Timeout for the relay's startup and similar steps.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Threshold of an idle relay, in cores.
const IDLE_THRESHOLD: f64 = 0.1;
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The build directory of libp2p's relay, inside the project's target directory.
fn stock_builds() -> Result<PathBuf> {
    // The executable is `<builds>/<profile>/deps/<name>`.
    let builds = std::env::current_exe()?;
    let builds = builds.ancestors().nth(3).ok_or("not one of cargo's")?;
    Ok(builds.join("stock-relay"))
}

fn stock() -> Result<PathBuf> {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    Ok(stock_builds()?.join(profile).join("stock-relay"))
}

/// Builds libp2p's relay with the profile of this build.
pub(crate) async fn build_stock() -> Result<()> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/stock-relay/Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--manifest-path"]);
    cargo.arg(manifest).arg("--target-dir").arg(stock_builds()?);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if cargo.status().await?.success() {
        Ok(())
    } else {
        Err("libp2p's relay could not be built".into())
    }
}

/// The implementation of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Stock,
}

impl Kind {
    /// In the order of their turns.
    pub(crate) const ALL: [Self; 2] = [Self::Ours, Self::Stock];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "descord-relay",
            Self::Stock => "libp2p-relay",
        }
    }

    /// The command, with the same limits for both, which no benchmark reaches. descord-relay also counts
    /// bytes of each peer and logs, as by default.
    fn command(self) -> Result<Command> {
        let (program, variables) = match self {
            Self::Ours => (
                env!("CARGO_BIN_EXE_descord-relay").into(),
                [
                    (
                        "RELAY_LISTEN_ADDRESSES",
                        "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.2/tcp/0,\
                         /ip4/127.0.0.1/udp/0/quic-v1",
                    ),
                    ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
                    ("RELAY_LOG_FORMAT", "json"),
                    ("RELAY_MAX_RESERVATIONS", "0"),
                    ("RELAY_MAX_RESERVATIONS_PER_IP", "0"),
                    ("RELAY_PREFIX_SHARES", "127.0.0.0/8=100%"),
                    ("RELAY_MAX_CIRCUITS", "0"),
                    ("RELAY_MAX_CIRCUITS_PER_PEER", "0"),
                    ("RELAY_MAX_CIRCUIT_BYTES", "0"),
                    // Enabled as by default, but not reached.
                    ("RELAY_RATE_CONNECTIONS_PER_IP", HIGH_RATE),
                    ("RELAY_RATE_RESERVATIONS_PER_PEER", HIGH_RATE),
                    ("RELAY_RATE_RESERVATIONS_PER_IP", HIGH_RATE),
                    ("RELAY_RATE_CIRCUITS_PER_PEER", HIGH_RATE),
                    ("RELAY_RATE_CIRCUITS_PER_IP", HIGH_RATE),
                ]
                .as_slice(),
            ),
            Self::Stock => (
                stock()?,
                [
                    ("RELAY_MAX_RESERVATIONS", "1000000"),
                    ("RELAY_MAX_CIRCUITS", "1000000"),
                    ("RELAY_MAX_CIRCUITS_PER_PEER", "1000000"),
                    ("RELAY_MAX_CIRCUIT_BYTES", "1000000000000000"),
                ]
                .as_slice(),
            ),
        };
        let mut command = Command::new(program);
        command.env_clear().envs(variables.iter().copied());
        Ok(command)
    }
}

/// The value of a process's CPU clock, in seconds.
pub(crate) fn cpu_of(clock: ClockId) -> Result<f64> {
    Ok(Duration::from(clock.now()?).as_secs_f64())
}

/// A running relay, killed on drop.
pub(crate) struct Relay {
    child: Child,
    pub(crate) process: Process,
    clock: ClockId,
    addresses: Vec<Multiaddr>,
}

impl Relay {
    /// Starts a relay on free loopback ports and waits until it is ready. The bandwidth limit only
    /// applies to descord-relay.
    pub(crate) async fn start(kind: Kind, bandwidth: Option<&str>) -> Result<Self> {
        let mut command = kind.command()?;
        if let (Kind::Ours, Some(bandwidth)) = (kind, bandwidth) {
            command.env("RELAY_MAX_BANDWIDTH", bandwidth);
        }
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().ok_or("the relay has no output")?;
        let mut stdout = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = stdout.next_line().await? {
                let event: Value = serde_json::from_str(&line)?;
                if event["message"] == "relay ready" {
                    return Ok(event);
                }
            }
            Err::<_, super::Error>("the relay ended before it was ready".into())
        };
        let ready = timeout(PATIENCE, ready).await??;
        // Reads the log continuously.
        tokio::task::spawn(async move {
            let mut rest = stdout.into_inner();
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        });
        let addresses = ready["addresses"].as_str().unwrap_or_default();
        let id = i32::try_from(child.id().ok_or("the relay has ended")?)?;
        Ok(Self {
            child,
            process: Process::new(id)?,
            clock: ClockId::pid_cpu_clock_id(Pid::from_raw(id))?,
            addresses: addresses
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The address for this kind of channel.
    pub(crate) fn address(&self, channel: Channel) -> Result<Multiaddr> {
        Ok(self.addresses(channel)?.swap_remove(0))
    }

    /// Addresses for thousands of clients: Linux has 28,000 ports for TCP connections to one address, and
    /// its search for a free one becomes slow when half of them are in use.
    pub(crate) fn addresses(&self, channel: Channel) -> Result<Vec<Multiaddr>> {
        let is_wanted = |address: &&Multiaddr| {
            let mut parts = address.iter().skip(1);
            match channel {
                Channel::Quic => matches!(parts.next(), Some(Protocol::Udp(_))),
                Channel::Noise | Channel::Tls => {
                    matches!(parts.next(), Some(Protocol::Tcp(_)))
                        && matches!(parts.next(), Some(Protocol::P2p(_)))
                }
            }
        };
        let addresses: Vec<_> = self.addresses.iter().filter(is_wanted).cloned().collect();
        if addresses.is_empty() {
            return Err("the relay does not listen there".into());
        }
        Ok(addresses)
    }

    /// The CPU time of all threads of the process, including ended ones, in seconds with nanosecond
    /// resolution.
    pub(crate) fn cpu(&self) -> Result<f64> {
        cpu_of(self.clock)
    }

    /// Resident memory, in KiB.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53")]
    pub(crate) fn resident_kib(&self) -> Result<f64> {
        Ok(self.process.status()?.vmrss.unwrap_or_default() as f64)
    }

    /// Waits until the relay is idle, measured over intervals of this length. Gives up on a relay whose
    /// pings keep it busy.
    pub(crate) async fn wait_until_idle(&self, idle_interval: Duration) -> Result<()> {
        let deadline = Instant::now() + IDLE_TIMEOUT;
        while self.load_over(idle_interval).await? > IDLE_THRESHOLD && Instant::now() < deadline {}
        Ok(())
    }

    /// Average CPU usage during the next `span`, in cores.
    pub(crate) async fn load_over(&self, span: Duration) -> Result<f64> {
        let (start, used) = (Instant::now(), self.cpu()?);
        sleep(span).await;
        Ok((self.cpu()? - used) / start.elapsed().as_secs_f64())
    }

    /// Stops the process and waits for its exit.
    pub(crate) async fn end(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
