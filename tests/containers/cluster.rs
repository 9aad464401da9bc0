//! The cluster of `compose.yaml`, under a separate name, and on separate ports and a separate network.

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

/// The relays of the cluster.
pub const RELAYS: [&str; 3] = ["relay-0", "relay-1", "relay-2"];

const ZONE: &str = "fleet.test";
const NETWORK: &str = "10.153.7";

/// A running cluster. Its containers, network and volumes are removed when it is dropped.
pub struct Cluster {
    image: String,
    /// The relays' peer ids.
    pub peer_ids: Vec<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts the cluster with this image; one at a time, as there is one set of ports.
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

    /// `program` in the checkout, as an operator of this cluster would run it.
    pub fn command(&self, program: &str) -> Command {
        environment(program, &self.image)
    }

    /// What `docker compose` with these arguments prints; it must end well.
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

    /// Uses another image from now on, where containers are made anew.
    pub fn use_image(&mut self, image: &str) {
        image.clone_into(&mut self.image);
    }

    /// What Docker knows of the container of a service.
    pub async fn inspect(&self, service: &str) -> Value {
        let id = self.compose(&["ps", "--all", "--quiet", service]).await;
        inspect(id.trim()).await
    }

    /// Waits until the relays hold at least this many reservations together.
    pub async fn holds(&self, reservations: u64) {
        let holds = async {
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
        timeout(PATIENCE, holds)
            .await
            .expect("the reservations are back");
    }

    /// The answerers, where they are published.
    pub fn name_servers() -> Vec<SocketAddr> {
        [2953, 2954]
            .map(|port| ([127, 0, 0, 1], port).into())
            .into()
    }

    /// The relays, by the name of the fleet and their peer ids alone.
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

    /// Waits until each answerer that is asked lists exactly these relays, by their indices, and
    /// gives how long that took.
    pub async fn lists(&self, relays: &[usize]) -> Duration {
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

/// `program` in the checkout, with the environment that separates the cluster from others.
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

/// All that a command printed.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The peer ids in the records of the fleet; empty while nobody answers.
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
