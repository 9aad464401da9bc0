//! System calls of the relay for each forwarded MiB, as counted by `strace`.

use std::{path::Path, process::Stdio};

use libp2p::Multiaddr;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use test_support::tools::{or_skip, run};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    Channel, Circuit,
    relay::{Kind, Relay},
};

/// MiB forwarded before the measurement, so that windows and buffers have grown; and MiB measured.
const BEFORE: usize = 8;
const COUNTED: usize = 64;

/// Calls that transfer data. Calls that wait or wake depend on the machine, and those that read the
/// memory usage on the duration of the test.
const OF_SOCKETS: [&str; 8] = [
    "sendto", "sendmsg", "sendmmsg", "writev", "recvfrom", "recvmsg", "recvmmsg", "readv",
];

/// Starts counting into this file. Each call stops the relay briefly, so on every machine its reads are
/// as large as possible.
async fn count(process: i32, file: &Path) -> Child {
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "--summary-columns=calls,name", "-o"])
        .arg(file)
        .args(["-p", &process.to_string()])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("strace attaches");
        if line.contains("attached") {
            break;
        }
    }
    tokio::task::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    strace
}

/// Number of calls by name.
async fn counted(mut strace: Child, file: &Path) -> Vec<(String, usize)> {
    let id = i32::try_from(strace.id().unwrap()).unwrap();
    kill(Pid::from_raw(id), Signal::SIGINT).unwrap();
    strace.wait().await.unwrap();
    let summary = std::fs::read_to_string(file).unwrap();
    let call = |line: &str| {
        let (calls, name) = line.trim().split_once(' ')?;
        Some((name.trim().to_owned(), calls.parse().ok()?))
    };
    let calls = summary.lines().filter_map(call);
    calls.filter(|(name, _)| name != "total").collect()
}

/// The number of send and receive calls of a relay under the load of clients that are already connected;
/// `None` without `strace`.
pub(crate) async fn calls<T>(
    channel: Channel,
    begin: impl AsyncFnOnce(Multiaddr) -> T,
    used: impl AsyncFnOnce(&mut T),
) -> Option<usize> {
    let strace = run(std::process::Command::new("strace").arg("-V"));
    or_skip("strace", &strace)?;
    let relay = Relay::start(Kind::Ours, None).await.unwrap();
    let mut clients = begin(relay.address(channel).unwrap()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("calls");
    let strace = count(relay.process.pid, &file).await;
    used(&mut clients).await;
    let calls = counted(strace, &file).await;
    println!("{}: {calls:?}", channel.name());
    let is_counted = |(name, _): &&(String, usize)| OF_SOCKETS.contains(&name.as_str());
    let calls = calls.iter().filter(is_counted);
    let total = calls.map(|(_, calls)| calls).sum();
    relay.end().await.unwrap();
    Some(total)
}

/// Upper bound of calls for each MiB.
async fn assert_calls_at_most(channel: Channel, most: usize) {
    let begin = async |relay| {
        let mut circuit = Circuit::open(channel, &relay).await;
        circuit.carry(BEFORE).await;
        circuit
    };
    let counted = calls(channel, begin, async |circuit| circuit.carry(COUNTED).await);
    let Some(total) = counted.await else {
        return;
    };
    assert!(total >= COUNTED, "too few calls were measured");
    assert!(total <= most * COUNTED, "{} calls per MiB", total / COUNTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_noise() {
    // Measured: 46 to 49.
    assert_calls_at_most(Channel::Noise, 65).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    // Measured: 46 to 47.
    assert_calls_at_most(Channel::Tls, 65).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quic() {
    // Measured: 61 to 78.
    assert_calls_at_most(Channel::Quic, 120).await;
}
