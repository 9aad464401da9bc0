//! The UDP socket of an endpoint, on [`quinn::udp`].
//!
//! quinn's socket for tokio has one state for all destinations: after a send that fails with `EINVAL`
//! or `EIO`, it disables segmentation offload (GSO) and, for IPv4, congestion notification (ECN) for
//! all peers, until it is closed. Such an error has many causes that are unrelated to offload:
//!
//! | cause | errno |
//! |---|---|
//! | the destination has port 0 | `EINVAL` |
//! | the requested source address does not belong to this host (it was removed, or the packet to be answered was sent to a broadcast or multicast address) | `EINVAL` |
//! | the segments exceed the device's MTU, or the number that the kernel splits | `EINVAL` |
//! | the device does not compute checksums, or the route is encrypted by `IPsec` | `EIO` |
//!
//! So this socket
//!
//! - drops received datagrams that cannot be answered, before quinn answers them;
//! - isolates errors by destination: the state is recreated, and packets to the failed destination are
//!   sent one by one for a minute, if that succeeds. Each such fallback is counted and, at most once a
//!   minute, logged;
//! - tries offload again after that.

use std::{
    collections::HashMap,
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::io::Interest;
use tracing::warn;

use crate::observer::Observer;

/// The time for which packets to a destination are sent one by one after a batch has failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The maximum number of failed destinations. Beyond it, offload is assumed not to work at all, and is
/// disabled for all destinations until the first of them expires.
const MAX_DESTINATIONS: usize = 1024;

/// The minimum interval between recreations of the state, each of which takes a dozen system calls.
const RENEW_INTERVAL: Duration = Duration::from_millis(10);

/// The minimum interval between log messages about fallbacks.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The errors after which quinn disables offload, on Linux.
const EIO: i32 = 5;
const EINVAL: i32 = 22;

/// The maximum number of reads in one poll that return only datagrams to be dropped, before the task
/// yields.
const MAX_DROPPED_READS: usize = 4;

/// A UDP socket on tokio.
#[derive(Debug)]
pub(super) struct UdpSocket {
    io: tokio::net::UdpSocket,
    /// Recreated after an error upon which quinn disables features.
    state: RwLock<UdpSocketState>,
    renewed_at: Mutex<Instant>,
    /// Whether quinn may have disabled features because of an error.
    is_degraded: AtomicBool,
    /// The number of segments that the system supports, regardless of errors.
    max_transmit_segments: usize,
    fallbacks: Fallbacks,
}

impl UdpSocket {
    /// Wraps `socket`; fallbacks are reported to `observer`.
    pub(super) fn new(
        socket: std::net::UdpSocket,
        observer: Arc<dyn Observer>,
    ) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            max_transmit_segments: state.max_gso_segments(),
            state: RwLock::new(state),
            renewed_at: Mutex::new(Instant::now()),
            is_degraded: AtomicBool::new(false),
            fallbacks: Fallbacks::new(observer),
            io: tokio::net::UdpSocket::from_std(socket)?,
        })
    }

    fn send_once(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        self.io.try_io(Interest::WRITABLE, || {
            state.try_send((&self.io).into(), transmit)
        })
    }

    /// Sends a batch packet by packet. If one would block, the caller has to send the whole batch
    /// again: receivers discard duplicates.
    fn send_one_by_one(&self, batch: &Transmit<'_>, segment_size: usize) -> io::Result<()> {
        batch.contents.chunks(segment_size).try_for_each(|packet| {
            self.send_once(&Transmit {
                destination: batch.destination,
                ecn: batch.ecn,
                contents: packet,
                segment_size: None,
                src_ip: batch.src_ip,
            })
        })
    }

    /// Recreates the state, in which all features are enabled, unless that was done just now.
    fn renew(&self) {
        {
            let mut renewed_at = lock(&self.renewed_at);
            if renewed_at.elapsed() < RENEW_INTERVAL {
                return;
            }
            *renewed_at = Instant::now();
        }
        // Fails while the process has no free file descriptor; the next error tries again.
        if let Ok(state) = UdpSocketState::new((&self.io).into()) {
            self.is_degraded.store(false, Ordering::Relaxed);
            *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        }
    }

    /// Whether quinn uses neither offload nor, over IPv4, ECN, because of an error.
    #[cfg(test)]
    pub(super) fn is_degraded(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.max_gso_segments() < self.max_transmit_segments
            || self.is_degraded.load(Ordering::Relaxed)
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment_size = transmit
            .segment_size
            .filter(|size| *size > 0 && *size < transmit.contents.len());
        if let Some(segment_size) = segment_size
            && self.fallbacks.includes(transmit.destination.ip())
        {
            return self.send_one_by_one(transmit, segment_size);
        }
        let Err(error) = self.send_once(transmit) else {
            return Ok(());
        };
        if error.kind() == io::ErrorKind::WouldBlock {
            return Err(error);
        }
        // The errors upon which quinn disables features.
        if matches!(error.raw_os_error(), Some(EINVAL | EIO)) {
            self.is_degraded.store(true, Ordering::Relaxed);
            self.renew();
            if let Some(segment_size) = segment_size {
                let sent = self.send_one_by_one(transmit, segment_size);
                if sent.is_ok() {
                    self.fallbacks.add(transmit.destination.ip(), &error);
                }
                return sent;
            }
        }
        Err(error)
    }
}

