//! Batching of sends: the datagrams of one task poll leave in one `sendmsg` call with generic
//! segmentation offload (GSO).
//!
//! quinn passes the socket at most ten datagrams at a time, and yields after twenty. A system call
//! costs more than copying the bytes, so datagrams of equal length to the same peer are collected
//! during a poll of the connection's task, and sent when the poll ends. If quinn yielded because of
//! its limit, the task is polled a second time before that.
//!
//! # States of a batch
//!
//! | state | where the batch is | transition |
//! |---|---|---|
//! | collecting | in the thread-local [`PollBatch`], while a [`BatchedTask`] is polled | the poll ends, or a datagram does not fit: [`flush`](PollBatch::flush) |
//! | sent | nowhere; its allocation is reused | |
//! | blocked | in [`BatchedTask::blocked`], with a poller that wakes the task when the socket is writable | the next poll moves it back to the thread-local value |
//!
//! A batch is moved, never copied, so each datagram is in exactly one place and is sent once. As long
//! as a batch is not sent, later sends of the task either join it or fail with `WouldBlock`, so they
//! cannot overtake it.

use std::{
    cell::RefCell,
    future::Future,
    io::{self, IoSliceMut},
    mem,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use stream_io::deferred_wake::DeferredWaker;

/// quinn yields after this number of datagrams, whether or not there are more.
pub(super) const PACKETS_PER_POLL: usize = 20;

/// The maximum length of a batch in bytes: two polls' worth of datagrams of internet size. A GSO send
/// is limited to 64 KiB.
const MAX_BATCH_BYTES: usize = 60 * 1024;

/// Datagrams of one length to one peer.
#[derive(Debug)]
struct Batch {
    socket: Arc<dyn AsyncUdpSocket>,
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
    segment_size: usize,
    contents: Vec<u8>,
}

impl Batch {
    /// Whether another datagram may follow. GSO allows only the last segment to be shorter.
    fn is_open(&self) -> bool {
        self.contents.len().is_multiple_of(self.segment_size)
    }

    /// Whether `more` may be appended: all that a single GSO send has in common is equal, and neither
    /// the kernel's number of segments nor the length is exceeded.
    fn accepts(&self, more: &Transmit<'_>) -> bool {
        let bytes = self.contents.len().saturating_add(more.contents.len());
        let max = self
            .segment_size
            .saturating_mul(self.socket.max_transmit_segments());
        self.is_open()
            && bytes <= max.min(MAX_BATCH_BYTES)
            && self.destination == more.destination
            && self.ecn == more.ecn
            && self.src_ip == more.src_ip
            && match more.segment_size {
                Some(size) => size == self.segment_size,
                None => more.contents.len() <= self.segment_size,
            }
    }

    fn send(&self) -> io::Result<()> {
        self.socket.try_send(&Transmit {
            destination: self.destination,
            ecn: self.ecn,
            contents: &self.contents,
            segment_size: Some(self.segment_size),
            src_ip: self.src_ip,
        })
    }
}

/// The datagrams that the task that is polled on this thread has sent, and the system not yet.
#[derive(Default)]
struct PollBatch {
    /// Whether a [`BatchedTask`] is being polled. Sends outside of one are not batched, as nothing
    /// would flush them.
    is_active: bool,
    batch: Option<Batch>,
    /// The allocation of the next batch.
    spare: Vec<u8>,
}

thread_local! {
    static CURRENT: RefCell<PollBatch> = RefCell::new(PollBatch::default());
}

impl PollBatch {
    /// Sends the batch.
    ///
    /// # Errors
    /// `WouldBlock` if the socket's buffer is full; the batch is kept then. After any other error it
    /// is dropped: QUIC retransmits lost datagrams.
    fn flush(&mut self) -> io::Result<()> {
        let Some(batch) = self.batch.take() else {
            return Ok(());
        };
        match batch.send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.batch = Some(batch);
                Err(error)
            }
            sent => {
                self.spare = batch.contents;
                self.spare.clear();
                sent
            }
        }
    }

    /// Whether quinn has sent as many datagrams as it does in a poll, so that there may be more.
    fn may_have_more(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| {
            let bytes = batch.segment_size.saturating_mul(PACKETS_PER_POLL);
            batch.is_open() && batch.contents.len() == bytes
        })
    }

    /// Appends `packets` to the batch, or sends the batch and begins a new one.
    fn send(&mut self, socket: &Arc<dyn AsyncUdpSocket>, packets: &Transmit<'_>) -> io::Result<()> {
        if let Some(batch) = &mut self.batch
            && !Arc::ptr_eq(&batch.socket, socket)
        {
            // The endpoint was rebound to another socket, which now also sends what is left.
            batch.socket = Arc::clone(socket);
        }
        if let Some(batch) = self.batch.as_mut().filter(|batch| batch.accepts(packets)) {
            batch.contents.extend_from_slice(packets.contents);
            return Ok(());
        }
        // If this would block, `packets` are not taken, and quinn sends them again: the order is
        // preserved.
        self.flush()?;
        let segment_size = packets.segment_size.filter(|_| self.is_active);
        let Some(segment_size) = segment_size.filter(|size| *size > 0) else {
            // A single datagram, such as an acknowledgement, is not worth a copy.
            return socket.try_send(packets);
        };
        let mut contents = mem::take(&mut self.spare);
        contents.extend_from_slice(packets.contents);
        self.batch = Some(Batch {
            socket: Arc::clone(socket),
            destination: packets.destination,
            ecn: packets.ecn,
            src_ip: packets.src_ip,
            segment_size,
            contents,
        });
        Ok(())
    }
}

