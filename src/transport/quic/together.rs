//! Packets of one turn leave together.
//!
//! quinn gives the socket ten packets at a time, and asks for another turn of a connection's task after
//! twenty. Each call of the system costs more than its bytes do, so what goes to the same peer within a
//! turn is held, and leaves in one call when the turn ends; a connection that has more to send has two
//! turns of quinn's in one. What the system has no room for then goes first as soon as it has; until then
//! the task is told that there is none, and nothing is lost.

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

use crate::deferred_wake::DeferredWaker;

/// After so many packets quinn ends a turn, whether there are more or not.
const TURN_PACKETS: usize = 20;

/// Bytes that are held at most: two turns of packets that pass the internet. The system takes 64 KiB at once.
const MAX_BYTES: usize = 60 * 1024;

/// Packets of one length to one peer.
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
    /// Whether all of its packets are of the same length: one that is shorter is the last.
    fn is_open(&self) -> bool {
        self.contents.len().is_multiple_of(self.segment_size)
    }

    /// Whether these packets can leave with it.
    fn takes(&self, more: &Transmit<'_>) -> bool {
        let bytes = self.contents.len().saturating_add(more.contents.len());
        let most = self
            .segment_size
            .saturating_mul(self.socket.max_transmit_segments());
        self.is_open()
            && bytes <= most.min(MAX_BYTES)
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

/// What the task that has its turn on this thread has sent, and the system not yet.
#[derive(Default)]
struct Turn {
    /// Nothing is held for anybody else.
    is_on: bool,
    held: Option<Batch>,
    /// Room for the next one.
    spare: Vec<u8>,
}

thread_local! {
    static TURN: RefCell<Turn> = RefCell::new(Turn::default());
}

impl Turn {
    /// Sends what is held. It stays if the system has no room for it; any other error has cost
    /// packets, which are sent again like all that get lost.
    fn flush(&mut self) -> io::Result<()> {
        let Some(batch) = self.held.take() else {
            return Ok(());
        };
        match batch.send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.held = Some(batch);
                Err(error)
            }
            sent => {
                self.spare = batch.contents;
                self.spare.clear();
                sent
            }
        }
    }

    /// Whether the task has sent as much as quinn does in a turn, so that there may be more.
    fn goes_on(&self) -> bool {
        self.held.as_ref().is_some_and(|batch| {
            let bytes = batch.segment_size.saturating_mul(TURN_PACKETS);
            batch.is_open() && batch.contents.len() == bytes
        })
    }

    fn send(&mut self, socket: &Arc<dyn AsyncUdpSocket>, packets: &Transmit<'_>) -> io::Result<()> {
        if let Some(batch) = &mut self.held
            && !Arc::ptr_eq(&batch.socket, socket)
        {
            // The endpoint has a new one, for all that has not left.
            batch.socket = Arc::clone(socket);
        }
        if let Some(batch) = self.held.as_mut().filter(|batch| batch.takes(packets)) {
            batch.contents.extend_from_slice(packets.contents);
            return Ok(());
        }
        self.flush()?;
        let segment_size = packets.segment_size.filter(|_| self.is_on);
        let Some(segment_size) = segment_size.filter(|size| *size > 0) else {
            return socket.try_send(packets);
        };
        let mut contents = mem::take(&mut self.spare);
        contents.extend_from_slice(packets.contents);
        self.held = Some(Batch {
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

/// Ends the turn on this thread, also if the task panics.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let lost = TURN.with_borrow_mut(|turn| {
            turn.is_on = false;
            turn.held.take_if(|_| std::thread::panicking())
        });
        drop(lost);
    }
}

/// A task of quinn's, which has turns.
pub(super) struct Turns {
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What the system had no room for, and who wakes the task when it has.
    left: Option<(Batch, Pin<Box<dyn UdpPoller>>)>,
    /// Who relays bytes wakes it, and goes on with its streams.
    waker: DeferredWaker,
}

