//! In-memory streams with negligible cost.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};

/// One direction of a [`pipe`], with an unbounded buffer.
#[derive(Clone, Default)]
pub(crate) struct Way(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
    is_discarded: bool,
}

impl Way {
    /// Discards data from now on, because there is no reader.
    pub(crate) fn discard(&self) {
        self.0.lock().unwrap().is_discarded = true;
    }
}

/// One end of a pipe.
pub(crate) struct End {
    reads: Way,
    writes: Way,
}

/// Two connected ends.
pub(crate) fn pipe() -> (End, End) {
    let (there, back) = (Way::default(), Way::default());
    let near = End {
        reads: back.clone(),
        writes: there.clone(),
    };
    let far = End {
        reads: there,
        writes: back,
    };
    (near, far)
}

impl End {
    /// The direction that this end reads.
    pub(crate) fn reads(&self) -> Way {
        self.reads.clone()
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.reads.0.lock().unwrap();
        if held.bytes.is_empty() {
            held.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(held.bytes.read(buffer))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.writes.0.lock().unwrap();
        if !held.is_discarded {
            held.bytes.extend(bytes);
            if let Some(reader) = held.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A stream with this many zero bytes to read, which accepts all writes.
pub(crate) struct Zeros {
    left: usize,
}

impl Zeros {
    pub(crate) fn of(bytes: usize) -> Self {
        Self { left: bytes }
    }
}

impl AsyncRead for Zeros {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = buffer.len().min(self.left);
        buffer.iter_mut().take(read).for_each(|byte| *byte = 0);
        self.left -= read;
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Zeros {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