/// Ends the batching on this thread when a poll ends, also by a panic.
struct PollGuard;

impl Drop for PollGuard {
    fn drop(&mut self) {
        // The batch of a task that panicked is dropped: it must not be sent by the next task on this
        // thread. Dropped outside of the borrow, as it drops a socket.
        let lost = CURRENT.with_borrow_mut(|current| {
            current.is_active = false;
            current.batch.take_if(|_| std::thread::panicking())
        });
        drop(lost);
    }
}

/// A task of quinn's whose sends are batched per poll.
pub(super) struct BatchedTask {
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// A batch for which the socket's buffer had no room, and the poller that wakes the task when it
    /// has.
    blocked: Option<(Batch, Pin<Box<dyn UdpPoller>>)>,
    /// A circuit that writes to the connection wakes this task, and goes on with its own poll: the
    /// wake is deferred to the end of that.
    waker: DeferredWaker,
}

impl BatchedTask {
    pub(super) fn new(task: Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        Self {
            task,
            blocked: None,
            waker: DeferredWaker::default(),
        }
    }
}

impl Future for BatchedTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Blocked → collecting. Whatever woke the task, the batch is tried again below, so the poller
        // can be dropped; a new one is created if the socket is still not writable.
        let blocked = self.blocked.take().map(|(batch, _)| batch);
        CURRENT.with_borrow_mut(|current| {
            current.is_active = true;
            current.batch = blocked;
        });
        let outcome = {
            let _guard = PollGuard;
            let Self { task, waker, .. } = &mut *self;
            let cx = &mut waker.context(cx);
            let outcome = task.as_mut().poll(cx);
            // quinn has woken the task already if it yielded with more to send. A pending task may be
            // polled again at any time, so a second poll in a row is harmless if it has not.
            if outcome.is_pending() && CURRENT.with_borrow(PollBatch::may_have_more) {
                task.as_mut().poll(cx)
            } else {
                outcome
            }
        };
        // Collecting → sent or blocked. The loop ends: each iteration either sends the batch, takes it
        // out, or follows a poller that reported the socket writable.
        while CURRENT
            .with_borrow_mut(PollBatch::flush)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            let Some(batch) = CURRENT.with_borrow_mut(|current| current.batch.take()) else {
                break;
            };
            let mut poller = Arc::clone(&batch.socket).create_io_poller();
            match poller.as_mut().poll_writable(cx) {
                // The buffer was emptied meanwhile. tokio clears its readiness when a send would
                // block, so this does not spin.
                Poll::Ready(Ok(())) => {
                    CURRENT.with_borrow_mut(|current| current.batch = Some(batch));
                }
                // The runtime is shutting down.
                Poll::Ready(Err(_)) => break,
                // The poller has registered the undeferred waker: this task is woken when the socket
                // is writable.
                Poll::Pending => {
                    self.blocked = Some((batch, poller));
                    break;
                }
            }
        }
        outcome
    }
}

