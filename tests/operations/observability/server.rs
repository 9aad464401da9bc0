//! A Prometheus server process.

use std::{fmt::Write, fs::File, net::SocketAddr, path::Path, time::Duration};

use descord_relay::admin::client;
use serde_json::Value;
use tempfile::TempDir;
use test_support::PATIENCE;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// A server with a separate configuration and data directory, killed on drop.
pub(crate) struct Server {
    _child: Child,
    _directory: TempDir,
    address: SocketAddr,
}

impl Server {
    /// Starts a server with this configuration and this rule file.
    pub(crate) async fn start(configuration: &str, rules: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, configuration).unwrap();
        std::fs::copy(rules, directory.path().join("alerts.yaml")).unwrap();
        let log = directory.path().join("log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=json"])
            .stderr(File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let address = wait("server that is ready", async || {
            let log = std::fs::read_to_string(&log).unwrap();
            log.contains("Server is ready").then(|| listening(&log))
        })
        .await;
        Self {
            _child: child,
            _directory: directory,
            address,
        }
    }

    /// A response of the HTTP API.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = client::get(self.address, path).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        let mut answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {body}");
        answer["data"].take()
    }

    /// The current result of `query`.
    pub(crate) async fn query(&self, query: &str) -> Vec<Value> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in query.bytes() {
            write!(path, "%{byte:02x}").unwrap();
        }
        let answer = self.get(&path).await;
        answer["result"].as_array().unwrap().clone()
    }
}

/// The listen address, read from the log.
fn listening(log: &str) -> SocketAddr {
    let line = log.lines().find(|line| line.contains("Listening on"));
    let event: Value = serde_json::from_str(line.unwrap()).unwrap();
    event["address"].as_str().unwrap().parse().unwrap()
}

/// Polls until there is a result. Scrapes and evaluations are asynchronous.
pub(crate) async fn wait<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = timeout(PATIENCE, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    asking.await.unwrap_or_else(|_| panic!("no {what}"))
}
