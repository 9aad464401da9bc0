//! `docs/performance.md`: the tables in it, and what they were measured on.

use std::{fs, process::Command, time::SystemTime};

use procfs::Current;

use super::Result;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
const LOCK: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"));

/// Above this load before it began, others used the machine.
const QUIET_LOAD: f32 = 0.3;

/// Writes `text` between the marks of `section`.
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

/// The machine, the versions, the date and `command`, in sentences.
pub(crate) fn circumstances(command: &str) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let rustc = Command::new("rustc").arg("--version").output()?;
    let rustc = String::from_utf8(rustc.stdout)?;
    let today = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    Ok(format!(
        "`{command}`, {day}, {model}, {cores} cores, Linux {kernel}, {rustc}, libp2p {libp2p}, \
         descord-relay {ours}.",
        day = today.get(..10).unwrap_or(&today),
        model = model.unwrap_or("a processor without a name").trim(),
        cores = std::thread::available_parallelism()?,
        kernel = kernel.trim(),
        rustc = rustc.trim(),
        libp2p = locked("libp2p").unwrap_or("?"),
        ours = env!("CARGO_PKG_VERSION"),
    ))
}

/// What others were doing on the machine, when that spoils figures.
pub(crate) fn disturbance() -> Result<Option<String>> {
    let load = procfs::LoadAverage::current()?.one;
    let note = "The machine was not quiet (load average";
    Ok((load > QUIET_LOAD).then(|| format!("**{note} {load} at the start): a smoke run.**")))
}

/// The version of a package in `Cargo.lock`.
fn locked(package: &str) -> Option<&'static str> {
    let entry = format!("name = \"{package}\"\nversion = \"");
    LOCK.split_once(&entry)?.1.split('"').next()
}
