//! Noise: handshakes, and the frames behind one.

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

use crate::transport::noise::{Keys, accept, dial};

/// The keys of both sides. That of Noise itself is new for each handshake.
static KEYS: LazyLock<[Option<Keys>; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Keys::new(&Keypair::generate_ed25519()).ok()));

/// Takes `bytes` for what a dialler says, which proves nothing; and, behind an honest handshake, for
/// what somebody in between does to the frames.
///
/// In the second case each step begins with two bytes: what it is, and a length. What is read is
/// always the start of what the honest side has written, whatever comes between.
pub fn noise(bytes: &[u8]) {
    let [Some(ours), Some(theirs)] = &*KEYS else {
        panic!("an Ed25519 key can sign");
    };
    let stranger = Way::default();
    stranger.held().extend(bytes);
    stranger.end();
    let accepted = block_on(accept(
        ours.clone(),
        Socket::new(&stranger, &Way::default()),
    ));
    assert!(accepted.is_err(), "nobody has proved anything");

    let (there, back) = (Way::default(), Way::default());
    let dialled = dial(theirs.clone(), Socket::new(&back, &there));
    let accepted = accept(ours.clone(), Socket::new(&there, &back));
    let (Ok((_, mut near)), Ok((_, mut far))) = block_on(join(dialled, accepted)) else {
        panic!("both are honest");
    };
    let mut written = Vec::new();
    let mut rest = bytes;
    while let [step, length, tail @ ..] = rest {
        let (given, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        match step % 4 {
            // An honest frame.
            0 => {
                let sent = block_on(async {
                    near.write_all(given).await?;
                    near.flush().await
                });
                assert!(sent.is_ok());
                written.extend_from_slice(given);
            }
            // Bytes in between.
            1 => there.held().extend(given),
            // A byte that is another one on its way.
            2 => {
                let mut held = there.held();
                let at = held.len().saturating_sub(1 + usize::from(*length));
                if let Some(byte) = held.get_mut(at) {
                    *byte ^= step;
                }
            }
            // Bytes that do not arrive.
            _ => {
                let mut held = there.held();
                let left = held.len().saturating_sub(usize::from(*length));
                held.truncate(left);
            }
        }
    }
    there.end();
    let mut read = Vec::new();
    // It may well fail.
    let _ = block_on(far.read_to_end(&mut read));
    assert!(written.starts_with(&read), "{} bytes", read.len());
}

/// One direction of a socket, to which everybody has access.
#[derive(Clone, Default)]
struct Way {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    has_ended: Arc<AtomicBool>,
}

impl Way {
    fn held(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// One end of a socket. Whoever finds nothing asks again and again: the other end is in the same
/// task.
struct Socket {
    reads: Way,
    writes: Way,
}

impl Socket {
    fn new(reads: &Way, writes: &Way) -> Self {
        Self {
            reads: reads.clone(),
            writes: writes.clone(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.reads.held();
        if held.is_empty() && !self.reads.has_ended.load(Ordering::Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(held.read(buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.held().extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.end();
        Poll::Ready(Ok(()))
    }
}
