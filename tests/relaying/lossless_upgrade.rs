//! When its relay exits, a circuit has delivered all bytes or is reset.
//!
//! These circuits carry unencrypted streams, so that the tests observe exactly what the relay does.
//! Encryption inside a circuit would also detect a cut.

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
/// Fits into every receive window of the clients.
const BYTES: usize = 200_000;

/// Selects the relay address of a transport.
type Transport = fn(&Relay) -> Multiaddr;

/// A relay that exits as soon as its last circuit has ended.
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

async fn assert_drained(relay: &mut Relay, finished: usize, cut: usize) {
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_finished"], finished, "{summary}");
    assert_eq!(summary["circuits_cut"], cut, "{summary}");
    assert_eq!(relay.exit_code().await, Some(0));
}

async fn send(stream: &mut Stream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

/// Asserts that the stream delivers all of `expected` and then ends cleanly.
async fn assert_receives_all(stream: &mut Stream, expected: &[u8]) {
    let (bytes, end) = read_out(stream).await;
    end.unwrap();
    let (read, sent) = (bytes.len(), expected.len());
    assert!(bytes == expected, "{read} bytes of {sent}, or others");
}

/// Two clients whose circuit ends during the drain, and which read after the relay has exited.
async fn assert_late_readers_receive_all(source: Transport, target: Transport) {
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

    // One direction carries data; the other one is closed from the beginning.
    there.far.close().await.unwrap();
    send(&mut there.near, &data).await;
    there.near.close().await.unwrap();
    back.near.close().await.unwrap();
    send(&mut back.far, &data).await;
    back.far.close().await.unwrap();
    // A request that ends before its response begins.
    send(&mut both.near, &data[1..]).await;
    both.near.close().await.unwrap();
    assert_receives_all(&mut both.far, &data[1..]).await;
    send(&mut both.far, &data).await;
    both.far.close().await.unwrap();

    assert_drained(&mut relay, 3, 0).await;
    assert_receives_all(&mut there.far, &data).await;
    assert_receives_all(&mut there.near, &[]).await;
    assert_receives_all(&mut back.near, &data).await;
    assert_receives_all(&mut back.far, &[]).await;
    assert_receives_all(&mut both.near, &data).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readers_over_tcp_receive_all() {
    assert_late_readers_receive_all(Relay::tcp, Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readers_over_quic_receive_all() {
    assert_late_readers_receive_all(Relay::quic, Relay::quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readers_over_tcp_and_quic_receive_all() {
    assert_late_readers_receive_all(Relay::tcp, Relay::quic).await;
}

/// The relay buffers the last bytes for a reader with a small window, and waits until they are delivered.
async fn assert_slow_reader_receives_all(transport: Transport) {
    let mut relay = start("1h").await;
    let address = transport(&relay);
    let source = Raw::new(&address).await;
    let target = Raw::with_streams(Streams::SmallWindow(16 * 1024), &address).await;
    let mut circuit = Circuit::between(source, target).await;
    begin_drain(&mut relay).await;
    // More than all windows on the path, except for the QUIC window of the reader.
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
        assert_receives_all(&mut circuit.far, &data).await;
    };
    tokio::join!(writing, reading);
    assert_drained(&mut relay, 1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_over_tcp_receives_all() {
    assert_slow_reader_receives_all(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_over_quic_receives_all() {
    assert_slow_reader_receives_all(Relay::quic).await;
}

/// The closed directions of a circuit when it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finished {
    Neither,
    Source,
    Target,
}

/// A circuit that will be cut.
struct CutCircuit {
    circuit: Circuit,
    finished: Finished,
    /// Whether the clients read before the cut, or only after the relay has exited.
    is_read: bool,
}

impl CutCircuit {
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

    /// Asserts that closed directions are complete, and that open ones end with an error.
    async fn assert_cut(&mut self) {
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
    let opening = states.map(|(finished, is_read)| CutCircuit::open(&address, finished, is_read));
    let circuits = join_all(opening).await;
    relay.signal(SIGTERM);
    assert_drained(&mut relay, 0, circuits.len()).await;
    for mut circuit in circuits {
        circuit.assert_cut().await;
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

/// The same at the second signal, which does not wait for circuits.
async fn circuits_cut_by_a_second_signal_are_reset(transport: Transport) {
    let mut relay = start("1h").await;
    let mut circuit = CutCircuit::open(&transport(&relay), Finished::Neither, false).await;
    begin_drain(&mut relay).await;
    relay.signal(SIGTERM);
    assert_drained(&mut relay, 0, 1).await;
    circuit.assert_cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_cut_by_a_second_signal_are_reset_over_tcp() {
    circuits_cut_by_a_second_signal_are_reset(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_cut_by_a_second_signal_are_reset_over_quic() {
    circuits_cut_by_a_second_signal_are_reset(Relay::quic).await;
}
