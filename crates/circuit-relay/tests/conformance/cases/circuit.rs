//! Open circuits: delivery of data, byte and time limits, and termination.

use std::time::Duration;

use circuit_relay::wire::Status;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use tokio::time::{Instant, timeout};

use crate::{
    case::Case,
    harness::{
        PATIENCE,
        answer::list,
        circuit::{self, Circuit, pattern, stop_status},
        client::{self, Client, Connection, End, read_to_end, write},
        net::Net,
        server::Server,
    },
};

/// Not a multiple of any buffer size.
const LIMIT: usize = 100_000;
const DURATION: Duration = Duration::from_secs(1);

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "the source finishes, then the target sends and finishes",
            source_finishes_first,
            "everything arrives, both ways",
        ),
        Case::new(
            "the target finishes, then the source sends and finishes",
            target_finishes_first,
            "everything arrives, both ways",
        ),
        Case::new(
            "data in the same write as CONNECT, and in the same write as the target's OK",
            data_with_handshake,
            "everything arrives, both ways",
        ),
        Case::new(
            "more data from the source than the limit allows",
            over_limit,
            "exactly the limit arrives",
        )
        .limits(limit_bytes)
        .differs(
            "another number of bytes arrives",
            "The limit is exact: every byte within it is delivered, and none beyond it.",
        ),
        Case::new(
            "more data from the target than the limit allows",
            over_limit_from_target,
            "exactly the limit arrives",
        )
        .limits(limit_bytes)
        .differs(
            "another number of bytes arrives",
            "The limit applies to both directions.",
        ),
        Case::new(
            "as much data one way as the limit allows, and its end",
            up_to_limit,
            "everything arrives",
        )
        .limits(limit_bytes),
        Case::new(
            "as much data as the limit allows, both ways",
            at_limit,
            "everything arrives, both ways",
        )
        .limits(limit_bytes)
        .differs(
            "the circuit is cut",
            "The limit of the specification counts each direction separately.",
        ),
        Case::new(
            "the end of a circuit that exceeds its data limit",
            over_limit_end,
            "Error, Error",
        )
        .limits(limit_bytes)
        .on(Net::RESETS),
        // Without a byte limit, which a fast machine would reach first.
        Case::new("a busy circuit at its maximum duration", busy, "it ends").limits(|limits| {
            limits.circuit.duration = Some(DURATION);
            limits.circuit.bytes = None;
        }),
        Case::new(
            "the end of an idle circuit at its maximum duration",
            idle,
            "Error, Error",
        )
        .limits(|limits| limits.circuit.duration = Some(DURATION))
        .on(Net::RESETS),
        Case::new(
            "the source resets its stream, then CONNECT when one circuit is allowed",
            source_resets,
            "Error, OK",
        )
        .limits(|limits| limits.circuits = Some(1))
        .on(Net::RESETS),
        Case::new(
            "the target resets its stream, then CONNECT when one circuit is allowed",
            target_resets,
            "Error, OK",
        )
        .limits(|limits| limits.circuits = Some(1))
        .on(Net::RESETS),
        Case::new(
            "the source's connection ends, then CONNECT when one circuit is allowed",
            source_disconnects,
            "Error, OK",
        )
        .limits(|limits| limits.circuits = Some(1))
        .on(Net::RESETS),
    ]
    .into_iter()
    .chain(blocked_cases())
    .collect()
}

/// Disconnects, and resets of a stream that the relay is not reading because of back-pressure.
fn blocked_cases() -> Vec<Case> {
    vec![
        Case::new(
            "the target's connection ends, then CONNECT when one circuit is allowed",
            target_disconnects,
            "Error, OK",
        )
        .limits(|limits| limits.circuits = Some(1))
        .on(Net::RESETS),
        blocked(
            "the source resets its stream while the target does not read, then CONNECT when one \
             circuit is allowed",
            source_resets_blocked,
        )
        .differs(SLOT_TAKEN, OUTLIVES),
        blocked(
            "the target resets its stream while the source does not read, then CONNECT when one \
             circuit is allowed",
            target_resets_blocked,
        )
        // Over QUIC, libp2p-relay sometimes detects it.
        .on(&[Net::Tcp, Net::WebSocket])
        .differs(SLOT_TAKEN, OUTLIVES),
        blocked(
            "the source's connection ends while the target does not read, then CONNECT when one \
             circuit is allowed",
            source_disconnects_blocked,
        ),
        blocked(
            "the source finishes, then resets its stream while the target sends nothing, then CONNECT \
             when one circuit is allowed",
            source_resets_after_end,
        )
        .differs(SLOT_TAKEN, OUTLIVES),
    ]
}

