//! How often the relay calls the system while bytes pass through it, as `strace` counts.

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

/// What is carried before, so that windows and buffers have grown; and what is counted.
const BEFORE: usize = 8;
const COUNTED: usize = 64;

/// Those that move bytes. Those that wait or wake depend on the machine, and those that look at the use
/// of memory on how long the test takes.
const OF_SOCKETS: [&str; 8] = [
    "sendto", "sendmsg", "sendmmsg", "writev", "recvfrom", "recvmsg", "recvmmsg", "readv",
];

/// Counts from now on, into this file. Every call stops the relay for a moment, so it finds as much
/// to read as it can take, on every machine.
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

/// Calls by their names.
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

/// How often a relay sends and receives while it is used by clients that have begun before; nothing
/// where there is no strace.
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

/// Per MiB: at most this many calls.
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
    assert!(total >= COUNTED, "hardly anything was counted");
    assert!(total <= most * COUNTED, "{} calls per MiB", total / COUNTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_noise() {
    // Counted: 46 to 49.
    assert_calls_at_most(Channel::Noise, 65).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    // Counted: 46 to 47.
    assert_calls_at_most(Channel::Tls, 65).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quic() {
    // Counted: 61 to 78.
    assert_calls_at_most(Channel::Quic, 120).await;
}