impl AsyncUdpSocket for UdpSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritablePoller {
            socket: self,
            writable: None,
        })
    }

    /// Fails with `WouldBlock` only. Packets that fail for another reason are dropped, and QUIC
    /// retransmits them.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !is_answerable(transmit.destination, transmit.src_ip) {
            return Ok(());
        }
        match self.send(transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut dropped_reads = 0;
        while dropped_reads < MAX_DROPPED_READS {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
                state.recv((&self.io).into(), bufs, meta)
            });
            if self.is_degraded.load(Ordering::Relaxed) {
                self.renew();
            }
            match received {
                Ok(received) => {
                    let kept = retain_answerable(bufs, meta, received);
                    if kept > 0 || received == 0 {
                        return Poll::Ready(Ok(kept));
                    }
                    dropped_reads += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.max_transmit_segments
    }

    fn max_receive_segments(&self) -> usize {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.may_fragment()
    }
}

/// Waits until the socket is writable. tokio's poll method keeps only one waker per socket.
struct WritablePoller {
    socket: Arc<UdpSocket>,
    writable: Option<Writable>,
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl std::fmt::Debug for WritablePoller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WritablePoller").finish_non_exhaustive()
    }
}

impl UdpPoller for WritablePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, writable } = &mut *self;
        let future = writable.get_or_insert_with(|| {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(future.as_mut().poll(cx));
        *writable = None;
        Poll::Ready(result)
    }
}

/// The destinations to which packets are sent one by one, because offload has failed.
#[derive(Debug)]
struct Fallbacks {
    /// Whether there is any destination. Usually there is none, and this avoids the lock.
    is_any: AtomicBool,
    destinations: Mutex<Destinations>,
    observer: Arc<dyn Observer>,
}

#[derive(Debug, Default)]
struct Destinations {
    /// The times at which offload is tried again.
    until: HashMap<IpAddr, Instant>,
    logged_at: Option<Instant>,
}

