//! Circuits between raw clients.

use std::{pin::pin, time::Duration};

use circuit_relay::wire::{self, Status, StopMessage, StopType};
use futures::{
    AsyncReadExt, AsyncWriteExt,
    future::{self, Either},
};
use libp2p::{Stream, swarm::ConnectionId};
use tokio::time::timeout;

use super::{
    PATIENCE,
    answer::Answer,
    client::{Client, Connection, connect, frame, write},
};

/// An open circuit: the streams of both clients.
#[derive(Debug)]
pub struct Circuit {
    pub source: Stream,
    pub target: Stream,
    /// The relay's response to the source.
    pub answer: Answer,
    /// The relay's STOP request to the target.
    pub stop: StopMessage,
    /// The target's connection that carries the circuit.
    pub over: ConnectionId,
}

/// An encoded STOP response with this status.
pub fn stop_status(status: Status) -> Vec<u8> {
    frame(&StopMessage {
        kind: Some(StopType::Status.into()),
        status: Some(status.into()),
        ..StopMessage::default()
    })
}

/// Opens a circuit. Fails with the response that denies it.
pub async fn open(source: &Connection, target: &mut Client) -> Result<Circuit, Answer> {
    let request = connect(target.peer_id);
    open_with_reply(source, target, &request, &stop_status(Status::Ok)).await
}

/// The target sends a byte, and the source receives it. Marks the circuit as used.
pub async fn send_first_byte(circuit: &mut Circuit) {
    circuit
        .target
        .write_all(b"x")
        .await
        .expect("the target writes");
    circuit.target.flush().await.expect("the target flushes");
    let mut byte = [0];
    let read = circuit.source.read_exact(&mut byte);
    timeout(PATIENCE, read)
        .await
        .expect("a byte in time")
        .expect("a byte");
}

/// The response to the source if the target responds to STOP with these bytes.
pub async fn connect_status(source: &Connection, target: &mut Client, reply: &[u8]) -> Answer {
    let request = connect(target.peer_id);
    match open_with_reply(source, target, &request, reply).await {
        Ok(circuit) => circuit.answer,
        Err(answer) => answer,
    }
}

/// The source sends `request`, and the target responds to the following STOP with `reply`.
pub async fn open_with_reply(
    source: &Connection,
    target: &mut Client,
    request: &[u8],
    reply: &[u8],
) -> Result<Circuit, Answer> {
    let accept = pin!(async {
        let (over, mut stream) = target.stop().await;
        let stop = timeout(PATIENCE, wire::read(&mut stream)).await;
        let stop: StopMessage = stop.expect("a STOP in time").expect("a STOP");
        write(&mut stream, reply).await;
        (over, stop, stream)
    });
    let ask = pin!(source.request(request));
    let ((over, stop, target), (answer, source)) = match future::select(accept, ask).await {
        Either::Left((accepted, ask)) => (accepted, ask.await),
        Either::Right((asked, accept)) if asked.0.is(Status::Ok) => (accept.await, asked),
        Either::Right(((denied, _), _)) => return Err(denied),
    };
    match source {
        Some(source) if answer.is(Status::Ok) => Ok(Circuit {
            source,
            target,
            answer,
            stop,
            over,
        }),
        _ => Err(answer),
    }
}

/// A deterministic pattern in which losses and reordering are visible.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n * 31 % 251).unwrap())
        .collect()
}

/// Retries until a circuit is accepted. Returns the last response.
pub async fn open_until_free(source: &Connection, target: &mut Client) -> Answer {
    let mut last = Answer::Silence;
    let _ = timeout(PATIENCE, async {
        loop {
            match open(source, target).await {
                Ok(circuit) => {
                    last = circuit.answer;
                    return;
                }
                Err(denied) => last = denied,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    last
}
