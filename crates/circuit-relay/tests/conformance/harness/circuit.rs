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

/// An open circuit: the ends that the clients hold.
#[derive(Debug)]
pub struct Circuit {
    pub source: Stream,
    pub target: Stream,
    /// The relay's answer to the source.
    pub answer: Answer,
    /// The relay's request to the target.
    pub stop: StopMessage,
    /// Which of the target's connections was taken.
    pub over: ConnectionId,
}

/// The bytes of the target's answer.
pub fn stop_status(status: Status) -> Vec<u8> {
    frame(&StopMessage {
        kind: Some(StopType::Status.into()),
        status: Some(status.into()),
        ..StopMessage::default()
    })
}

/// Opens a circuit, or gives the answer that denies it.
pub async fn open(source: &Connection, target: &mut Client) -> Result<Circuit, Answer> {
    let request = connect(target.peer_id);
    answered(source, target, &request, &stop_status(Status::Ok)).await
}

/// The target sends a byte, and the source receives it.
pub async fn use_it(circuit: &mut Circuit) {
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

/// The answer to the source when the target answers STOP with these bytes.
pub async fn told(source: &Connection, target: &mut Client, reply: &[u8]) -> Answer {
    let request = connect(target.peer_id);
    match answered(source, target, &request, reply).await {
        Ok(circuit) => circuit.answer,
        Err(answer) => answer,
    }
}

/// The source sends `request`, and the target answers the STOP that follows with `reply`.
pub async fn answered(
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

/// `length` bytes that are unlikely to come out in this order by chance.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n * 31 % 251).unwrap())
        .collect()
}

/// Opens circuits until a slot is free for one, and gives the last answer.
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