/// A UDP socket that collects what a [`BatchedTask`] sends.
#[derive(Debug)]
pub(super) struct BatchingUdpSocket(Arc<dyn AsyncUdpSocket>);

impl BatchingUdpSocket {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self(socket)
    }
}

impl AsyncUdpSocket for BatchingUdpSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, packets: &Transmit<'_>) -> io::Result<()> {
        CURRENT.with_borrow_mut(|current| current.send(&self.0, packets))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
        task::Waker,
    };

    use futures::FutureExt;

    use super::*;
    use futures_test::task::new_count_waker;
    use stream_io::deferred_wake;

    /// A send: the port of the destination, the number of bytes, and the segment size.
    type Sent = (u16, usize, Option<usize>);

    #[derive(Debug, Default)]
    struct FakeSocket {
        sent: Mutex<Vec<Sent>>,
        is_full: AtomicBool,
        waiting: Mutex<Option<Waker>>,
    }

    impl FakeSocket {
        fn sent(&self) -> Vec<Sent> {
            mem::take(&mut *self.sent.lock().unwrap())
        }
    }

    impl AsyncUdpSocket for FakeSocket {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(FakePoller(self))
        }

        fn try_send(&self, packets: &Transmit<'_>) -> io::Result<()> {
            if self.is_full.load(SeqCst) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let sent = (
                packets.destination.port(),
                packets.contents.len(),
                packets.segment_size,
            );
            self.sent.lock().unwrap().push(sent);
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(peer(1))
        }

        fn max_transmit_segments(&self) -> usize {
            64
        }
    }

    #[derive(Debug)]
    struct FakePoller(Arc<FakeSocket>);

    impl UdpPoller for FakePoller {
        fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.0.is_full.load(SeqCst) {
                *self.0.waiting.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            }
        }
    }

    fn peer(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn send(
        socket: &BatchingUdpSocket,
        port: u16,
        bytes: usize,
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        socket.try_send(&Transmit {
            destination: peer(port),
            ecn: None,
            contents: &vec![0; bytes],
            segment_size,
            src_ip: None,
        })
    }

    /// A task whose polls call `poll`.
    fn task(mut poll: impl FnMut() -> Poll<()> + Send + 'static) -> BatchedTask {
        BatchedTask::new(poll_fn(move |_| poll()).boxed())
    }

    fn fake_socket() -> (Arc<FakeSocket>, BatchingUdpSocket) {
        let fake = Arc::new(FakeSocket::default());
        let socket = BatchingUdpSocket::new(Arc::clone(&fake) as Arc<dyn AsyncUdpSocket>);
        (fake, socket)
    }

    #[test]
    fn datagrams_of_one_poll_are_sent_in_one_call() {
        let (fake, socket) = fake_socket();
        let seen = Arc::clone(&fake);
        let task = task(move || {
            send(&socket, 1, 12_000, Some(1200)).unwrap();
            send(&socket, 1, 11_500, Some(1200)).unwrap();
            assert_eq!(seen.sent(), []);
            Poll::Ready(())
        });
        assert_eq!(task.now_or_never(), Some(()));
        assert_eq!(fake.sent(), [(1, 23_500, Some(1200))]);
    }

    #[test]
    fn task_with_more_to_send_is_polled_twice() {
        let (fake, socket) = fake_socket();
        // Like quinn, which yields after twenty datagrams even if there are more.
        let mut left = [4, 20, 20, 20].map(|packets| packets * 1452).to_vec();
        let mut task = task(move || {
            let Some(bytes) = left.pop() else {
                return Poll::Ready(());
            };
            send(&socket, 1, bytes / 2, Some(1452)).unwrap();
            send(&socket, 1, bytes - bytes / 2, Some(1452)).unwrap();
            Poll::Pending
        });
        assert!((&mut task).now_or_never().is_none());
        assert_eq!(fake.sent(), [(1, 58_080, Some(1452))]);
        assert!((&mut task).now_or_never().is_none());
        assert_eq!(fake.sent(), [(1, 34_848, Some(1452))]);
        assert!((&mut task).now_or_never().is_some());
        assert_eq!(fake.sent(), []);
    }

    #[test]
    fn batch_ends_at_a_shorter_datagram_or_another_destination() {
        let (fake, socket) = fake_socket();
        let task = task(move || {
            send(&socket, 1, 2400, Some(1200)).unwrap();
            send(&socket, 1, 40, None).unwrap();
            send(&socket, 1, 2400, Some(1200)).unwrap();
            send(&socket, 2, 2400, Some(1200)).unwrap();
            send(&socket, 2, 2500, Some(1250)).unwrap();
            send(&socket, 2, 1300, None).unwrap();
            Poll::Ready(())
        });
        assert_eq!(task.now_or_never(), Some(()));
        let apart = [
            (1, 2440, Some(1200)),
            (1, 2400, Some(1200)),
            (2, 2400, Some(1200)),
            (2, 2500, Some(1250)),
            (2, 1300, None),
        ];
        assert_eq!(fake.sent(), apart);
    }

    #[test]
    fn batch_is_bounded_by_the_gso_limit() {
        let (fake, socket) = fake_socket();
        let task = task(move || {
            for _ in 0..5 {
                send(&socket, 1, 14_520, Some(1452)).unwrap();
            }
            Poll::Ready(())
        });
        assert_eq!(task.now_or_never(), Some(()));
        let two = [(1, 58_080, Some(1452)), (1, 14_520, Some(1452))];
        assert_eq!(fake.sent(), two);
    }

    #[test]
    fn wake_by_a_circuit_is_deferred() {
        let slot = Arc::new(Mutex::new(None));
        let registered = Arc::clone(&slot);
        let mut task = BatchedTask::new(
            poll_fn(move |cx| {
                *registered.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            })
            .boxed(),
        );
        let (waker, counter) = new_count_waker();
        let mut cx = Context::from_waker(&waker);
        assert!(task.poll_unpin(&mut cx).is_pending());
        deferred_wake::defer_wakes(|| {
            slot.lock().unwrap().take().unwrap().wake();
            assert_eq!(counter.get(), 0);
        });
        assert_eq!(counter.get(), 1);
    }

    #[test]
    fn send_outside_of_a_task_is_immediate() {
        let (fake, socket) = fake_socket();
        send(&socket, 1, 2400, Some(1200)).unwrap();
        assert_eq!(fake.sent(), [(1, 2400, Some(1200))]);
    }

    #[test]
    fn blocked_batch_is_sent_first() {
        let (fake, socket) = fake_socket();
        let mut port = 0;
        let mut task = task(move || {
            port += 1;
            let sent = send(&socket, port, 2400, Some(1200));
            assert_eq!(sent.is_err(), port == 2);
            Poll::Pending
        });
        let (waker, counter) = new_count_waker();
        let mut cx = Context::from_waker(&waker);
        fake.is_full.store(true, SeqCst);
        for _ in 0..2 {
            assert!(task.poll_unpin(&mut cx).is_pending());
        }
        assert_eq!(fake.sent(), []);
        fake.is_full.store(false, SeqCst);
        fake.waiting.lock().unwrap().take().unwrap().wake();
        assert_eq!(counter.get(), 1);
        assert!(task.poll_unpin(&mut cx).is_pending());
        assert_eq!(fake.sent(), [(1, 2400, Some(1200)), (3, 2400, Some(1200))]);
    }

    #[test]
    fn blocked_batch_is_sent_by_a_rebound_socket() {
        let ((old, socket), (new, next)) = (fake_socket(), fake_socket());
        let mut sockets = vec![next, socket];
        let mut task = task(move || {
            let socket = sockets.pop().unwrap();
            send(&socket, 1, 2400, Some(1200)).unwrap();
            Poll::Pending
        });
        old.is_full.store(true, SeqCst);
        for _ in 0..2 {
            assert!((&mut task).now_or_never().is_none());
        }
        assert_eq!(old.sent(), []);
        assert_eq!(new.sent(), [(1, 4800, Some(1200))]);
    }

    #[test]
    fn panic_drops_the_batch() {
        let (fake, socket) = fake_socket();
        let task = task(move || {
            send(&socket, 1, 2400, Some(1200)).unwrap();
            panic!("on purpose");
        });
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.now_or_never()));
        assert!(panicked.is_err());
        assert!(!CURRENT.with_borrow(|current| current.is_active || current.batch.is_some()));
        assert_eq!(fake.sent(), []);
    }
}
