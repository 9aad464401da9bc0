//! A circuit has delivered all bytes when its relay exits, or is reset.
//!
//! The streams of these circuits are the clients' own, with nothing inside: what the relay does to
//! them is what is seen here. In the usual case the encryption within a circuit notices a cut, too.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

use std::io::ErrorKind;

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use libp2p::{Multiaddr, Stream};

use test_support::{
    process::Relay,
    raw::{Circuit, Raw, Streams, pattern, read_out},
};

const SIGTERM: i32 = 15;
/// It fits into every window of the clients.
const BYTES: usize = 200_000;

/// Where a client connects.
type Transport = fn(&Relay) -> Multiaddr;

/// A relay that ends as soon as its last circuit has.
async fn start(drain_timeout: &str) -> Relay {
    Relay::start(&[
        ("RELAY_DRAIN_WINDOW", "0"),
        ("RELAY_DRAIN_TIMEOUT", drain_timeout),
    ])
    .await
}

async fn begin_drain(relay: &mut Relay) {
    relay.signal(SIGTERM);
    relay.event("no new connections are accepted").await;
}

async fn is_over(relay: &mut Relay, finished: usize, cut: usize) {
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_finished"], finished, "{summary}");
    assert_eq!(summary["circuits_cut"], cut, "{summary}");
    assert_eq!(relay.exit_code().await, Some(0));
}

