//! Network namespaces, and processes and clients in them. Requires root on Linux and the tools `ip`,
//! `ss`, `nft` and `nsenter`.

use std::{
    collections::HashSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
};

use crate::tools::or_skip;

/// Prefix of the names of namespaces and control groups; the id of the test process follows.
pub const PREFIX: &str = "relaytest";

pub type Result<T> = std::result::Result<T, String>;

/// Whether this process can create namespaces. Otherwise, the test is skipped.
pub fn are_available() -> bool {
    let available = Namespace::new("try").and_then(|namespace| namespace.filter("table ip t {}"));
    or_skip("root, ip, nft and nsenter", &available).is_some()
}

/// A network namespace, removed on drop.
pub struct Namespace(String);

impl Namespace {
    /// Creates a namespace with a loopback interface.
    pub fn new(role: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}{role}", std::process::id());
        run("ip", &format!("netns add {name}"))?;
        let namespace = Self(name);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `ip` in this namespace.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        run("ip", &format!("-n {} {arguments}", self.0))
    }

    /// Sets a kernel parameter in this namespace only.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let mut command = self.command(&[], "sh");
        command.args(["-c", r#"echo "$0" >"$1""#, value, &file]);
        finish(&mut command)
    }

    /// Adds nftables rules.
    pub fn filter(&self, rules: &str) -> Result<()> {
        let mut command = self.command(&[], "nft");
        finish(command.arg(rules))
    }

    /// A command that runs `program` in this namespace, and in the control groups with these member
    /// files.
    ///
    /// `ip netns exec` would mount a different `/sys`, without the control groups.
    pub fn command(&self, members: &[PathBuf], program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file().display()));
        let join =
            r#"until [ "$1" = -- ]; do echo $$ >"$1" || exit; shift; done; shift; exec "$@""#;
        command.args(["--", "sh", "-c", join, "sh"]);
        command.args(members);
        command.arg("--").arg(program.as_ref());
        command
    }

    /// Runs a future in this namespace, on a dedicated thread and runtime.
    pub fn spawn<T, F>(&self, future: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        let file = self.file();
        thread::spawn(move || {
            let file = File::open(file).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(future())
        })
    }

    /// The remote addresses of all TCP connections.
    pub fn remote_addresses(&self) -> HashSet<String> {
        let mut command = self.command(&[], "ss");
        let output = command.args(["-Htn"]).output();
        let output = output.map(|output| output.stdout).unwrap_or_default();
        let lines = String::from_utf8_lossy(&output).into_owned();
        let remote = |line: &str| {
            let (address, _) = line.split_whitespace().nth(4)?.rsplit_once(':')?;
            Some(address.trim_matches(['[', ']']).to_owned())
        };
        lines.lines().filter_map(remote).collect()
    }

    fn file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", &format!("netns del {}", self.0));
    }
}

/// Connects two namespaces by a pair of virtual interfaces with these names.
pub fn connect(near: (&Namespace, &str), far: (&Namespace, &str)) -> Result<()> {
    let ((near, near_device), (far, far_device)) = (near, far);
    let (near_name, far_name) = (near.name(), far.name());
    run(
        "ip",
        &format!(
            "link add {near_device} netns {near_name} type veth peer name {far_device} netns {far_name}"
        ),
    )?;
    near.ip(&format!("link set {near_device} up"))?;
    far.ip(&format!("link set {far_device} up"))
}

/// Removes namespaces of test processes that have exited.
pub fn remove_stale() {
    for name in stale_names(Path::new("/run/netns")) {
        let _ = run("ip", &format!("netns del {name}"));
    }
}

/// The names in `directory` created by test processes that have exited.
pub fn stale_names(directory: &Path) -> Vec<String> {
    let is_stale = |name: &str| {
        let process = name.strip_prefix(PREFIX)?.strip_prefix('-')?;
        let (process, _) = process.split_once('-')?;
        Some(!Path::new("/proc").join(process).exists())
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| is_stale(name) == Some(true)).collect()
}

/// Runs a command to completion. Standard error is the error.
pub fn run(program: &str, arguments: &str) -> Result<()> {
    finish(Command::new(program).args(arguments.split(' ')))
}

fn finish(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", error.trim()))
}
