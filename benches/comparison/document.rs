//! `docs/design/performance-results.md`: its tables, and the conditions of the measurement.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime},
};

use procfs::{CurrentSI, KernelStats};
use tokio::time::{Instant, sleep};

use super::Result;

const PATH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/docs/design/performance-results.md"
);
const LOCK: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"));
/// The lock file of libp2p's relay, which is a separate workspace.
const STOCK_LOCK: &str = include_str!("../stock-relay/Cargo.lock");

/// Maximum CPU usage of other processes on a quiet machine, in cores.
const QUIET: f64 = 0.1;

/// Writes `text` between the markers of `section`.
pub(crate) fn replace(section: &str, text: &str) -> Result<()> {
    let (begin, end) = (
        format!("<!-- {section} -->\n"),
        format!("<!-- /{section} -->"),
    );
    let document = fs::read_to_string(PATH)?;
    let missing = || format!("{PATH} has no marks for {section}");
    let (before, rest) = document.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(fs::write(
        PATH,
        format!("{before}{begin}{text}{end}{after}"),
    )?)
}

/// The command, the date, the machine and the versions.
pub(crate) fn circumstances() -> Result<String> {
    // Cargo appends the last argument.
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let rustc = Command::new("rustc").arg("--version").output()?;
    let rustc = String::from_utf8(rustc.stdout)?;
    let today = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    Ok(format!(
        "`cargo bench{features} --bench comparison -- {arguments}`, {day}, {model}, {cores} cores, Linux {kernel}, {rustc}, libp2p {libp2p}, \
         descord-relay {ours}.",
        features = if cfg!(feature = "openssl") {
            " --features openssl"
        } else {
            ""
        },
        arguments = arguments.join(" "),
        day = today.get(..10).unwrap_or(&today),
        model = model.unwrap_or("unknown processor").trim(),
        cores = cores()?,
        // Without suffixes of a distribution or a machine.
        kernel = kernel.split('-').next().unwrap_or_default().trim(),
        rustc = rustc.trim(),
        libp2p = locked(LOCK, "libp2p").unwrap_or("?"),
        ours = env!("CARGO_PKG_VERSION"),
    ))
}

/// A note on other processes if they affect the measurement. Measured while no benchmark runs.
pub(crate) async fn disturbance() -> Result<Option<String>> {
    let (start, idle) = (Instant::now(), idle_seconds()?);
    sleep(Duration::from_secs(1)).await;
    let idle = (idle_seconds()? - idle) / start.elapsed().as_secs_f64();
    let others = cores()? - idle;
    let note = format!("**A smoke run: others used {others:.1} cores of the machine.**");
    Ok((others > QUIET).then_some(note))
}

/// The idle time of all cores, in seconds.
fn idle_seconds() -> Result<f64> {
    Ok(KernelStats::current()?.total.idle_duration().as_secs_f64())
}

fn cores() -> Result<f64> {
    let cores = std::thread::available_parallelism()?.get();
    Ok(f64::from(u32::try_from(cores)?))
}

/// Checks that both relays use the same version of libp2p, which the document contains once.
pub(crate) fn check_versions() -> Result<()> {
    let ours = locked(LOCK, "libp2p");
    if ours.is_none() || ours != locked(STOCK_LOCK, "libp2p") {
        return Err("benches/stock-relay/Cargo.lock has another libp2p than Cargo.lock".into());
    }
    Ok(())
}

/// The version of a package in a `Cargo.lock`.
fn locked(lock: &'static str, package: &str) -> Option<&'static str> {
    let entry = format!("name = \"{package}\"\nversion = \"");
    lock.split_once(&entry)?.1.split('"').next()
}
