//! Network namespaces for the relay, the attackers and the ordinary clients, control groups that limit
//! them, and processes inside both.
//!
//! A pair of virtual interfaces connects the relay's namespace to each of the others. Source NAT
//! translates the address of each connection from those, so one process can use many source addresses.

use std::{
    fmt::Write as _,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use test_support::{
    PATIENCE,
    namespace::{self, PREFIX, Result, run},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

pub(crate) use test_support::namespace::Namespace;

/// The relay's addresses.
const RELAY4: &str = "192.0.2.1";
const RELAY6: &str = "2001:db8::1";
/// A practically unlimited TCP memory limit. Version 1 only accounts TCP memory if a limit is set.
const ACCOUNTED: u64 = 1 << 40;

/// The relay's listen addresses, with its peer id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) tcp: Multiaddr,
    pub(crate) quic: Multiaddr,
    pub(crate) websocket: Multiaddr,
    pub(crate) tcp6: Multiaddr,
    pub(crate) admin: SocketAddr,
}

impl Addresses {
    /// The value of `RELAY_LISTEN_ADDRESSES`.
    pub(crate) fn listen() -> String {
        [
            format!("/ip4/{RELAY4}/tcp/9000"),
            format!("/ip4/{RELAY4}/udp/9000/quic-v1"),
            format!("/ip4/{RELAY4}/tcp/9001/ws"),
            format!("/ip6/{RELAY6}/tcp/9000"),
        ]
        .join(",")
    }

    /// The addresses of the relay with this peer id.
    pub(crate) fn of(relay: PeerId) -> Self {
        let listen = Self::listen();
        let mut addresses = listen.split(',').map(|address| {
            let address: Multiaddr = address.parse().unwrap();
            address.with_p2p(relay).unwrap()
        });
        let mut next = || addresses.next().unwrap();
        Self {
            tcp: next(),
            quic: next(),
            websocket: next(),
            tcp6: next(),
            admin: format!("{RELAY4}:8080").parse().unwrap(),
        }
    }

    /// The IPv4 address of a transport, in rotation.
    pub(crate) fn transport(&self, number: usize) -> &Multiaddr {
        match number % 4 {
            0 | 2 => &self.tcp,
            1 => &self.quic,
            _ => &self.websocket,
        }
    }
}

/// The source addresses of a namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sources {
    /// This many IPv4 addresses, each in a separate /24.
    Ipv4(u8),
    /// This many addresses in one IPv4 /24.
    Network(u8),
    /// Each /64 of an IPv6 /60.
    Prefix60,
    /// 100 /64 networks of an IPv6 /48.
    Prefix48,
}

impl Sources {
    /// The number of addresses.
    pub(crate) fn count(self) -> usize {
        let (v4, v6) = self.addresses(0);
        v4.len().max(v6.len())
    }

    /// The IPv4 and IPv6 addresses of the namespace with this number.
    fn addresses(self, namespace: u8) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
        let v4 = |second, last| Ipv4Addr::new(11 + namespace, second, 0, last);
        let v6 = |subnet| {
            Ipv6Addr::new(
                0x2001,
                0xdb8,
                0xa + u16::from(namespace),
                subnet,
                0,
                0,
                0,
                1,
            )
        };
        match self {
            Self::Ipv4(count) => ((0..count).map(|n| v4(n, 1)).collect(), vec![v6(0)]),
            Self::Network(count) => ((1..=count).map(|n| v4(0, n)).collect(), vec![v6(0)]),
            Self::Prefix60 => (vec![v4(0, 1)], (0..16).map(v6).collect()),
            Self::Prefix48 => (vec![v4(0, 1)], (0..100).map(|n| v6(n * 0x101)).collect()),
        }
    }
}

/// The three namespaces, removed on drop.
pub(crate) struct Network {
    pub(crate) relay: Namespace,
    pub(crate) attackers: Namespace,
    pub(crate) clients: Namespace,
}

impl Network {
    /// Creates the namespaces with these source addresses of attackers and clients.
    pub(crate) fn new(attackers: Sources, clients: Sources) -> Result<Self> {
        remove_stale();
        let network = Self {
            relay: Namespace::new("r")?,
            attackers: Namespace::new("a")?,
            clients: Namespace::new("c")?,
        };
        let relay = &network.relay;
        relay.ip(&format!("addr add {RELAY4}/32 dev lo"))?;
        relay.ip(&format!("addr add {RELAY6}/128 dev lo nodad"))?;
        for (number, namespace, sources) in [
            (0, &network.attackers, attackers),
            (1, &network.clients, clients),
        ] {
            network.connect(number, namespace, sources)?;
        }
        Ok(network)
    }