impl Turns {
    pub(super) fn new(task: Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        Self {
            task,
            left: None,
            waker: DeferredWaker::default(),
        }
    }
}

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left.take().map(|(batch, _)| batch);
        TURN.with_borrow_mut(|turn| {
            turn.is_on = true;
            turn.held = left;
        });
        let outcome = {
            let _end = End;
            let Self { task, waker, .. } = &mut *self;
            let cx = &mut waker.context(cx);
            let outcome = task.as_mut().poll(cx);
            if outcome.is_pending() && TURN.with_borrow(Turn::goes_on) {
                task.as_mut().poll(cx)
            } else {
                outcome
            }
        };
        while TURN
            .with_borrow_mut(Turn::flush)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            let Some(batch) = TURN.with_borrow_mut(|turn| turn.held.take()) else {
                break;
            };
            let mut room = Arc::clone(&batch.socket).create_io_poller();
            match room.as_mut().poll_writable(cx) {
                Poll::Ready(Ok(())) => TURN.with_borrow_mut(|turn| turn.held = Some(batch)),
                // The runtime is about to end.
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {
                    self.left = Some((batch, room));
                    break;
                }
            }
        }
        outcome
    }
}

/// A socket that holds what is sent in a turn.
#[derive(Debug)]
pub(super) struct Socket(Arc<dyn AsyncUdpSocket>);

impl Socket {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self(socket)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, packets: &Transmit<'_>) -> io::Result<()> {
        TURN.with_borrow_mut(|turn| turn.send(&self.0, packets))
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
    use crate::deferred_wake::{self, tests::WakeCounter};

    /// What a socket was given: to whom, how many bytes, and how long each packet is.
    type Sent = (u16, usize, Option<usize>);

    #[derive(Debug, Default)]
    struct Fake {
        sent: Mutex<Vec<Sent>>,
        is_full: AtomicBool,
        waiting: Mutex<Option<Waker>>,
    }

    impl Fake {
        fn sent(&self) -> Vec<Sent> {
            mem::take(&mut *self.sent.lock().unwrap())
        }
    }

    impl AsyncUdpSocket for Fake {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(Room(self))
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
    struct Room(Arc<Fake>);

    impl UdpPoller for Room {
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
        socket: &Socket,
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

    /// A task whose turns, one after the other, do this.
    fn turns(mut turn: impl FnMut() -> Poll<()> + Send + 'static) -> Turns {
        Turns::new(poll_fn(move |_| turn()).boxed())
    }

    fn fake() -> (Arc<Fake>, Socket) {
        let fake = Arc::new(Fake::default());
        let socket = Socket::new(Arc::clone(&fake) as Arc<dyn AsyncUdpSocket>);
        (fake, socket)
    }

    #[test]
    fn what_is_sent_in_a_turn_leaves_together() {
        let (fake, socket) = fake();
        let seen = Arc::clone(&fake);
        let turn = turns(move || {
            send(&socket, 1, 12_000, Some(1200)).unwrap();
            send(&socket, 1, 11_500, Some(1200)).unwrap();
            assert_eq!(seen.sent(), []);
            Poll::Ready(())
        });
        assert_eq!(turn.now_or_never(), Some(()));
        assert_eq!(fake.sent(), [(1, 23_500, Some(1200))]);
    }

    #[test]
    fn who_has_more_to_send_has_two_turns_in_one() {
        let (fake, socket) = fake();
        // As quinn does: a turn ends after twenty packets, also if there are more.
        let mut left = [4, 20, 20, 20].map(|packets| packets * 1452).to_vec();
        let mut turn = turns(move || {
            let Some(bytes) = left.pop() else {
                return Poll::Ready(());
            };
            send(&socket, 1, bytes / 2, Some(1452)).unwrap();
            send(&socket, 1, bytes - bytes / 2, Some(1452)).unwrap();
            Poll::Pending
        });
        assert!((&mut turn).now_or_never().is_none());
        assert_eq!(fake.sent(), [(1, 58_080, Some(1452))]);
        assert!((&mut turn).now_or_never().is_none());
        assert_eq!(fake.sent(), [(1, 34_848, Some(1452))]);
        assert!((&mut turn).now_or_never().is_some());
        assert_eq!(fake.sent(), []);
    }