impl Fallbacks {
    fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            is_any: AtomicBool::new(false),
            destinations: Mutex::default(),
            observer,
        }
    }

    fn includes(&self, destination: IpAddr) -> bool {
        if !self.is_any.load(Ordering::Relaxed) {
            return false;
        }
        let mut destinations = lock(&self.destinations);
        let now = Instant::now();
        match destinations.until.get(&destination) {
            Some(until) if *until > now => true,
            Some(_) => {
                destinations.until.remove(&destination);
                let is_any = !destinations.until.is_empty();
                self.is_any.store(is_any, Ordering::Relaxed);
                false
            }
            None if destinations.until.len() >= MAX_DESTINATIONS => {
                destinations.until.retain(|_, until| *until > now);
                destinations.until.len() >= MAX_DESTINATIONS
            }
            None => false,
        }
    }

    fn add(&self, destination: IpAddr, error: &io::Error) {
        self.observer.offload_fallback();
        let now = Instant::now();
        let mut destinations = lock(&self.destinations);
        if destinations.until.len() < MAX_DESTINATIONS {
            destinations.until.insert(destination, now + RETRY_AFTER);
        }
        self.is_any.store(true, Ordering::Relaxed);
        let is_due = destinations
            .logged_at
            .is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL);
        if is_due {
            destinations.logged_at = Some(now);
            let number = destinations.until.len();
            drop(destinations);
            warn!(
                %error,
                destinations = number,
                retry_after_seconds = RETRY_AFTER.as_secs(),
                "segmentation offload failed, sending packets one by one"
            );
        }
    }
}

/// Moves the answerable datagrams to the front, in order, and returns their number.
fn retain_answerable(bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta], received: usize) -> usize {
    let mut kept = 0;
    for index in 0..received.min(bufs.len()) {
        // Segments that the kernel has coalesced (GRO) have the same source address.
        let Some(&datagram) = meta.get(index) else {
            break;
        };
        if !is_answerable(datagram.addr, datagram.dst_ip) {
            continue;
        }
        if let Some(slot) = meta.get_mut(kept) {
            *slot = datagram;
        }
        if kept != index {
            // Swaps the buffers, not their contents.
            bufs.swap(kept, index);
        }
        kept += 1;
    }
    kept
}

/// Whether a packet can be sent from `local` to `remote`.
fn is_answerable(remote: SocketAddr, local: Option<IpAddr>) -> bool {
    remote.port() != 0 && is_unicast(remote.ip()) && local.is_none_or(is_unicast)
}