    fn connect(&self, number: u8, namespace: &Namespace, sources: Sources) -> Result<()> {
        let (relay, device) = (&self.relay, format!("to{number}"));
        run(
            "ip",
            &format!(
                "link add {device} netns {} type veth peer name relay netns {}",
                relay.name(),
                namespace.name()
            ),
        )?;
        let (near4, far4) = (format!("10.0.{number}.1"), format!("10.0.{number}.2"));
        let (near6, far6) = (format!("fd00:{number}::1"), format!("fd00:{number}::2"));
        for (namespace, device, v4, v6) in [
            (relay, device.as_str(), &near4, &near6),
            (namespace, "relay", &far4, &far6),
        ] {
            namespace.ip(&format!("addr add {v4}/30 dev {device}"))?;
            namespace.ip(&format!("addr add {v6}/64 dev {device} nodad"))?;
            namespace.ip(&format!("link set {device} up"))?;
        }
        namespace.ip(&format!("route add default via {near4}"))?;
        namespace.ip(&format!("-6 route add default via {near6}"))?;
        let (v4, v6) = (11 + number, 0xa + u16::from(number));
        relay.ip(&format!("route add {v4}.0.0.0/8 via {far4}"))?;
        relay.ip(&format!("-6 route add 2001:db8:{v6:x}::/48 via {far6}"))?;
        namespace.set("net.ipv4.ip_local_port_range", "1024 65535")?;
        let (v4, v6) = sources.addresses(number);
        let rules = format!("{}{}", rules("ip", RELAY4, &v4), rules("ip6", RELAY6, &v6));
        namespace.filter(&rules)
    }
}

/// nftables rules that give each new connection to the relay the next of these source addresses.
fn rules<A: ToString>(family: &str, relay: &str, addresses: &[A]) -> String {
    let mut map = String::new();
    for (number, address) in addresses.iter().enumerate() {
        write!(map, "{number} : {}, ", address.to_string()).unwrap();
    }
    let number = addresses.len();
    // Excludes packets from port 0, which the kernel does not translate.
    format!(
        "table {family} sources {{
            chain untracked {{ type filter hook output priority raw; udp sport 0 notrack; }}
            chain translated {{
                type nat hook postrouting priority srcnat;
                {family} daddr {relay} snat to numgen inc mod {number} map {{ {map} }}
            }}
        }}\n"
    )
}

/// A command that runs `program` in this namespace and these control groups.
pub(crate) fn command(
    namespace: &Namespace,
    groups: &[&ControlGroup],
    program: impl AsRef<Path>,
) -> Command {
    let members: Vec<_> = groups.iter().flat_map(|group| group.members()).collect();
    namespace.command(&members, program)
}

/// Removes namespaces and control groups of test processes that have ended.
fn remove_stale() {
    namespace::remove_stale();
    for directory in ControlGroup::roots().into_iter().flatten() {
        for name in namespace::stale_names(&directory) {
            let _ = fs::remove_dir(directory.join(name));
        }
    }
}

/// A control group of version 1 or 2, removed on drop.
pub(crate) struct ControlGroup {
    memory: PathBuf,
    processor: PathBuf,
    is_unified: bool,
}

/// Memory charged to a control group, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Process and kernel memory, without reclaimable file pages.
    pub(crate) process: u64,
    /// TCP socket memory that is not included in `process`.
    pub(crate) sockets: u64,
}

