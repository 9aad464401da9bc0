//! py-libp2p's relay client with the real relay, reached by py-libp2p and by rust-libp2p.
//!
//! Needs Python 3.11 or newer with `venv` and `pip`, and, for a dependency of py-libp2p, a C compiler
//! with the headers of GMP. The packages are installed on the first run, into the target directory.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde_json::{Value, json};
use test_support::{
    client::{Client, Security, assert_echoed},
    other_implementations::Process,
    process::Relay,
    tools::{install_once, or_skip, run},
};
use tokio_util::task::AbortOnDropHandle;

const BYTES: u64 = 1024 * 1024;

/// The Python interpreter with py-libp2p; `None` skips the test.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skip(
        "Python 3.11, a C compiler and GMP",
        PYTHON.get_or_init(install),
    )
    .map(PathBuf::as_path)
}

fn install() -> Result<PathBuf, String> {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/requirements.txt");
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = environment.join("bin/python");
    install_once(&environment, &requirements, || {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&environment))?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(&requirements))
    })?;
    Ok(python)
}

fn start(python: &Path, arguments: &[&str]) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/peer.py");
    Process::start(
        tokio::process::Command::new(python)
            .arg(script)
            .args(arguments),
    )
}

/// A reserved py-libp2p node, and its peer id.
async fn listener(python: &Path, relay: &Relay) -> (Process, PeerId) {
    let mut process = start(python, &["listen", &relay.tcp().to_string()]);
    let reserved = process.event("reserved").await;
    assert_eq!(reserved["ok"], true, "{reserved}");
    (process, reserved["peer"].as_str().unwrap().parse().unwrap())
}

/// A py-libp2p node dials this address and verifies an echo.
async fn dial_and_echo(python: &Path, address: Multiaddr) {
    let mut process = start(python, &["dial", &address.to_string(), &BYTES.to_string()]);
    let echoed = process.event("echoed").await;
    assert_eq!(
        echoed,
        json!({ "event": "echoed", "received": BYTES, "matches": true })
    );
}

fn through(relay: &Multiaddr, peer: PeerId) -> Multiaddr {
    relay
        .clone()
        .with(Protocol::P2pCircuit)
        .with(Protocol::P2p(peer))
}

async fn ended_clean(listener: &mut Process) {
    let end: Value = listener.event("stream ended").await;
    assert_eq!(
        end,
        json!({ "event": "stream ended", "received": BYTES, "end": "clean" })
    );
}

#[tokio::test]
async fn python_reaches_python() {
    let Some(python) = python() else { return };
    let relay = Relay::start(&[]).await;
    let (mut listener, id) = listener(python, &relay).await;
    dial_and_echo(python, through(&relay.tcp(), id)).await;
    ended_clean(&mut listener).await;
}

#[tokio::test]
async fn python_reaches_rust() {
    let Some(python) = python() else { return };
    let relay = Relay::start(&[]).await;
    let mut listener = Client::new(Security::Noise).await;
    listener.reserve(&relay.quic()).await.unwrap();
    let id = listener.peer_id;
    let _running = AbortOnDropHandle::new(listener.echo());
    dial_and_echo(python, through(&relay.tcp(), id)).await;
}

#[tokio::test]
async fn rust_reaches_python() {
    let Some(python) = python() else { return };
    let relay = Relay::start(&[]).await;
    let (mut listener, id) = listener(python, &relay).await;
    let mut dialer = Client::new(Security::Noise).await;
    dialer.connect(&relay.tcp(), id).await.unwrap();
    let mut control = dialer.streams.clone();
    let _running = AbortOnDropHandle::new(dialer.run());

    let data: Vec<u8> = (0..BYTES).map(|byte| (byte % 251) as u8).collect();
    assert_echoed(&mut control, id, &data).await;
    ended_clean(&mut listener).await;
}
