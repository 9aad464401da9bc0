//! Noise: the handshake, and the frames after it.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, executor::block_on, future::join,
};
use libp2p::identity::Keypair;

use crate::noise::{Keys, accept, dial};

/// The identity keys of both sides. The static keys of Noise are new for each handshake.
static KEYS: LazyLock<[Option<Keys>; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Keys::new(&Keypair::generate_ed25519()).ok()));

/// Uses `bytes` as the messages of an unauthenticated dialler, and as modifications of the frames after
/// a regular handshake.
///
/// In the second case, each step starts with two bytes, its kind and a length. The plaintext that is
/// read is always a prefix of the plaintext that was written.
pub fn noise(bytes: &[u8]) {
    let [Some(ours), Some(theirs)] = &*KEYS else {
        panic!("Ed25519 keys can sign");
    };
    let unauthenticated = Pipe::default();
    unauthenticated.buffer().extend(bytes);
    unauthenticated.close();
    let accepted = block_on(accept(
        ours.clone(),
        PipeEnd::new(&unauthenticated, &Pipe::default()),
    ));
    assert!(accepted.is_err(), "the dialler is not authenticated");

    let (there, back) = (Pipe::default(), Pipe::default());
    let dialled = dial(theirs.clone(), PipeEnd::new(&back, &there));
    let accepted = accept(ours.clone(), PipeEnd::new(&there, &back));
    let (Ok((_, mut near)), Ok((_, mut far))) = block_on(join(dialled, accepted)) else {
        panic!("the handshake is regular");
    };
    let mut written = Vec::new();
    let mut rest = bytes;
    while let [step, length, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        match step % 4 {
            // Write a regular frame.
            0 => {
                let sent = block_on(async {
                    near.write_all(payload).await?;
                    near.flush().await
                });
                assert!(sent.is_ok());
                written.extend_from_slice(payload);
            }
            // Insert bytes.
            1 => there.buffer().extend(payload),
            // Change a byte.
            2 => {
                let mut buffer = there.buffer();
                let at = buffer.len().saturating_sub(1 + usize::from(*length));
                if let Some(byte) = buffer.get_mut(at) {
                    *byte ^= step;
                }
            }
            // Remove bytes.
            _ => {
                let mut buffer = there.buffer();
                let left = buffer.len().saturating_sub(usize::from(*length));
                buffer.truncate(left);
            }
        }
    }
    there.close();
    let mut read = Vec::new();
    // A read error is expected after a modification.
    let _ = block_on(far.read_to_end(&mut read));
    assert!(written.starts_with(&read), "{} bytes", read.len());
}

/// One direction of a connection, with access to the bytes in transit.
#[derive(Clone, Default)]
struct Pipe {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    is_closed: Arc<AtomicBool>,
}

impl Pipe {
    fn buffer(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

/// One end of a connection. A read without data wakes the task again at once, because the other end is
/// part of the same task.
struct PipeEnd {
    reads: Pipe,
    writes: Pipe,
}

impl PipeEnd {
    fn new(reads: &Pipe, writes: &Pipe) -> Self {
        Self {
            reads: reads.clone(),
            writes: writes.clone(),
        }
    }
}

impl AsyncRead for PipeEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut queued = self.reads.buffer();
        if queued.is_empty() && !self.reads.is_closed.load(Ordering::Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(queued.read(buffer))
    }
}

impl AsyncWrite for PipeEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.buffer().extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.close();
        Poll::Ready(Ok(()))
    }
}
