//! DNS over TCP, for answers that do not fit into a packet and for clients beyond the limit.
//!
//! An address cannot be forged here, so answers are not limited; connections are, in number, for
//! each network, and in time.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::debug;

use super::{answer::Transport, limit::Network, server::Answerer};
use crate::lifecycle::Lifecycle;

/// Connections at once; more are closed.
const MAX_CONNECTIONS: usize = 256;
/// Connections at once from one /24 or /56.
const MAX_CONNECTIONS_PER_NETWORK: usize = 32;
/// How long a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a question may take, from the end of the last answer on, and an answer.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions on one connection.
const MAX_QUESTIONS: usize = 100;
/// Bytes of a question.
const MAX_QUESTION_BYTES: usize = 2048;
/// The rest after an error of the listener that may last.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Answers on one listener.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    answerer: Answerer,
    lifecycle: Lifecycle,
    slots: Slots,
}

impl Door {
    pub(super) fn new(listener: TcpListener, answerer: Answerer, lifecycle: Lifecycle) -> Self {
        Self {
            listener,
            answerer,
            lifecycle,
            slots: Slots::default(),
        }
    }

    pub(super) async fn run(self) {
        loop {
            let (stream, from) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Too many open files, most likely: some will be closed.
                    debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let Some(slot) = self.slots.take(from.ip().into()) else {
                debug!(%from, "too many connections");
                continue;
            };
            let answerer = self.answerer.clone();
            self.lifecycle
                .spawn_cancellable("dns connection", async move {
                    let conversation = converse(&answerer, stream);
                    if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, conversation).await {
                        debug!(%from, %error, "a connection failed");
                    }
                    drop(slot);
                });
        }
    }
}

/// Answers one question after the other.
async fn converse(answerer: &Answerer, mut stream: TcpStream) -> io::Result<()> {
    for _ in 0..MAX_QUESTIONS {
        let question = timeout(STEP_TIMEOUT, read(&mut stream)).await??;
        let Some(answer) = question.and_then(|q| answerer.answer(&q, Transport::Tcp)) else {
            break;
        };
        let Ok(length) = u16::try_from(answer.len()) else {
            break;
        };
        // In one piece: some clients expect the length and the message in one packet.
        let message = [length.to_be_bytes().as_slice(), &answer].concat();
        timeout(STEP_TIMEOUT, stream.write_all(&message)).await??;
    }
    timeout(STEP_TIMEOUT, stream.shutdown()).await?
}

/// One question; `None` at the end, and for one that is longer than any that makes sense.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MAX_QUESTION_BYTES {
        return Ok(None);
    }
    let mut question = vec![0; length];
    stream.read_exact(&mut question).await?;
    Ok(Some(question))
}

/// The connections that are open, by network.
#[derive(Clone, Debug, Default)]
struct Slots(Arc<Mutex<HashMap<Network, usize>>>);

/// A connection that counts until this is dropped.
#[derive(Debug)]
struct Slot {
    slots: Slots,
    network: Network,
}

impl Slots {
    fn take(&self, network: Network) -> Option<Slot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(&network).copied().unwrap_or(0);
        let all: usize = open.values().sum();
        if own >= MAX_CONNECTIONS_PER_NETWORK || all >= MAX_CONNECTIONS {
            return None;
        }
        open.insert(network, own + 1);
        Some(Slot {
            slots: self.clone(),
            network,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.network) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn network(n: usize) -> Network {
        let n = u32::try_from(n).unwrap();
        Network::from(std::net::IpAddr::from(Ipv4Addr::from_bits(n << 8)))
    }

    #[test]
    fn connections_are_bounded_for_each_network_and_in_all() {
        let slots = Slots::default();
        let mut taken: Vec<_> = (0..MAX_CONNECTIONS_PER_NETWORK)
            .map(|_| slots.take(network(0)).unwrap())
            .collect();
        assert!(slots.take(network(0)).is_none());
        while let Some(slot) = slots.take(network(taken.len())) {
            taken.push(slot);
        }
        assert_eq!(taken.len(), MAX_CONNECTIONS);
        taken.clear();
        assert!(slots.0.lock().unwrap().is_empty());
    }
}
