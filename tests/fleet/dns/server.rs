//! The DNS server as a process, and queries to it.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use hickory_proto::{op::Message, rr::RecordType};
use serde_json::Value;
use test_support::{
    PATIENCE,
    dns::{self, question, texts},
    process::{Relay, command, is, kill},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UdpSocket,
    process::Child,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use crate::dns::{FLEET, SEED, ZONE};

/// Time limit for the removal of a relay from the zone: 2 s, doubled for a busy machine.
pub const REMOVAL_TIMEOUT: Duration = Duration::from_secs(4);

/// The DNS server process, killed on drop.
pub struct DnsServer {
    child: Child,
    lines: UnboundedReceiver<Value>,
    /// All events so far.
    pub events: Vec<Value>,
    /// The address on which it serves DNS.
    pub address: SocketAddr,
}

impl DnsServer {
    /// Starts a server for the relays at these addresses, and waits until it responds.
    pub async fn start(relays: &str, variables: &[(&str, &str)]) -> Self {
        let defaults = [
            ("RELAY_DNS_ZONE", ZONE),
            ("RELAY_DNS_RELAYS", relays),
            ("RELAY_DNS_LISTEN", "127.0.0.1:0"),
            ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
            ("RELAY_LOG_FORMAT", "json"),
        ];
        let mut child = command(&[&defaults, variables].concat())
            .arg("dns")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, lines) = unbounded_channel();
        tokio::task::spawn(async move {
            while let Some(line) = stdout.next_line().await.unwrap() {
                let event = serde_json::from_str(&line).unwrap();
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let mut server = Self {
            child,
            lines,
            events: Vec::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let answers = server.event("dns server listening").await;
        server.address = answers["address"].as_str().unwrap().parse().unwrap();
        server
    }

    /// Starts a server for these relays, and waits until all of them are listed.
    pub async fn of(relays: &[&Relay], variables: &[(&str, &str)]) -> Self {
        let addresses: Vec<_> = relays
            .iter()
            .map(|relay| relay.admin().to_string())
            .collect();
        let mut server = Self::start(&addresses.join(","), variables).await;
        server.wait_for_relay_count(relays.len()).await;
        server
    }

    /// Waits for the log event with this number of listed relays.
    pub async fn wait_for_relay_count(&mut self, relays: usize) -> Value {
        self.event_where("relays changed", |event| event["listed"] == relays)
            .await
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
        loop {
            let event = timeout(PATIENCE, self.lines.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("no {message:?} in {:#?}", self.events));
            let event = event.unwrap_or_else(|| panic!("it ended before {message:?}"));
            self.events.push(event.clone());
            if is(&event, message) && is_wanted(&event) {
                return event;
            }
        }
    }

    /// The address of the server's HTTP endpoints.
    pub async fn admin(&mut self) -> SocketAddr {
        let is_it = |event: &&Value| is(event, "admin endpoints");
        if !self.events.iter().any(|event| is_it(&event)) {
            self.event("admin endpoints").await;
        }
        let event = self.events.iter().find(is_it).unwrap();
        event["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: i32) {
        kill(signal, self.child.id().unwrap());
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.child.wait()).await;
        status.unwrap().unwrap().code()
    }

    /// Resident memory of the process, in bytes.
    pub fn used_bytes(&self) -> usize {
        let statm = format!("/proc/{}/statm", self.child.id().unwrap());
        let statm = std::fs::read_to_string(statm).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    /// The response over UDP.
    pub async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(&question(name, record_type)).await.unwrap();
        let mut packet = [0; 4096];
        let length = timeout(PATIENCE, socket.recv(&mut packet)).await;
        Message::from_vec(&packet[..length.unwrap().unwrap()]).unwrap()
    }

    /// The response over TCP.
    pub async fn ask_tcp(&self, name: &str, record_type: RecordType) -> Message {
        dns::ask_tcp(self.address, name, record_type).await.unwrap()
    }

    /// The texts of the fleet's records, sorted.
    pub async fn texts(&self) -> Vec<String> {
        texts(&self.ask_tcp(FLEET, RecordType::TXT).await)
    }

    /// Waits until exactly these relays are listed. Returns the duration.
    pub async fn wait_for_relays(&self, relays: &[&Relay]) -> Duration {
        let mut expected: Vec<_> = relays
            .iter()
            .map(|relay| relay.peer_id.to_string())
            .collect();
        expected.sort();
        let begun = Instant::now();
        loop {
            let texts = self.texts().await;
            let id = |text: &String| text.rsplit_once('/').unwrap().1.to_owned();
            let mut ids: Vec<_> = texts.iter().map(id).collect();
            ids.sort();
            ids.dedup();
            if ids == expected {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{texts:#?} instead of {expected:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A relay of the fleet, with its admin endpoints on a free port or the given one.
pub async fn relay(instance: &str, variables: &[(&str, &str)]) -> Relay {
    let defaults = [
        ("RELAY_IDENTITY_SEED", SEED),
        ("RELAY_INSTANCE", instance),
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
    ];
    let mut relay = Relay::start(&[&defaults, variables].concat()).await;
    if relay
        .events
        .iter()
        .all(|event| !is(event, "admin endpoints"))
    {
        relay.event("admin endpoints").await;
    }
    relay
}
