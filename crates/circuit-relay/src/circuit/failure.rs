//! Detects the failure of a side that is not being read, because the other side is blocked or
//! because it is at EOF.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::AsyncRead;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFuture;

use super::{Direction, EndReason, State};

/// How long a circuit stays open without progress after a side has sent all of its data and stopped
/// reading. A slow reader still gets the remaining data; a reader that reads nothing does not keep
/// the circuit open.
const UNREAD_GRACE: Duration = Duration::from_secs(5);

/// Failure of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Data of the side is lost, or the circuit cannot make progress any more.
    Ended(EndReason),
    /// The side has sent all of its data and has stopped reading.
    Unread(EndReason),
}

/// Polls a stream for failure with a zero-length read. The relay's transports report one even if
/// unread data is buffered; other streams never do.
pub(super) fn poll_failure<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
) -> Poll<io::Error> {
    match Pin::new(stream).poll_read(cx, &mut []) {
        Poll::Ready(Err(error)) => Poll::Ready(error),
        Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
    }
}

/// Whether the data of the side is complete despite this error of [`poll_failure`].
pub(super) fn is_complete(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Checks the side that `direction` reads from for failure, if it is not being read now.
pub(super) fn find<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    direction: &Direction,
    stream: &mut S,
    closed: Pin<&mut WaitForCancellationFuture<'_>>,
) -> Option<Failure> {
    if !direction.is_paused() {
        return None;
    }
    let is_closed = closed.poll(cx).is_ready();
    if is_closed && direction.state == State::Closed {
        return Some(Failure::Ended(EndReason::Io));
    }
    match poll_failure(cx, stream) {
        Poll::Ready(error) if is_complete(&error) && is_closed => {
            Some(Failure::Unread(EndReason::Io))
        }
        Poll::Ready(error) if is_complete(&error) => Some(Failure::Unread(EndReason::Reset)),
        Poll::Ready(error) => Some(Failure::Ended(error.into())),
        Poll::Pending if is_closed && direction.state == State::Closing => {
            Some(Failure::Unread(EndReason::Io))
        }
        Poll::Pending if is_closed => Some(Failure::Ended(EndReason::Io)),
        Poll::Pending => None,
    }
}

/// Remaining time of a circuit of which one side has stopped reading.
#[derive(Debug, Default)]
pub(super) struct Grace(Option<Pin<Box<Sleep>>>);

impl Grace {
    /// Ready when the circuit ends because of the failures of its sides. A failure that leaves data
    /// complete ends it when it has made no progress for [`UNREAD_GRACE`]. `has_moved` is whether it
    /// made progress since the last call.
    pub(super) fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
        failures: (Option<Failure>, Option<Failure>),
        has_moved: bool,
    ) -> Poll<EndReason> {
        match failures {
            (Some(Failure::Ended(end)), _) | (_, Some(Failure::Ended(end))) => Poll::Ready(end),
            (Some(Failure::Unread(end)), _) | (_, Some(Failure::Unread(end))) => {
                let timer = self.0.get_or_insert_with(|| Box::pin(sleep(UNREAD_GRACE)));
                if has_moved {
                    timer.as_mut().reset(Instant::now() + UNREAD_GRACE);
                }
                timer.as_mut().poll(cx).map(|()| end)
            }
            (None, None) => {
                self.0 = None;
                Poll::Pending
            }
        }
    }
}