    #[test]
    fn nothing_follows_a_shorter_packet_or_goes_to_somebody_else() {
        let (fake, socket) = fake();
        let turn = turns(move || {
            send(&socket, 1, 2400, Some(1200)).unwrap();
            send(&socket, 1, 40, None).unwrap();
            send(&socket, 1, 2400, Some(1200)).unwrap();
            send(&socket, 2, 2400, Some(1200)).unwrap();
            send(&socket, 2, 2500, Some(1250)).unwrap();
            send(&socket, 2, 1300, None).unwrap();
            Poll::Ready(())
        });
        assert_eq!(turn.now_or_never(), Some(()));
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
    fn no_more_is_held_than_the_system_takes() {
        let (fake, socket) = fake();
        let turn = turns(move || {
            for _ in 0..5 {
                send(&socket, 1, 14_520, Some(1452)).unwrap();
            }
            Poll::Ready(())
        });
        assert_eq!(turn.now_or_never(), Some(()));
        let two = [(1, 58_080, Some(1452)), (1, 14_520, Some(1452))];
        assert_eq!(fake.sent(), two);
    }

    #[test]
    fn a_circuit_wakes_it_when_it_has_had_its_turn() {
        let known = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&known);
        let mut task = Turns::new(
            poll_fn(move |cx| {
                *tell.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            })
            .boxed(),
        );
        let (wakes, waker) = WakeCounter::new();
        let mut cx = Context::from_waker(&waker);
        assert!(task.poll_unpin(&mut cx).is_pending());
        deferred_wake::defer_wakes(|| {
            known.lock().unwrap().take().unwrap().wake();
            assert_eq!(wakes.count(), 0);
        });
        assert_eq!(wakes.count(), 1);
    }

    #[test]
    fn who_has_no_turn_sends_at_once() {
        let (fake, socket) = fake();
        send(&socket, 1, 2400, Some(1200)).unwrap();
        assert_eq!(fake.sent(), [(1, 2400, Some(1200))]);
    }

    #[test]
    fn what_there_is_no_room_for_is_kept_and_goes_first() {
        let (fake, socket) = fake();
        let mut port = 0;
        let mut turn = turns(move || {
            port += 1;
            let refused = send(&socket, port, 2400, Some(1200));
            assert_eq!(refused.is_err(), port == 2);
            Poll::Pending
        });
        let (wakes, waker) = WakeCounter::new();
        let mut cx = Context::from_waker(&waker);
        fake.is_full.store(true, SeqCst);
        for _ in 0..2 {
            assert!(turn.poll_unpin(&mut cx).is_pending());
        }
        assert_eq!(fake.sent(), []);
        fake.is_full.store(false, SeqCst);
        fake.waiting.lock().unwrap().take().unwrap().wake();
        assert_eq!(wakes.count(), 1);
        assert!(turn.poll_unpin(&mut cx).is_pending());
        assert_eq!(fake.sent(), [(1, 2400, Some(1200)), (3, 2400, Some(1200))]);
    }

    #[test]
    fn what_is_left_leaves_by_the_new_socket_if_there_is_one() {
        let ((old, socket), (new, next)) = (fake(), fake());
        let mut sockets = vec![next, socket];
        let mut turn = turns(move || {
            let socket = sockets.pop().unwrap();
            send(&socket, 1, 2400, Some(1200)).unwrap();
            Poll::Pending
        });
        old.is_full.store(true, SeqCst);
        for _ in 0..2 {
            assert!((&mut turn).now_or_never().is_none());
        }
        assert_eq!(old.sent(), []);
        assert_eq!(new.sent(), [(1, 4800, Some(1200))]);
    }

    #[test]
    fn nothing_stays_behind_of_a_task_that_panics() {
        let (fake, socket) = fake();
        let turn = turns(move || {
            send(&socket, 1, 2400, Some(1200)).unwrap();
            panic!("on purpose");
        });
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| turn.now_or_never()));
        assert!(panicked.is_err());
        assert!(!TURN.with_borrow(|turn| turn.is_on || turn.held.is_some()));
        assert_eq!(fake.sent(), []);
    }
}
