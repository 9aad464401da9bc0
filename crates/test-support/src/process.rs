//! The relay under test: the real binary, configured by environment variables, with JSON log lines.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use crate::PATIENCE;

/// The directory of the build profile, which contains the binary. Test binaries are in a subdirectory.
fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let is_profile = |directory: &&Path| directory.join("deps").is_dir();
    test.ancestors().find(is_profile).unwrap().to_owned()
}

/// The binary `descord-relay`, which cargo builds before the tests of its package.
pub fn binary() -> PathBuf {
    profile_directory().join("descord-relay")
}

/// The directory for files that tests keep between runs.
pub fn temporary_directory() -> PathBuf {
    let directory = profile_directory().parent().unwrap().join("tmp");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// A relay process, killed on drop.
pub struct Relay {
    child: Child,
    /// Read continuously, whether or not a test waits for events.
    lines: UnboundedReceiver<Value>,
    pub peer_id: PeerId,
    addresses: Vec<Multiaddr>,
    /// All events so far.
    pub events: Vec<Value>,
}

/// The binary with an environment that contains only `variables` of the relay's variables.
pub fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(crate::process::binary());
    command
        .env_clear()
        .envs(variables.iter().copied())
        .kill_on_drop(true);
    command
}

impl Relay {
    /// Starts a relay on free loopback ports and waits until it is ready.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_in(Path::new("."), variables).await
    }

    /// As [`Self::start`], in this working directory.
    pub async fn start_in(directory: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = command(variables);
        command.current_dir(directory);
        Self::start_as(command).await
    }

    /// As [`Self::start`], by this command, which executes the binary with its environment.
    pub async fn start_as(mut command: Command) -> Self {
        let defaults = [
            (
                "RELAY_LISTEN_ADDRESSES",
                "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/udp/0/quic-v1,/ip4/127.0.0.1/tcp/0/ws",
            ),
            ("RELAY_LOG_FORMAT", "json"),
            ("RELAY_ADMIN_ADDRESS", ""),
            ("RELAY_DRAIN_DELAY", "0"),
            // All clients of a test have the same address.
            ("RELAY_MAX_RESERVATIONS_PER_IP", "0"),
            ("RELAY_PREFIX_SHARES", "127.0.0.0/8=100%,::1=100%"),
            ("RELAY_RATE_CONNECTIONS_PER_IP", "0"),
            ("RELAY_RATE_RESERVATIONS_PER_IP", "0"),
            ("RELAY_RATE_CIRCUITS_PER_IP", "0"),
        ];
        for (name, value) in defaults {
            if command.as_std().get_envs().all(|(set, _)| set != name) {
                command.env(name, value);
            }
        }
        let mut child = command
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let (sender, lines) = unbounded_channel();
        tokio::task::spawn(async move {
            while let Some(line) = stdout.next_line().await.unwrap() {
                let event = serde_json::from_str(&line)
                    .unwrap_or_else(|_| panic!("not a JSON event: {line}"));
                // A log field named `target` would collide with the source of the event.
                assert_eq!(line.matches("\"target\":").count(), 1, "{line}");
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let mut relay = Self {
            child,
            lines,
            peer_id: PeerId::random(),
            addresses: Vec::new(),
            events: Vec::new(),
        };
        let ready = relay.event("relay ready").await;
        relay.peer_id = ready["peer_id"].as_str().unwrap().parse().unwrap();
        let addresses = ready["addresses"].as_str().unwrap();
        relay.addresses = addresses.split(',').map(|a| a.parse().unwrap()).collect();
        relay
    }

    /// The next event whose message has this prefix.
    pub async fn event(&mut self, message: &str) -> Value {
        self.event_where(message, |_| true).await
    }

    /// The next event whose message has this prefix and that satisfies `is_wanted`.
    pub async fn event_where(
        &mut self,
        message: &str,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let event = timeout(PATIENCE, async {
            loop {
                let event = self.lines.recv().await;
                let event = event.unwrap_or_else(|| panic!("the relay ended before {message:?}"));
                self.events.push(event.clone());
                if is(&event, message) && is_wanted(&event) {
                    return event;
                }
            }
        });
        event
            .await
            .unwrap_or_else(|_| panic!("no {message:?} among {:#?}", self.events))
    }

    /// Waits for a statistics event without reservations, circuits and connections.
    pub async fn wait_until_idle(&mut self) {
        let is_zero = |event: &Value| {
            ["circuits", "reservations", "connections", "peers"]
                .iter()
                .all(|what| event[what] == 0)
        };
        self.event_where("statistics", is_zero).await;
    }

    /// Stops the relay with two signals, which skips the wait for circuits. Asserts exit code 0 and
    /// returns all events.
    pub async fn stop(mut self) -> Vec<Value> {
        self.signal(15);
        self.event("draining").await;
        self.signal(15);
        assert_eq!(self.exit_code().await, Some(0), "{:#?}", self.events);
        self.events
    }

    /// Asserts that the relay still runs, that all connections end, and that no task has panicked.
    /// Requires a short statistics interval.
    pub async fn assert_unharmed(mut self) {
        self.wait_until_idle().await;
        let events = self.stop().await;
        assert!(events.iter().all(|event| !is(event, "a task panicked")));
    }

    /// Sends a signal, given by number.
    pub fn signal(&self, signal: i32) {
        kill(signal, self.id());
    }

    /// Suspends the process until [`Relay::resume`].
    pub fn suspend(&self) {
        self.signal(19);
    }

    /// Resumes the process.
    pub fn resume(&self) {
        self.signal(18);
    }

    /// Reads the remaining events and returns the exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let status = timeout(PATIENCE, async {
            while let Some(event) = self.lines.recv().await {
                self.events.push(event);
            }
            self.child.wait().await.unwrap()
        });
        status.await.expect("the relay exits").code()
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("the relay runs")
    }

    /// The address of the admin endpoints.
    pub fn admin(&self) -> SocketAddr {
        let event = self.events.iter().find(|e| is(e, "admin endpoints"));
        let address = event.expect("RELAY_ADMIN_ADDRESS is set")["address"].as_str();
        address.unwrap().parse().unwrap()
    }

    /// The TCP address to dial, with the relay's peer id.
    pub fn tcp(&self) -> Multiaddr {
        self.address(|parts| parts.len() == 3 && matches!(parts[1], Protocol::Tcp(_)))
    }

    /// The QUIC address to dial.
    pub fn quic(&self) -> Multiaddr {
        self.address(|parts| parts.contains(&Protocol::QuicV1))
    }

    /// The WebSocket address to dial.
    pub fn websocket(&self) -> Multiaddr {
        self.address(|parts| parts.iter().any(|p| matches!(p, Protocol::Ws(_))))
    }

    /// Resident memory of the process in bytes, without file-backed pages.
    pub fn used_bytes(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.id())).unwrap();
        let pages = |field| -> usize { statm.split(' ').nth(field).unwrap().parse().unwrap() };
        (pages(1) - pages(2)) * 4096
    }

    /// The number of open file descriptors of the process.
    pub fn open_files(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        files.expect("the relay runs").count()
    }

    fn address(&self, is_wanted: impl Fn(&[Protocol<'_>]) -> bool) -> Multiaddr {
        let wanted = |address: &&Multiaddr| is_wanted(&address.iter().collect::<Vec<_>>());
        self.addresses
            .iter()
            .find(wanted)
            .expect("the relay listens there")
            .clone()
    }
}

/// Sends a signal to a process, both given by number.
pub fn kill(signal: i32, process: u32) {
    let status = std::process::Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Whether the message of `event` has this prefix.
pub fn is(event: &Value, message: &str) -> bool {
    event["message"]
        .as_str()
        .is_some_and(|m| m.starts_with(message))
}

/// The socket address in `address`.
pub fn socket(address: &Multiaddr) -> SocketAddr {
    let parts: Vec<_> = address.iter().collect();
    let ip: IpAddr = match parts[0] {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => panic!("{address} has no IP address"),
    };
    match parts[1] {
        Protocol::Tcp(port) | Protocol::Udp(port) => (ip, port).into(),
        _ => panic!("{address} has no port"),
    }
}
