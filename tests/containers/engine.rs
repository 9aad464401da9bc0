//! The Docker engine, the image under test, and containers that are removed on drop.

use std::{process::Stdio, sync::OnceLock};

use serde_json::Value;
use tempfile::TempDir;
use test_support::tools::{or_skip, run};
use tokio::{process::Command, sync::OnceCell};

/// Whether the test builds the image under test itself.
pub fn is_built_here() -> bool {
    std::env::var_os("RELAY_TEST_IMAGE").is_none()
}

/// The image under test, built from the repository's Dockerfile; `None` if the test is skipped.
pub async fn image() -> Option<&'static str> {
    static ENGINE: OnceLock<Result<(), String>> = OnceLock::new();
    static IMAGE: OnceCell<String> = OnceCell::const_new();
    let engine = ENGINE.get_or_init(|| {
        run(std::process::Command::new("docker").arg("info"))?;
        run(std::process::Command::new("docker").args(["compose", "version"]))
    });
    or_skip("a Docker engine with compose", engine)?;
    let image = IMAGE.get_or_init(|| async {
        if let Ok(given) = std::env::var("RELAY_TEST_IMAGE") {
            return given;
        }
        docker(&[
            "build",
            "--quiet",
            "--build-arg=PROFILE=release",
            "--tag=descord-relay:test",
            env!("CARGO_MANIFEST_DIR"),
        ])
        .await;
        "descord-relay:test".to_owned()
    });
    Some(image.await)
}

/// The output of `docker` with these arguments. Panics if the command fails.
pub async fn docker(arguments: &[&str]) -> String {
    let output = command(arguments).output().await.unwrap();
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A command that runs `docker` with these arguments.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::null());
    // Older clients use the legacy builder by default.
    command.env("DOCKER_BUILDKIT", "1");
    command
}

/// The output of `docker inspect` for an image or a container.
pub async fn inspect(what: &str) -> Value {
    let text = docker(&["inspect", what]).await;
    let mut found: Value = serde_json::from_str(&text).unwrap();
    found[0].take()
}

/// A container of this test, removed on drop.
pub struct Container {
    pub id: String,
}

impl Container {
    /// Runs the image in the background with the options that docs/docker.md recommends, and these.
    pub async fn start(image: &str, options: &[&str]) -> Self {
        let hardened = [
            "run",
            "--detach",
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            // The health check of the image runs every 10 s.
            "--health-interval=1s",
        ];
        let id = docker(&[&hardened, options, &[image]].concat()).await;
        Self { id }
    }

    /// Waits until the health check of the container succeeds.
    pub async fn wait_until_healthy(&self) {
        let healthy = async {
            while inspect(&self.id).await["State"]["Health"]["Status"] != "healthy" {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        };
        let in_time = tokio::time::timeout(test_support::PATIENCE, healthy).await;
        in_time.expect("the container becomes healthy");
    }

    /// The published host port of a container port such as `9000/udp`.
    pub async fn port(&self, port: &str) -> u16 {
        let published = docker(&["port", &self.id, port]).await;
        published.rsplit(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = run(std::process::Command::new("docker").args(["rm", "--force", &self.id]));
    }
}

/// An image that adds one Dockerfile instruction to another image. Removed on drop.
pub struct Derived {
    pub id: String,
}

impl Derived {
    pub async fn from(image: &str, line: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("Dockerfile");
        std::fs::write(&path, format!("FROM {image}\n{line}\n")).unwrap();
        let build = ["build", "--quiet", directory.path().to_str().unwrap()];
        Self {
            id: docker(&build).await,
        }
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        let _ = run(std::process::Command::new("docker").args(["rmi", "--force", &self.id]));
    }
}
