//! The compose cluster under a separate project name, network and set of ports.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::Output,
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;
use libp2p::{Multiaddr, multiaddr::Protocol};
use serde_json::Value;
use test_support::{PATIENCE, dns, fleet::Fleet};
use tokio::{
    process::Command,
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use crate::engine::inspect;

/// Service names of the relays.
pub const RELAYS: [&str; 3] = ["relay-0", "relay-1", "relay-2"];

const ZONE: &str = "fleet.test";
const NETWORK: &str = "10.153.7";

/// A running cluster. Dropping it removes its containers, network and volumes.
pub struct Cluster {
    image: String,
    /// Peer ids of the relays.
    pub peer_ids: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts the cluster with this image. Only one cluster runs at a time, because ports are fixed.
    pub async fn up(image: &str) -> Self {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let mut cluster = Self {
            _alone: ALONE.lock().await,
            image: image.to_owned(),
            peer_ids: Vec::new(),
        };
        cluster
            .compose(&["up", "--detach", "--wait", "--no-build"])
            .await;
        for relay in RELAYS {
            let identity = ["exec", "-T", relay, "/descord-relay", "identity"];
            let peer_id = cluster.compose(&identity).await;
            cluster.peer_ids.push(peer_id.trim().to_owned());
        }
        cluster
    }

    /// A command that runs `program` from the checkout with the environment of this cluster.
    pub fn command(&self, program: &str) -> Command {
        environment(program, &self.image)
    }

    /// The output of `docker compose` with these arguments. Panics if the command fails.
    pub async fn compose(&self, arguments: &[&str]) -> String {
        let mut command = self.command("docker");
        let output = command
            .arg("compose")
            .args(arguments)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Uses another image for containers that are created from now on.
    pub fn use_image(&mut self, image: &str) {
        image.clone_into(&mut self.image);
    }

    /// The output of `docker inspect` for the container of a service.
    pub async fn inspect(&self, service: &str) -> Value {
        let id = self.compose(&["ps", "--all", "--quiet", service]).await;
        inspect(id.trim()).await
    }

    /// Waits until the relays have at least this many reservations in total.
    pub async fn wait_for_reservations(&self, reservations: u64) {
        let reserved = async {
            loop {
                let mut active = 0;
                for relay in RELAYS {
                    let status = ["exec", "-T", relay, "/descord-relay", "status"];
                    let status: Value = serde_json::from_str(&self.compose(&status).await).unwrap();
                    active += status["reservations"]["active"].as_u64().unwrap();
                }
                if active >= reservations {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        timeout(PATIENCE, reserved)
            .await
            .expect("all reservations are active");
    }

    /// The published addresses of the DNS servers.
    pub fn name_servers() -> Vec<SocketAddr> {
        [2953, 2954]
            .map(|port| ([127, 0, 0, 1], port).into())
            .into()
    }

    /// The fleet as clients see it: its domain name and the peer ids.
    pub fn fleet(&self) -> Fleet {
        let address = |id: &String| {
            let fleet = Multiaddr::from(Protocol::Dnsaddr(ZONE.into()));
            fleet.with(Protocol::P2p(id.parse().unwrap()))
        };
        Fleet {
            relays: self.peer_ids.iter().map(address).collect(),
            name_servers: Self::name_servers(),
        }
    }

    /// Waits until each DNS server lists exactly these relays, given as indices. Returns the duration.
    pub async fn wait_for_records(&self, relays: &[usize]) -> Duration {
        let expected: BTreeSet<_> = relays.iter().map(|n| self.peer_ids[*n].clone()).collect();
        let begun = Instant::now();
        for server in Self::name_servers() {
            loop {
                let listed = listed(server).await;
                if listed == expected {
                    break;
                }
                assert!(
                    begun.elapsed() < PATIENCE,
                    "{server} lists {listed:?} instead of {expected:?}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        begun.elapsed()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = [
            "compose",
            "down",
            "--volumes",
            "--remove-orphans",
            "--timeout=1",
        ];
        let mut command = self.command("docker");
        let _ = command.args(down).as_std_mut().output();
    }
}

/// A command that runs `program` from the checkout in an environment that isolates the cluster.
pub fn environment(program: &str, image: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(std::process::Stdio::null())
        .envs([
            ("COMPOSE_PROJECT_NAME", "descord-relay-test"),
            ("IMAGE", image),
            ("FLEET_ZONE", ZONE),
            ("FLEET_NETWORK", NETWORK),
            ("FLEET_PORTS", "29"),
        ]);
    command
}

/// Standard output and standard error of a command.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The peer ids in the fleet's DNS records; empty if the server does not respond.
async fn listed(server: SocketAddr) -> BTreeSet<String> {
    let fleet = format!("_dnsaddr.{ZONE}");
    let asked = dns::ask_tcp(server, &fleet, RecordType::TXT);
    let asked = timeout(Duration::from_secs(2), asked).await;
    let Ok(Ok(answer)) = asked else {
        return BTreeSet::new();
    };
    let peer_id = |text: &String| text.rsplit_once('/').unwrap().1.to_owned();
    dns::texts(&answer).iter().map(peer_id).collect()
}