const SLOT_TAKEN: &str = "RESOURCE_LIMIT_EXCEEDED";
const OUTLIVES: &str = "A circuit ends with either side: a side that is not read, because the other side \
 is blocked or sends nothing, is still polled for failure.";

/// A case in which a side fails while back-pressure stops the relay from reading it.
fn blocked<F>(name: &'static str, run: fn(Server) -> F) -> Case
where
    F: Future<Output = String> + Send + 'static,
{
    Case::new(name, run, "OK")
        .limits(|limits| limits.circuits = Some(1))
        .on(Net::RESETS)
}

fn limit_bytes(limits: &mut circuit_relay::Limits) {
    limits.circuit.bytes = Some(LIMIT as u64);
}

/// Two clients with a circuit. Their connections close when the clients are dropped.
struct Pair {
    target: Client,
    reserving: Connection,
    source: Client,
    connection: Connection,
    circuit: Circuit,
}

async fn pair(relay: &Server) -> Pair {
    let (mut target, reserving) = Client::reserved(relay).await;
    let (source, connection) = Client::connected(relay).await;
    let circuit = circuit::open(&connection, &mut target).await.unwrap();
    Pair {
        target,
        reserving,
        source,
        connection,
        circuit,
    }
}

/// Sends `data` and closes the stream. Returns whether the other end received exactly that data.
async fn send_all(from: &mut Stream, to: &mut Stream, data: &[u8]) -> bool {
    let send = async {
        from.write_all(data).await.unwrap();
        from.close().await.unwrap();
    };
    let ((), (received, end)) = tokio::join!(send, read_to_end(to));
    received == data && end == End::Eof
}

fn describe_delivery(arrived: bool) -> String {
    if arrived {
        "everything arrives, both ways".into()
    } else {
        "something is lost".into()
    }
}

async fn source_finishes_first(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    let data = pattern(300_000);
    describe_delivery(
        send_all(source, target, &data).await && send_all(target, source, &data).await,
    )
}

async fn target_finishes_first(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    let data = pattern(300_000);
    describe_delivery(
        send_all(target, source, &data).await && send_all(source, target, &data).await,
    )
}

async fn data_with_handshake(relay: Server) -> String {
    let (mut target, _reserving) = Client::reserved(&relay).await;
    let (_source, source) = Client::connected(&relay).await;
    let with = |mut message: Vec<u8>, data: &[u8]| {
        message.extend(data);
        message
    };
    let request = with(client::connect(target.peer_id), b"from the source");
    let reply = with(stop_status(Status::Ok), b"from the target");
    let circuit = circuit::open_with_reply(&source, &mut target, &request, &reply).await;
    let Circuit {
        mut source,
        mut target,
        ..
    } = circuit.unwrap();
    source.close().await.unwrap();
    target.close().await.unwrap();
    let (at_target, at_source) = tokio::join!(read_to_end(&mut target), read_to_end(&mut source));
    describe_delivery(
        at_target == (b"from the source".to_vec(), End::Eof)
            && at_source == (b"from the target".to_vec(), End::Eof),
    )
}

async fn over_limit(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    send_too_much(source, target).await
}

async fn over_limit_from_target(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    send_too_much(target, source).await
}

async fn send_too_much(from: &mut Stream, to: &mut Stream) -> String {
    let data = pattern(2 * LIMIT);
    let ((), (received, _)) = tokio::join!(write(from, &data), read_to_end(to));
    assert!(data.starts_with(&received));
    match received.len() {
        LIMIT => "exactly the limit arrives".into(),
        _ => "another number of bytes arrives".into(),
    }
}

async fn up_to_limit(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    if send_all(source, target, &pattern(LIMIT)).await {
        "everything arrives".into()
    } else {
        "something is lost".into()
    }
}

async fn at_limit(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    if send_limit(source, target).await && send_limit(target, source).await {
        describe_delivery(true)
    } else {
        "the circuit is cut".into()
    }
}

/// Sends as many bytes as the limit allows and leaves the stream open.
async fn send_limit(from: &mut Stream, to: &mut Stream) -> bool {
    let data = pattern(LIMIT);
    let mut received = vec![0; LIMIT];
    let read = timeout(PATIENCE, to.read_exact(&mut received));
    let ((), read) = tokio::join!(write(from, &data), read);
    read.expect("data or its end in time").is_ok() && received == data
}

async fn over_limit_end(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    let data = pattern(2 * LIMIT);
    let ((), (_, at_target)) = tokio::join!(write(source, &data), read_to_end(target));
    let (_, at_source) = read_to_end(source).await;
    format!("{at_target:?}, {at_source:?}")
}

async fn busy(relay: Server) -> String {
    let before = Instant::now();
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    let data = pattern(4096);
    let keep_busy = async { while source.write_all(&data).await.is_ok() {} };
    let read = async {
        let mut chunk = vec![0; 65536];
        while target.read(&mut chunk).await.is_ok_and(|read| read > 0) {}
    };
    let both = async { tokio::join!(keep_busy, read) };
    if timeout(PATIENCE, both).await.is_err() {
        return "it continues".into();
    }
    let lived = before.elapsed();
    assert!(lived >= DURATION, "it ends after {lived:?}");
    "it ends".into()
}

async fn idle(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    let ((_, at_target), (_, at_source)) = tokio::join!(read_to_end(target), read_to_end(source));
    format!("{at_target:?}, {at_source:?}")
}

/// How the remaining stream ends, and whether the circuit's slot is free afterwards.
async fn end_and_next_status(mut left: Stream, source: &Connection, target: &mut Client) -> String {
    let (_, end) = read_to_end(&mut left).await;
    let next = circuit::open_until_free(source, target).await;
    list([format!("{end:?}"), next.to_string()])
}

async fn source_resets(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    drop(pair.circuit.source);
    end_and_next_status(pair.circuit.target, &pair.connection, &mut pair.target).await
}

async fn target_resets(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    drop(pair.circuit.target);
    end_and_next_status(pair.circuit.source, &pair.connection, &mut pair.target).await
}

async fn source_disconnects(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let (_other, other) = Client::connected(&relay).await;
    pair.source.disconnect(&pair.connection).await;
    end_and_next_status(pair.circuit.target, &other, &mut pair.target).await
}

/// Writes until back-pressure blocks, because the other end does not read.
async fn fill(stream: &mut Stream) {
    let chunk = pattern(64 * 1024);
    let stalled = Duration::from_secs(2);
    while timeout(stalled, stream.write(&chunk))
        .await
        .is_ok_and(|written| written.is_ok())
    {}
}

async fn source_resets_blocked(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    fill(&mut pair.circuit.source).await;
    drop(pair.circuit.source);
    let next = circuit::open_until_free(&pair.connection, &mut pair.target).await;
    next.to_string()
}

async fn target_resets_blocked(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    fill(&mut pair.circuit.target).await;
    drop(pair.circuit.target);
    let next = circuit::open_until_free(&pair.connection, &mut pair.target).await;
    next.to_string()
}

async fn source_disconnects_blocked(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let (_other, other) = Client::connected(&relay).await;
    fill(&mut pair.circuit.source).await;
    pair.source.disconnect(&pair.connection).await;
    let next = circuit::open_until_free(&other, &mut pair.target).await;
    next.to_string()
}

async fn source_resets_after_end(relay: Server) -> String {
    let mut pair = pair(&relay).await;
    let Circuit { source, target, .. } = &mut pair.circuit;
    // Unread data turns the close into a reset.
    write(target, b"unread").await;
    source.read_exact(&mut [0]).await.unwrap();
    source.close().await.unwrap();
    assert_eq!(read_to_end(target).await, (Vec::new(), End::Eof));
    drop(pair.circuit.source);
    let next = circuit::open_until_free(&pair.connection, &mut pair.target).await;
    next.to_string()
}

async fn target_disconnects(relay: Server) -> String {
    let pair = pair(&relay).await;
    let (mut other, _reserving) = Client::reserved(&relay).await;
    pair.target.disconnect(&pair.reserving).await;
    end_and_next_status(pair.circuit.source, &pair.connection, &mut other).await
}