fn is_unicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [network, ..] = ip.octets();
            // "This network" (RFC 1122), which is only valid in DHCP packets.
            network != 0 && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn datagram(addr: &str, len: usize, stride: usize) -> RecvMeta {
        RecvMeta {
            addr: addr.parse().unwrap(),
            len,
            stride,
            ..RecvMeta::default()
        }
    }

    #[test]
    fn unanswerable_datagrams_are_dropped_and_the_others_keep_their_order() {
        let mut meta = [
            datagram("192.0.2.1:0", 10, 10),
            datagram("192.0.2.1:1", 30, 10),
            datagram("0.0.0.0:1", 1, 1),
            datagram("255.255.255.255:1", 1, 1),
            datagram("[ff02::1]:1", 1, 1),
            datagram("[2001:db8::1]:2", 7, 7),
            datagram("[::ffff:192.0.2.1]:0", 1, 1),
            datagram("192.0.2.9:9", 1, 1),
            // Not received.
            datagram("192.0.2.8:8", 1, 1),
        ];
        meta[7].dst_ip = Some("239.1.2.3".parse().unwrap());
        let mut contents: Vec<[u8; 4]> = (0..9).map(|number| [number; 4]).collect();
        let mut bufs: Vec<_> = contents.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let kept = retain_answerable(&mut bufs, &mut meta, 8);
        assert_eq!(kept, 2);
        let is = |index: usize| (bufs[index][0], meta[index].len, meta[index].stride);
        assert_eq!([is(0), is(1)], [(1, 30, 10), (5, 7, 7)]);
        assert_eq!(meta[1].addr, "[2001:db8::1]:2".parse().unwrap());
        // Each buffer is there exactly once.
        let mut all: Vec<_> = bufs.iter().map(|buf| buf[0]).collect();
        all.sort_unstable();
        assert_eq!(all, (0..9).collect::<Vec<u8>>());
    }

    #[test]
    fn answerable_datagrams_are_not_moved() {
        let mut meta = ["192.0.2.1:1", "127.0.0.1:2"].map(|addr| datagram(addr, 4, 4));
        let mut contents = [[1; 4], [2; 4]];
        let mut bufs: Vec<_> = contents.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        assert_eq!(retain_answerable(&mut bufs, &mut meta, 2), 2);
        assert_eq!((bufs[0][0], bufs[1][0]), (1, 2));
        assert_eq!(retain_answerable(&mut bufs, &mut meta, 0), 0);
    }

    fn socket() -> UdpSocket {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        UdpSocket::new(socket, crate::observer::NoObserver::shared()).unwrap()
    }

    fn transmit(to: SocketAddr, contents: &[u8], size: Option<usize>) -> Transmit<'_> {
        Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: size,
            src_ip: None,
        }
    }

    /// Allows the state to be recreated immediately.
    fn allow_renewal(socket: &UdpSocket) {
        let past = Instant::now().checked_sub(RENEW_INTERVAL);
        *lock(&socket.renewed_at) = past.unwrap();
    }

    async fn receive(socket: &UdpSocket) -> RecvMeta {
        let mut contents = [0; 2048];
        let mut meta = [RecvMeta::default()];
        let received =
            poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut contents)], &mut meta));
        assert_eq!(received.await.unwrap(), 1);
        let [meta] = meta;
        meta
    }

    #[tokio::test]
    async fn error_for_one_destination_does_not_affect_others() {
        let socket = socket();
        let before = socket.max_transmit_segments();
        let peer = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = peer.local_addr().unwrap();
        let mut nowhere = transmit(to, b"answer", None);
        nowhere.destination.set_port(0);
        socket.io.writable().await.unwrap();
        let error = socket.send(&nowhere).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        assert_eq!(socket.max_transmit_segments(), before);
        assert!(!socket.fallbacks.includes(to.ip()));
        // The next packet that arrives recreates the state, once the interval has passed.
        allow_renewal(&socket);
        let from_peer = socket.local_addr().unwrap();
        peer.send_to(b"hello", from_peer).unwrap();
        receive(&socket).await;
        assert!(!socket.is_degraded());
        socket.try_send(&nowhere).unwrap();
        socket.try_send(&transmit(to, b"packet", None)).unwrap();
        let mut received = [0; 10];
        assert_eq!(peer.recv(&mut received).unwrap(), 6);
        assert_eq!(&received[..6], b"packet");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn failed_batch_is_sent_one_by_one_for_a_minute() {
        // The kernel splits into no more than 128 segments.
        const PACKETS: usize = 200;
        let socket = socket();
        if socket.max_transmit_segments() == 1 {
            // Without offload, batches cannot fail.
            return;
        }
        allow_renewal(&socket);
        let peer = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let to = peer.local_addr().unwrap();
        socket.io.writable().await.unwrap();
        let contents = [7; PACKETS * 10];
        socket.try_send(&transmit(to, &contents, Some(10))).unwrap();
        for _ in 0..PACKETS {
            let mut packet = [0; 100];
            assert_eq!(peer.recv(&mut packet).await.unwrap(), 10);
        }
        assert!(!socket.is_degraded());
        assert!(socket.fallbacks.includes(to.ip()));
        assert!(!socket.fallbacks.includes("192.0.2.1".parse().unwrap()));
        // The time to retry has come.
        lock(&socket.fallbacks.destinations)
            .until
            .insert(to.ip(), Instant::now());
        assert!(!socket.fallbacks.includes(to.ip()));
        assert!(!socket.fallbacks.is_any.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn answerable_datagram_is_received() {
        let socket = socket();
        let to = socket.local_addr().unwrap();
        let peer = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        peer.send_to(b"hello", to).unwrap();
        let meta = receive(&socket).await;
        assert_eq!((meta.len, meta.addr), (5, peer.local_addr().unwrap()));
    }
}