async fn send(stream: &mut Stream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

/// All of it, and then a clean end.
async fn reads_all(stream: &mut Stream, expected: &[u8]) {
    let (bytes, end) = read_out(stream).await;
    end.unwrap();
    let (read, sent) = (bytes.len(), expected.len());
    assert!(bytes == expected, "{read} bytes of {sent}, or others");
}

/// Two clients whose circuit ends during the drain, and who read when the relay is long gone.
async fn late_readers_have_everything(source: Transport, target: Transport) {
    let mut relay = start("1h").await;
    let mut circuits = Vec::new();
    for _ in 0..3 {
        let (source, target) = (source(&relay), target(&relay));
        let ends = (Raw::new(&source).await, Raw::new(&target).await);
        circuits.push(Circuit::between(ends.0, ends.1).await);
    }
    begin_drain(&mut relay).await;
    let data = pattern(BYTES);
    let [there, back, both] = &mut circuits[..] else {
        panic!("three circuits");
    };

    // In one direction, while the other one is finished from the beginning.
    there.far.close().await.unwrap();
    send(&mut there.near, &data).await;
    there.near.close().await.unwrap();
    back.near.close().await.unwrap();
    send(&mut back.far, &data).await;
    back.far.close().await.unwrap();
    // A request that ends before its answer begins.
    send(&mut both.near, &data[1..]).await;
    both.near.close().await.unwrap();
    reads_all(&mut both.far, &data[1..]).await;
    send(&mut both.far, &data).await;
    both.far.close().await.unwrap();

    is_over(&mut relay, 3, 0).await;
    reads_all(&mut there.far, &data).await;
    reads_all(&mut there.near, &[]).await;
    reads_all(&mut back.near, &data).await;
    reads_all(&mut back.far, &[]).await;
    reads_all(&mut both.near, &data).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readers_over_tcp_have_everything() {
    late_readers_have_everything(Relay::tcp, Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readers_over_quic_have_everything() {
    late_readers_have_everything(Relay::quic, Relay::quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readers_over_tcp_and_quic_have_everything() {
    late_readers_have_everything(Relay::tcp, Relay::quic).await;
}

/// The last bytes are with the relay, for a reader that has room for a few of them: the relay
/// waits for it.
async fn a_slow_reader_has_everything(transport: Transport) {
    let mut relay = start("1h").await;
    let address = transport(&relay);
    let source = Raw::new(&address).await;
    let target = Raw::with_streams(Streams::SmallWindow(16 * 1024), &address).await;
    let mut circuit = Circuit::between(source, target).await;
    begin_drain(&mut relay).await;
    // More than all the windows on the way, but for QUIC's towards the reader.
    let data = pattern(if address.to_string().contains("quic") {
        BYTES
    } else {
        5_000_000
    });
    circuit.far.close().await.unwrap();
    let writing = async {
        send(&mut circuit.near, &data).await;
        circuit.near.close().await.unwrap();
    };
    let reading = async {
        relay.event("drain in progress").await;
        reads_all(&mut circuit.far, &data).await;
    };
    tokio::join!(writing, reading);
    is_over(&mut relay, 1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_over_tcp_has_everything() {
    a_slow_reader_has_everything(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_over_quic_has_everything() {
    a_slow_reader_has_everything(Relay::quic).await;
}

/// Which sides of a circuit have finished when it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finished {
    Neither,
    Source,
    Target,
}

/// A circuit that is about to be cut.
struct Doomed {
    circuit: Circuit,
    finished: Finished,
    /// Whether the clients read before it is cut, or only when the relay is gone.
    is_read: bool,
}

impl Doomed {
    async fn open(address: &Multiaddr, finished: Finished, is_read: bool) -> Self {
        let source = Raw::with_streams(Streams::ReportsResets, address).await;
        let target = Raw::with_streams(Streams::ReportsResets, address).await;
        let mut circuit = Circuit::between(source, target).await;
        let data = pattern(BYTES);
        for (stream, finishes) in [
            (&mut circuit.near, finished == Finished::Source),
            (&mut circuit.far, finished == Finished::Target),
        ] {
            send(stream, &data).await;
            if finishes {
                stream.close().await.unwrap();
            }
        }
        if is_read {
            for stream in [&mut circuit.near, &mut circuit.far] {
                let mut read = vec![0; BYTES];
                stream.read_exact(&mut read).await.unwrap();
                assert!(read == data);
            }
        }
        Self {
            circuit,
            finished,
            is_read,
        }
    }

    /// What was finished before is complete, and what was not does not look so.
    async fn is_cut(&mut self) {
        let Circuit { near, far, .. } = &mut self.circuit;
        let directions = [
            ("target", far, self.finished == Finished::Source),
            ("source", near, self.finished == Finished::Target),
        ];
        for (reader, stream, is_complete) in directions {
            let (bytes, end) = read_out(stream).await;
            let what = format!("the {reader}, {:?}, read: {}", self.finished, self.is_read);
            let expected = if self.is_read {
                Vec::new()
            } else {
                pattern(BYTES)
            };
            assert!(expected.starts_with(&bytes), "{what}");
            if is_complete {
                assert!(end.is_ok() && bytes == expected, "{what}: {end:?}");
            } else {
                let cut = end.map_err(|error| error.kind());
                assert_eq!(cut, Err(ErrorKind::ConnectionReset), "{what}");
            }
        }
    }
}

async fn circuits_cut_at_the_deadline_are_reset(transport: Transport) {
    let mut relay = start("1s").await;
    let address = transport(&relay);
    let states = [Finished::Neither, Finished::Source, Finished::Target];
    let states = states.into_iter().flat_map(|s| [(s, true), (s, false)]);
    let opening = states.map(|(finished, is_read)| Doomed::open(&address, finished, is_read));
    let doomed = join_all(opening).await;
    relay.signal(SIGTERM);
    is_over(&mut relay, 0, doomed.len()).await;
    for mut circuit in doomed {
        circuit.is_cut().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_cut_at_the_deadline_are_reset_over_tcp() {
    circuits_cut_at_the_deadline_are_reset(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_cut_at_the_deadline_are_reset_over_quic() {
    circuits_cut_at_the_deadline_are_reset(Relay::quic).await;
}

/// The same at the second signal, which waits for nobody.
async fn circuits_cut_by_a_second_signal_are_reset(transport: Transport) {
    let mut relay = start("1h").await;
    let mut doomed = Doomed::open(&transport(&relay), Finished::Neither, false).await;
    begin_drain(&mut relay).await;
    relay.signal(SIGTERM);
    is_over(&mut relay, 0, 1).await;
    doomed.is_cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_cut_by_a_second_signal_are_reset_over_tcp() {
    circuits_cut_by_a_second_signal_are_reset(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_cut_by_a_second_signal_are_reset_over_quic() {
    circuits_cut_by_a_second_signal_are_reset(Relay::quic).await;
}
