//! An in-memory socket for tests, whose sizes of reads and writes are controlled by the test.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    iter,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use proptest::{collection::vec, prelude::*};

/// One direction of an in-memory socket.
#[derive(Clone, Default)]
pub(super) struct Pipe(Arc<Mutex<PipeState>>);

#[derive(Default)]
pub(super) struct PipeState {
    bytes: VecDeque<u8>,
    is_closed: bool,
    /// The number of writes.
    pub(super) writes: usize,
    reader: Option<Waker>,
}

impl Pipe {
    pub(super) fn state(&self) -> MutexGuard<'_, PipeState> {
        self.0.lock().unwrap()
    }

    /// Removes and returns everything that was written.
    pub(super) fn take(&self) -> Vec<u8> {
        self.state().bytes.drain(..).collect()
    }

    pub(super) fn put(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.bytes.extend(bytes);
        state.reader.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.reader.take().into_iter().for_each(Waker::wake);
    }
}

/// The maximum number of bytes of each successive call. At a zero, the call is pending and the task is
/// woken.
pub(super) type TransferSizes = Box<dyn Iterator<Item = usize> + Send>;

pub(super) fn unlimited() -> TransferSizes {
    Box::new(iter::repeat(usize::MAX))
}

/// One end of an in-memory socket.
pub(super) struct MemorySocket {
    pub(super) reads: Pipe,
    pub(super) writes: Pipe,
    pub(super) read_sizes: TransferSizes,
    pub(super) write_sizes: TransferSizes,
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        self.writes.close();
    }
}

pub(super) fn memory_sockets() -> (MemorySocket, MemorySocket) {
    let (forward, backward) = (Pipe::default(), Pipe::default());
    let end = |reads: &Pipe, writes: &Pipe| MemorySocket {
        reads: reads.clone(),
        writes: writes.clone(),
        read_sizes: unlimited(),
        write_sizes: unlimited(),
    };
    (end(&backward, &forward), end(&forward, &backward))
}

/// The maximum size of the next call.
fn step(sizes: &mut TransferSizes, cx: &mut Context<'_>) -> Poll<usize> {
    match sizes.next() {
        Some(0) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Some(limit) => Poll::Ready(limit),
        None => Poll::Pending,
    }
}

impl AsyncRead for MemorySocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let reads = self.reads.clone();
        let mut state = reads.state();
        if state.bytes.is_empty() && !state.is_closed {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let limit = ready!(step(&mut self.read_sizes, cx)).min(buffer.len());
        Poll::Ready(state.bytes.read(&mut buffer[..limit]))
    }
}

impl AsyncWrite for MemorySocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let limit = ready!(step(&mut self.write_sizes, cx)).min(bytes.len());
        self.writes.put(&bytes[..limit]);
        self.writes.state().writes += 1;
        Poll::Ready(Ok(limit))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.close();
        Poll::Ready(Ok(()))
    }
}

/// A sequence of sizes that contains a large one, so that transfers terminate.
pub(super) fn steps() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![0..4_usize, 0..5000_usize, 0..200_000_usize];
    vec(size, 0..8).prop_map(|mut steps| {
        steps.push(100_000);
        steps
    })
}

/// These sizes, repeated indefinitely.
pub(super) fn repeated(steps: Vec<usize>) -> TransferSizes {
    Box::new(steps.into_iter().cycle())
}

/// Bytes in which lost or repeated parts are detectable.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at * 31 % 251).unwrap())
        .collect()
}

/// Writes all of `bytes` to `stream` in parts of these lengths, each of which may be followed by a flush,
/// and closes it. `held` is the memory that the stream takes, at most `max` bytes.
pub(super) async fn write_in_parts<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    parts: Vec<(usize, bool)>,
    held: impl Fn(&S) -> usize,
    max: usize,
) {
    let mut rest = bytes;
    for (length, flush) in parts {
        let (now, later) = rest.split_at(length);
        stream.write_all(now).await.unwrap();
        assert!(held(stream) <= max, "{}", held(stream));
        rest = later;
        if flush {
            stream.flush().await.unwrap();
            assert_eq!(held(stream), 0);
        }
    }
    stream.close().await.unwrap();
}

/// Reads `stream` to its end in parts of these sizes. `held` is the memory that the stream takes, at most
/// `max` bytes.
pub(super) async fn read_in_parts<S: AsyncRead + Unpin>(
    stream: &mut S,
    sizes: Vec<usize>,
    held: impl Fn(&S) -> usize,
    max: usize,
) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 200_000];
    for size in sizes.into_iter().cycle() {
        let read = stream.read(&mut buffer[..size]).await.unwrap();
        assert!(held(stream) <= max, "{}", held(stream));
        all.extend_from_slice(&buffer[..read]);
        if read == 0 && size > 0 {
            break;
        }
    }
    all
}
