//! The examples: a client reserves on the embedded relay, and another client connects to it.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "tests fail loudly")]

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// Timeout for anything that the test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that runs an example, killed on drop.
struct Example {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Example {
    /// Where cargo puts an example.
    fn binary(name: &str) -> PathBuf {
        let test = env::current_exe().unwrap();
        let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
        profile.join("examples").join(name)
    }

    fn start(name: &str, arguments: &[&str]) -> Self {
        let binary = Self::binary(name);
        let mut process = Command::new(binary)
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            _process: process,
            lines,
        }
    }

    /// The rest of the next line with this prefix.
    async fn line(&mut self, prefix: &str) -> String {
        let search = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return rest.to_owned();
                }
            }
            panic!("no line begins with {prefix:?}");
        };
        timeout(PATIENCE, search).await.expect("a line in time")
    }
}

#[tokio::test]
async fn client_reserves_on_the_embedded_relay_and_is_dialled() {
    // `cargo test` builds them, but not with the option `--test`.
    if let Some(missing) = ["embedded", "client"]
        .map(Example::binary)
        .iter()
        .find(|binary| !binary.exists())
    {
        let need = format!(
            "needs {}: `cargo build --workspace --examples`",
            missing.display()
        );
        assert!(
            env::var_os("RELAY_TEST_REQUIRE_ALL").is_none_or(|all| all != "1"),
            "{need}"
        );
        println!("skipped: {need}");
        return;
    }
    let mut relay = Example::start("embedded", &["/ip4/127.0.0.1/tcp/0"]);
    let relay = format!("/ip4/{}", relay.line("/ip4/").await);
    let mut target = Example::start("client", &[&relay]);
    let address = target.line("reachable at ").await;
    let mut source = Example::start("client", &[&relay, &address]);
    let (connected, _) = tokio::join!(source.line("connected to "), target.line("connected to "));
    let target_id = address.rsplit('/').next().unwrap();
    assert!(connected.starts_with(target_id), "{connected}");
    source.line("ping of ").await;
}
