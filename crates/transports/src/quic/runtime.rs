//! quinn's runtime on tokio, with [coalesced timers](timer_coalescing) and
//! [batched sends](super::send_batching).

use std::{
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime as _, TokioRuntime};

use super::{
    send_batching::{BatchedTask, BatchingUdpSocket},
    udp,
};
use crate::{observer::Observer, timer_coalescing};

/// The minimum duration of timers that are coalesced: idle timeouts and keep-alives, for which latency
/// does not matter. Delayed acknowledgements and loss detection have shorter timers, except for
/// retransmissions that were backed off repeatedly; a tenth more does no harm to those.
const MIN_COALESCED_DELAY: Duration = Duration::from_secs(1);

/// The maximum delay of coalesced timers. It is short enough to spread the packets of thousands of idle
/// peers, and their replies, over time.
const COALESCING_INTERVAL: Duration = Duration::from_millis(100);

/// See the documentation of [the module](self).
#[derive(Debug)]
pub(super) struct Runtime {
    observer: Arc<dyn Observer>,
}

impl Runtime {
    /// Creates a runtime; events of its sockets are reported to `observer`.
    pub(super) fn new(observer: Arc<dyn Observer>) -> Self {
        Self { observer }
    }

    fn coalesced(at: Instant) -> Instant {
        if at.saturating_duration_since(TokioRuntime.now()) < MIN_COALESCED_DELAY {
            at
        } else {
            timer_coalescing::round_up(at, COALESCING_INTERVAL)
        }
    }
}

impl quinn::Runtime for Runtime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer(TokioRuntime.new_timer(Self::coalesced(at))))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(Box::pin(BatchedTask::new(future)));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = udp::UdpSocket::new(socket, self.observer.clone())?;
        Ok(Arc::new(BatchingUdpSocket::new(Arc::new(socket))))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

#[derive(Debug)]
struct Timer(Pin<Box<dyn AsyncTimer>>);

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.as_mut().reset(Runtime::coalesced(at));
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