impl ControlGroup {
    /// Creates a group with limits for memory, in bytes, and for the share of all processors.
    pub(crate) fn new(role: &str, memory: Option<u64>, processors: Option<f64>) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}{role}", std::process::id());
        let [memory_root, processor_root, unified] = Self::roots();
        let group = match (memory_root, processor_root, unified) {
            (Some(memory), Some(processor), _) => Self {
                memory: memory.join(&name),
                processor: processor.join(&name),
                is_unified: false,
            },
            (_, _, Some(root)) => {
                delegate(&root)?;
                Self {
                    memory: root.join(&name),
                    processor: root.join(&name),
                    is_unified: true,
                }
            }
            _ => return Err("no control groups for memory and processors".to_owned()),
        };
        for directory in [&group.memory, &group.processor] {
            let made = fs::create_dir_all(directory);
            made.map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        if let Some(bytes) = memory {
            let bytes = bytes.to_string();
            if group.is_unified {
                write(&group.memory, "memory.max", &bytes)?;
                // The machine may have no swap.
                let _ = write(&group.memory, "memory.swap.max", "0");
            } else {
                write(&group.memory, "memory.limit_in_bytes", &bytes)?;
                let _ = write(&group.memory, "memory.swappiness", "0");
                let counted = ACCOUNTED.to_string();
                let _ = write(&group.memory, "memory.kmem.tcp.limit_in_bytes", &counted);
            }
        }
        if let Some(part) = processors {
            let all = std::thread::available_parallelism().map_or(1, usize::from);
            let period = 100_000;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "a few processors"
            )]
            let quota = (f64::from(period) * part * all as f64) as u32;
            group.set_quota(&quota.to_string(), period)?;
        }
        Ok(group)
    }

    /// Removes the processor limit.
    pub(crate) fn lift_quota(&self) -> Result<()> {
        self.set_quota(if self.is_unified { "max" } else { "-1" }, 100_000)
    }

    fn set_quota(&self, quota: &str, period: u32) -> Result<()> {
        if self.is_unified {
            write(&self.processor, "cpu.max", &format!("{quota} {period}"))
        } else {
            write(&self.processor, "cpu.cfs_period_us", &period.to_string())?;
            write(&self.processor, "cpu.cfs_quota_us", quota)
        }
    }

    /// The files that add a process to the group.
    fn members(&self) -> Vec<PathBuf> {
        let mut files = vec![self.memory.join("cgroup.procs")];
        if !self.is_unified {
            files.push(self.processor.join("cgroup.procs"));
        }
        files
    }

    /// The number of out-of-memory kills in the group.
    pub(crate) fn killed(&self) -> u64 {
        let file = if self.is_unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.memory.join(file)).unwrap_or_default();
        field(&text, "oom_kill")
    }

    /// The memory charged to the group.
    pub(crate) fn memory(&self) -> Memory {
        let number = |file: &str| -> u64 {
            let text = fs::read_to_string(self.memory.join(file)).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        let statistics = fs::read_to_string(self.memory.join("memory.stat")).unwrap_or_default();
        let files = field(&statistics, "inactive_file") + field(&statistics, "active_file");
        if self.is_unified {
            let sockets = field(&statistics, "sock");
            let all = number("memory.current");
            Memory {
                process: all.saturating_sub(files + sockets),
                sockets,
            }
        } else {
            Memory {
                process: number("memory.usage_in_bytes").saturating_sub(files),
                sockets: number("memory.kmem.tcp.usage_in_bytes"),
            }
        }
    }

    /// The version 1 hierarchies for memory and processors, and the version 2 hierarchy.
    fn roots() -> [Option<PathBuf>; 3] {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let find = |kind: &str, controller: &str| {
            mounts.lines().find_map(|line| {
                let mut parts = line.split(' ').skip(1);
                let (directory, found) = (parts.next()?, parts.next()?);
                let mut options = parts.next()?.split(',');
                let is_wanted = match controller {
                    "" => fs::read_to_string(Path::new(directory).join("cgroup.controllers"))
                        .is_ok_and(|all| all.split_whitespace().any(|one| one == "memory")),
                    _ => options.any(|option| option == controller),
                };
                (found == kind && is_wanted).then(|| PathBuf::from(directory))
            })
        };
        [
            find("cgroup", "memory"),
            find("cgroup", "cpu"),
            find("cgroup2", ""),
        ]
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        for directory in [&self.memory, &self.processor] {
            // Processes that were killed may not have exited yet.
            for _ in 0..100 {
                match fs::remove_dir(directory) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        sleep(Duration::from_millis(20));
                    }
                    _ => break,
                }
            }
        }
    }
}

fn write(directory: &Path, file: &str, value: &str) -> Result<()> {
    let file = directory.join(file);
    let written = fs::write(&file, value);
    written.map_err(|error| format!("{} = {value}: {error}", file.display()))
}

/// Enables controllers for groups below `root`. In a container, the kernel refuses this while `root`
/// itself has processes.
fn delegate(root: &Path) -> Result<()> {
    let file = root.join("cgroup.subtree_control");
    let enable = || fs::write(&file, "+memory +cpu");
    if enable().is_err() {
        let others = root.join("others");
        let _ = fs::create_dir_all(&others);
        let members = fs::read_to_string(root.join("cgroup.procs")).unwrap_or_default();
        for member in members.lines() {
            let _ = fs::write(others.join("cgroup.procs"), member);
        }
    }
    enable().map_err(|error| format!("{}: {error}", file.display()))
}

/// The number after this word.
fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    });
    value.unwrap_or(0)
}

/// A process of the test binary that writes lines of JSON. Stopped on drop.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts `command`.
    pub(crate) fn start(command: Command) -> Self {
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    /// Writes a line to the process.
    pub(crate) async fn send(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    /// The next event with this name; skips others.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        let found = timeout(PATIENCE, async {
            loop {
                let event = self.next().await;
                let event = event.unwrap_or_else(|| panic!("the process ended before {name:?}"));
                if event["event"] == name {
                    return event;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no {name:?}"))
    }

    /// Stops the process and returns its last event.
    pub(crate) async fn stop(mut self) -> Value {
        drop(self.input.take());
        let ended = timeout(PATIENCE, async {
            let mut last = Value::Null;
            while let Some(event) = self.next().await {
                last = event;
            }
            let _ = self.child.wait().await;
            last
        });
        ended.await.expect("the process ends")
    }

    /// The next line of JSON; skips the output of the test harness.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.output.next_line().await.ok()??;
            if let Ok(event @ Value::Object(_)) = serde_json::from_str(&line) {
                return Some(event);
            }
        }
    }
}
