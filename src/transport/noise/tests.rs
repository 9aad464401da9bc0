//! Tests over pairs of channels, and against bytes that are made by hand.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    iter,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, executor::block_on};
use libp2p::identity::Keypair;

use super::*;

mod frames;
mod hostile;
mod interop;

/// One direction of a socket in memory.
#[derive(Clone, Default)]
struct Way(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    bytes: VecDeque<u8>,
    is_closed: bool,
    /// How many calls have brought bytes.
    writes: usize,
    reader: Option<Waker>,
}

impl Way {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    /// Takes everything that was written.
    fn take(&self) -> Vec<u8> {
        self.held().bytes.drain(..).collect()
    }

    fn put(&self, bytes: &[u8]) {
        let mut held = self.held();
        held.bytes.extend(bytes);
        held.reader.take().into_iter().for_each(Waker::wake);
    }

    fn close(&self) {
        let mut held = self.held();
        held.is_closed = true;
        held.reader.take().into_iter().for_each(Waker::wake);
    }
}

/// How much goes through at once, call by call; at a zero, whoever calls has to come again.
type Rhythm = Box<dyn Iterator<Item = usize> + Send>;

fn smooth() -> Rhythm {
    Box::new(iter::repeat(usize::MAX))
}

/// One end of a socket in memory.
struct Socket {
    reads: Way,
    writes: Way,
    read_rhythm: Rhythm,
    write_rhythm: Rhythm,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.writes.close();
    }
}

fn sockets() -> (Socket, Socket) {
    let (there, back) = (Way::default(), Way::default());
    let end = |reads: &Way, writes: &Way| Socket {
        reads: reads.clone(),
        writes: writes.clone(),
        read_rhythm: smooth(),
        write_rhythm: smooth(),
    };
    (end(&back, &there), end(&there, &back))
}

/// The next step of a rhythm.
fn step(rhythm: &mut Rhythm, cx: &mut Context<'_>) -> Poll<usize> {
    match rhythm.next() {
        Some(0) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Some(most) => Poll::Ready(most),
        None => Poll::Pending,
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let reads = self.reads.clone();
        let mut held = reads.held();
        if held.bytes.is_empty() && !held.is_closed {
            held.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let most = std::task::ready!(step(&mut self.read_rhythm, cx)).min(buffer.len());
        Poll::Ready(held.bytes.read(&mut buffer[..most]))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = std::task::ready!(step(&mut self.write_rhythm, cx)).min(bytes.len());
        self.writes.put(&bytes[..most]);
        self.writes.held().writes += 1;
        Poll::Ready(Ok(most))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.close();
        Poll::Ready(Ok(()))
    }
}

fn keys() -> Keys {
    Keys::new(&Keypair::generate_ed25519()).unwrap()
}

/// Both ends of a channel: the dialler's and the acceptor's.
fn channels() -> (Channel<Socket>, Channel<Socket>) {
    let (near, far) = sockets();
    let both = futures::future::join(dial(keys(), near), accept(keys(), far));
    let (dialled, accepted) = block_on(both);
    (dialled.unwrap().1, accepted.unwrap().1)
}

/// Bytes that look different everywhere.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at * 31 % 251).unwrap())
        .collect()
}
