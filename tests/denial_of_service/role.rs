//! Roles of the test binary as a separate process: attackers, ordinary clients, and an observer that
//! reads the admin endpoints from inside the relay's network.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use descord_relay::admin::client;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use test_support::prometheus::Scrape;
use tokio::{
    sync::mpsc::{Receiver, channel},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    attackers::{self, Attacker},
    network::{self, Addresses, ControlGroup, Namespace, Process},
    ordinary::{self, Ordinary},
};

/// Environment variable that contains the role as JSON.
const VARIABLE: &str = "RELAY_TEST_ROLE";
/// Interval between two probes of `/livez`.
const PROBE: Duration = Duration::from_millis(250);
/// Time for sending the close frames of connections at the end.
const LEAVING: Duration = Duration::from_secs(1);

/// The role of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    Ordinary(Ordinary),
    Attacker(Attacker),
    Observer(Addresses),
}

impl Role {
    /// Starts a process with this role.
    pub(crate) fn start(&self, namespace: &Namespace, groups: &[&ControlGroup]) -> Process {
        let binary: PathBuf = std::env::current_exe().unwrap();
        let mut command = network::command(namespace, groups, binary);
        command.args(["--exact", "has_a_role", "--nocapture", "--test-threads=1"]);
        command.env(VARIABLE, serde_json::to_string(self).unwrap());
        Process::start(command)
    }
}

/// Runs the role of this process, if there is one, until the input ends. Then exits the process.
pub(crate) fn run_from_environment() {
    let Ok(role) = std::env::var(VARIABLE) else {
        return;
    };
    let role: Role = serde_json::from_str(&role).unwrap();
    let hard = rlimit::Resource::NOFILE.get_hard().unwrap();
    rlimit::Resource::NOFILE.set(hard, hard).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let input = Input::new();
        match role {
            Role::Ordinary(ordinary) => ordinary::run(ordinary, input).await,
            Role::Attacker(attacker) => attackers::run(attacker, input).await,
            Role::Observer(addresses) => observe(addresses, input).await,
        }
        sleep(LEAVING).await;
    });
    std::process::exit(0);
}

/// Lines from the test to the process.
pub(crate) struct Input(Receiver<String>);

impl Input {
    fn new() -> Self {
        let (sender, receiver) = channel(1);
        thread::spawn(move || {
            for line in io::stdin().lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// The next line; `None` when the process has to stop.
    pub(crate) async fn line(&mut self) -> Option<String> {
        self.0.recv().await
    }

    /// Returns when the process has to stop.
    pub(crate) async fn end(&mut self) {
        while self.line().await.is_some() {}
    }
}

/// Writes a line of JSON. Starts on a new line, because the test harness may have written a part of one.
pub(crate) fn emit(event: &Value) {
    println!("\n{event}");
}

/// For each line, which is a path, writes the relay's response. Probes `/livez` meanwhile.
async fn observe(addresses: Addresses, mut input: Input) {
    let slowest: Arc<Mutex<Duration>> = Arc::default();
    let mut probes = JoinSet::new();
    probes.spawn(probe(addresses.clone(), Arc::clone(&slowest)));
    while let Some(path) = input.line().await {
        let answer = match path.as_str() {
            "probes" => {
                let slowest = std::mem::take(&mut *slowest.lock().unwrap());
                json!(slowest.as_secs_f64())
            }
            "/metrics" => metrics(&addresses).await,
            path => {
                let answer = client::get(addresses.admin, path).await;
                let body = answer.ok().map(|(_, body)| body);
                let value = body.and_then(|body| serde_json::from_slice(&body).ok());
                value.unwrap_or(Value::Null)
            }
        };
        emit(&json!({"event": "answer", "answer": answer}));
    }
}

async fn probe(addresses: Addresses, slowest: Arc<Mutex<Duration>>) {
    loop {
        let began = Instant::now();
        loop {
            let answer = client::get(addresses.admin, "/livez").await;
            let is_alive = answer.is_ok_and(|(status, _)| status.is_success());
            {
                let mut slowest = slowest.lock().unwrap();
                *slowest = slowest.max(began.elapsed());
            }
            sleep(PROBE).await;
            if is_alive {
                break;
            }
        }
    }
}

/// The sum of all series of each metric.
async fn metrics(addresses: &Addresses) -> Value {
    // Bounded, because other connections may use all of the endpoints' capacity.
    let mut scraping = JoinSet::new();
    let address = addresses.admin;
    scraping.spawn(async move { Scrape::at(address).await });
    let scrape = timeout(Duration::from_secs(5), scraping.join_next()).await;
    let Ok(Some(Ok(scrape))) = scrape else {
        return Value::Null;
    };
    let mut sums = Map::new();
    for sample in &scrape.0 {
        let sum = scrape.sum(&sample.name, &[]).unwrap_or(0.0);
        sums.insert(sample.name.clone(), json!(sum));
    }
    Value::Object(sums)
}
