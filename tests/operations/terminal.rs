//! Output in a terminal, and Ctrl-C.

#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly, and the output of the process is bounded"
)]

use std::{fs::File, io::Read as _, process::ExitStatus};

use descord_relay::{identity::peer_id_of, secret::Secret};
use libp2p::Multiaddr;
use nix::pty::openpty;
use tokio::{
    process::Child,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use test_support::{
    PATIENCE,
    client::{Client, Security},
    process::{Relay, command, kill},
};

/// A process with a terminal as standard input, output and error.
struct InTerminal {
    child: Child,
    output: UnboundedReceiver<String>,
    seen: String,
}

impl InTerminal {
    fn start(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let terminal = openpty(None, None).unwrap();
        let slave = || terminal.slave.try_clone().unwrap();
        let child = command(variables)
            .args(arguments)
            .env("TERM", "xterm-256color")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let mut master = File::from(terminal.master);
        drop(terminal.slave);
        let (sender, output) = unbounded_channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is the end: the process has closed its side.
            while let Ok(length @ 1..) = master.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            output,
            seen: String::new(),
        }
    }

    /// Reads until the output contains the text.
    async fn until(&mut self, text: &str) {
        let reading = timeout(PATIENCE, async {
            while !self.seen.contains(text) {
                match self.output.recv().await {
                    Some(more) => self.seen.push_str(&more),
                    None => panic!("no {text:?} in {}", self.seen),
                }
            }
        });
        reading.await.unwrap_or_else(|_| panic!("no {text:?} yet"));
    }

    fn signal(&self, signal: i32) {
        kill(signal, self.child.id().unwrap());
    }

    /// Waits for the end of the process; returns its status and all of its output.
    async fn end(mut self) -> (ExitStatus, String) {
        let status = timeout(PATIENCE, async {
            while let Some(more) = self.output.recv().await {
                self.seen.push_str(&more);
            }
            self.child.wait().await.unwrap()
        });
        (status.await.unwrap(), self.seen)
    }
}

const SEED: &str = "correct horse battery staple";
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// A port that is free at this moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A relay whose drain would take an hour.
const SLOW_DRAIN: [(&str, &str); 4] = [
    ("RELAY_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/0"),
    ("RELAY_ADMIN_ADDRESS", ""),
    ("RELAY_DRAIN_DELAY", "1h"),
    ("RUST_LOG", "descord_relay=info"),
];

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_an_unused_relay_at_once() {
    let mut relay = InTerminal::start(&SLOW_DRAIN, &[]);
    relay.until("relay ready").await;
    relay.signal(SIGINT);
    let (status, output) = relay.end().await;
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("ending without a drain"), "{output}");
    let first = output.lines().next().unwrap();
    assert!(first.contains("descord-relay starting"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_an_unused_relay_in_a_terminal() {
    let mut relay = InTerminal::start(&SLOW_DRAIN, &[]);
    relay.until("relay ready").await;
    relay.signal(SIGTERM);
    relay.until("received signal, stopping").await;
    relay.until("draining").await;
    relay.signal(SIGTERM);
    assert_eq!(relay.end().await.0.code(), Some(0));
}

/// Outside of a terminal SIGINT drains, too; see `other_signals_are_logged_and_ignored` for the others.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_drains_a_relay_with_a_peer() {
    let listen = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let mut variables = SLOW_DRAIN.to_vec();
    variables[0].1 = &listen;
    variables.extend([("RELAY_IDENTITY_SEED", SEED), ("RELAY_INSTANCE", "relay")]);
    let peer = peer_id_of(&Secret::new(SEED), "relay");
    let address: Multiaddr = format!("{listen}/p2p/{peer}").parse().unwrap();
    let mut relay = InTerminal::start(&variables, &[]);
    relay.until("relay ready").await;
    let mut client = Client::new(Security::Noise).await;
    client.reserve(&address).await.unwrap();
    let client = client.run();
    relay.signal(SIGINT);
    relay.until("received signal, stopping").await;
    relay.until("draining").await;
    relay.signal(SIGINT);
    assert_eq!(relay.end().await.0.code(), Some(0));
    client.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_outside_of_a_terminal_drains() {
    let mut relay = Relay::start_as({
        let mut command = command(&[("RELAY_DRAIN_DELAY", "1h")]);
        command.stdin(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command
    })
    .await;
    relay.signal(SIGINT);
    relay.event("draining").await;
    relay.signal(SIGINT);
    assert_eq!(relay.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_in_a_terminal_is_text_with_colours() {
    let relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    let admin = relay.admin().to_string();
    let status = async |more: &[(&str, &str)], arguments: &[&str]| {
        let variables = [&[("RELAY_ADMIN_ADDRESS", admin.as_str())], more].concat();
        let (status, output) = InTerminal::start(&variables, arguments).end().await;
        assert_eq!(status.code(), Some(0), "{output}");
        output
    };
    let text = status(&[], &["status"]).await;
    assert!(text.contains('\x1b'), "{text:?}");
    let plain = status(&[("NO_COLOR", "1")], &["status"]).await;
    assert!(!plain.contains('\x1b'), "{plain:?}");
    for words in [
        "ready, started ",
        &format!("peer id       {}", relay.peer_id),
        &format!("addresses     {}", relay.tcp()),
        "connections   0 established, 0 in handshake; refused: 0",
        "reservations  0 of 1024",
    ] {
        assert!(plain.contains(words), "{words:?} in {plain}");
    }
    let json = status(&[], &["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["phase"], "ready");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_in_a_terminal_marks_steps_and_sums_up() {
    let relay = Relay::start(&[]).await;
    let unused = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let arguments = ["probe", "--bytes=1KiB", &relay.tcp().to_string(), &unused];
    let (status, text) = InTerminal::start(&[], &arguments).end().await;
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains('\x1b'), "{text:?}");
    let probe = InTerminal::start(&[("NO_COLOR", "1")], &arguments);
    let (_, plain) = probe.end().await;
    assert!(!plain.contains('\x1b'), "{plain:?}");
    for words in [
        "… resolving names",
        "✓ throughput",
        "✗ connect     failed: ",
        "hint: is the relay running",
        "1 of 2 addresses relay",
    ] {
        assert!(plain.contains(words), "{words:?} in {plain}");
    }
    relay.stop().await;
}
