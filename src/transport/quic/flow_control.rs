//! What a connection makes the relay hold: bytes received and not read, written and not acknowledged.
//!
//! # Receive window
//!
//! A peer may send [`INITIAL_WINDOW`] on a connection before anything is read. The window grows
//!
//! - when streams are read so fast that it limits them: it doubles when half of it or more is read
//!   in a round trip, up to the windows of the streams there are;
//! - when streams that are not read hold half of it: then by the window of a stream for each of them,
//!   so that they do not hold up the other streams.
//!
//! It grows up to [`Config::receive_window`](super::Config::receive_window), while there is
//! [credit](super::credit), the connection's account has room, and memory is not under pressure. It
//! never shrinks, as QUIC has no way to revoke credit.
//!
//! # Accounting
//!
//! quinn reports neither how much of a stream waits to be read nor how much waits for an
//! acknowledgement. Both are estimated:
//!
//! - *Received*: the bytes of all datagrams of the connection without their headers, and
//!   [`CHUNK_BYTES`] for each frame of a stream, less the same for what was read. A frame behind a gap
//!   in its stream keeps the whole datagram allocated, so padding counts. Packets that arrive twice
//!   and frames without data are never read: the estimate is relative to its lowest value, and that
//!   rises with [time](TOLERATED_PER_SECOND) and [traffic](TOLERATED_TRAFFIC), slower than an attack
//!   could fill memory. It is at most the window and [`STREAM_OVERHEAD`] for each stream.
//! - *Sent*: what was written, less what the peer has acknowledged, relative to its lowest value, and
//!   0 when no packet is in flight and nothing was written meanwhile. It is at most the send window.
//!
//! The account is charged in steps of [`STEP`]: on every 16 to 64 KiB read or written, and from time to
//! time as long as the connection holds something, has a larger window, or leaves streams unread. An
//! idle connection has no timer and is charged nothing; its peer can send it [`INITIAL_WINDOW`]
//! unseen, which is what the account guarantees to each connection anyway. Under memory pressure every
//! connection is charged once a second.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use quinn::{ConnectionStats, VarInt};

use super::{
    ack_counters::AckCounters,
    credit::{Credit, INITIAL_WINDOW},
};
use crate::resources::{ConnectionMemory, Relief, Resources};

/// Bytes of a datagram that are neither data of a stream nor the header of a frame: the header of
/// QUIC and the authentication tag.
const DATAGRAM_OVERHEAD: u64 = 32;

/// The header of a frame that carries data of a stream, and the usual size of an ACK frame, in bytes.
const STREAM_FRAME_OVERHEAD: u64 = 8;
const ACK_FRAME_BYTES: u64 = 12;

/// What quinn allocates for each frame that is not read yet, besides its data, in bytes.
const CHUNK_BYTES: u64 = 64;

/// What quinn may keep of a stream beyond its data, in bytes: 32 KiB of datagrams of which a part was
/// read, by its own count, and a list of chunks.
const STREAM_OVERHEAD: u64 = 64 * 1024;

/// How much of what was received is assumed not to be held although it is never read: bytes a second,
/// and one part of so many of the traffic.
const TOLERATED_PER_SECOND: u64 = 512;
const TOLERATED_TRAFFIC: u64 = 32;

/// The account is charged in multiples of this number of bytes, rounded down.
const STEP: u64 = 16 * 1024;

/// A stream that has read this many bytes since it last waited for data is watched. A ping has 32.
const CHECKED_READ_BYTES: usize = 512;

/// With fewer bytes in flight, nothing but acknowledgements is: they are not acknowledged.
const NOTHING_IN_FLIGHT: u64 = 2 * 1024;

/// How often a connection is checked while it holds something, and while it has a larger window.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
const SLOW_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The bounds of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowLimits {
    /// The receive window of the connection at most.
    pub(super) receive: u64,
    /// That of each stream.
    pub(super) stream: u64,
    /// The send window at most.
    pub(super) send: u64,
}

/// The flow control of one connection, shared by the muxer and its streams.
pub(super) struct FlowControl {
    connection: quinn::Connection,
    resources: Resources,
    memory: ConnectionMemory,
    windows: WindowLimits,
    /// Bytes that streams have read and written.
    read: AtomicU64,
    written: AtomicU64,
    /// Chunks that streams have read, each of which was a frame.
    chunks_read: AtomicU64,
    /// Streams that have not waited for data since something was read.
    unread_streams: AtomicUsize,
    /// After so many bytes read, a stream reports.
    report_every: AtomicU64,
    needs_check: AtomicBool,
    /// Wakes the muxer when it has to watch.
    check_waker: AtomicWaker,
    streams: Mutex<Vec<Weak<StreamFlags>>>,
    state: Mutex<State>,
}

struct State {
    window: u64,
    credit: Credit,
    /// When the last measurement of the read rate began, and what had been read then.
    measured_at: Instant,
    measured_read: u64,
    /// The values of the estimates at which nothing is held.
    received_baseline: i64,
    sent_baseline: i64,
    /// When `received_baseline` was last raised, and the traffic until then in bytes.
    tolerated_at: Instant,
    tolerated_traffic: u64,
    received: u64,
    sent: u64,
    charged: u64,
    acks: Arc<AckCounters>,
    /// What had been written at the last check.
    checked_written: u64,
    /// Whether streams were reset since.
    was_reset: bool,
}

impl FlowControl {
    pub(super) fn new(
        connection: quinn::Connection,
        resources: Resources,
        windows: WindowLimits,
        credit: Credit,
        ip: IpAddr,
    ) -> Arc<Self> {
        let memory = ConnectionMemory::new(resources.clone());
        memory.attribute_to(ip);
        let window = windows.receive.min(INITIAL_WINDOW);
        let state = State {
            window,
            credit,
            measured_at: Instant::now(),
            measured_read: 0,
            received_baseline: received_bytes(&connection.stats(), 0, 0),
            sent_baseline: 0,
            tolerated_at: Instant::now(),
            tolerated_traffic: 0,
            received: 0,
            sent: 0,
            charged: 0,
            acks: AckCounters::of_path(&connection),
            checked_written: 0,
            was_reset: false,
        };
        let flow = Self {
            resources,
            memory,
            windows,
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            chunks_read: AtomicU64::new(0),
            unread_streams: AtomicUsize::new(0),
            report_every: AtomicU64::new(report_every(window)),
            needs_check: AtomicBool::new(false),
            check_waker: AtomicWaker::new(),
            streams: Mutex::default(),
            state: Mutex::new(state),
            connection,
        };
        // The handshake is acknowledged, too.
        {
            let mut state = flow.state();
            state.sent_baseline = flow.sent_bytes(&state);
        }
        Arc::new(flow)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A stream that was opened or accepted.
    pub(super) fn stream(self: &Arc<Self>) -> StreamBuffers {
        let state = Arc::new(StreamFlags {
            is_unread: AtomicBool::new(true),
            is_blocked: AtomicBool::new(false),
            is_reset: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        });
        self.unread_streams.fetch_add(1, Ordering::Relaxed);
        lock(&self.streams).push(Arc::downgrade(&state));
        StreamBuffers {
            flow: Arc::clone(self),
            state,
            read_since_wait: 0,
            unreported_read: 0,
            unreported_written: 0,
        }
    }

    /// Whether the send window may be so many bytes larger than the smallest.
    pub(super) fn may_send(&self, more: u64) -> bool {
        more == 0 || (!self.resources.under_pressure() && self.memory.has_room(more, u64::MAX))
    }

    /// The peer seems to have another address. What the connection holds counts for the address that
    /// its handshake has proven: a packet with a forged address looks the same until the path is
    /// validated.
    pub(super) fn on_migration(&self) {
        let mut state = self.state();
        state.acks = AckCounters::of_path(&self.connection);
        state.sent_baseline = self.sent_bytes(&state);
    }

    /// What has to be done because memory runs out. Wakes the task when there is something, or when
    /// the connection is to be [checked](Self::check).
    pub(super) fn poll_relief(&self, cx: &mut Context<'_>) -> Poll<Relief> {
        self.check_waker.register(cx.waker());
        let relief = self.memory.poll_relief(cx);
        // What a peer sends behind a gap in a stream wakes nothing here.
        if self.resources.under_pressure() {
            self.request_check();
        }
        relief
    }

    /// Whether the connection is to be [checked](Self::check) soon.
    pub(super) fn needs_check(&self) -> bool {
        self.needs_check.load(Ordering::Relaxed)
    }

    fn request_check(&self) {
        if !self.needs_check() && !self.needs_check.swap(true, Ordering::Relaxed) {
            self.check_waker.wake();
        }
    }

    /// Updates the account, and gives streams room that unread ones hold up. Gives when to check
    /// again, if that is needed.
    pub(super) fn check(&self) -> Option<Duration> {
        self.needs_check.store(false, Ordering::Relaxed);
        let mut state = self.state();
        let counters = self.connection.stats();
        let unread = self.unread_streams.load(Ordering::Relaxed);
        self.raise_baseline(&mut state);
        let written = self.written.load(Ordering::Relaxed);
        let is_acknowledged =
            written == state.checked_written && state.acks.in_flight() < NOTHING_IN_FLIGHT;
        if is_acknowledged || state.was_reset {
            state.sent_baseline = self.sent_bytes(&state);
        }
        if state.was_reset {
            state.received_baseline = self.received_bytes(&counters);
        }
        state.was_reset = false;
        state.checked_written = written;
        self.update_received(&mut state, &counters);
        self.update_sent(&mut state);
        self.charge(&mut state);
        if unread > 0 && state.received >= state.window / 2 {
            let unread = u64::try_from(unread).unwrap_or(u64::MAX);
            let held_up = unread.saturating_mul(self.windows.stream);
            self.grow(&mut state, held_up.saturating_add(INITIAL_WINDOW));
        }
        if state.charged > 0 || unread > 0 {
            Some(CHECK_INTERVAL)
        } else if state.window > INITIAL_WINDOW || self.resources.under_pressure() {
            Some(SLOW_CHECK_INTERVAL)
        } else {
            None
        }
        .inspect(|_| self.needs_check.store(true, Ordering::Relaxed))
    }

    /// Resets the streams for which bytes may be held: those that are not read or not written, and all
    /// if there is more than their data.
    pub(super) fn reset_streams(&self) {
        let has_gaps = {
            let state = self.state();
            state.received > state.window
        };
        let streams = lock(&self.streams).clone();
        for stream in streams.iter().filter_map(Weak::upgrade) {
            if has_gaps
                || stream.is_unread.load(Ordering::Relaxed)
                || stream.is_blocked.load(Ordering::Relaxed)
            {
                stream.is_reset.store(true, Ordering::Release);
                stream.reader.wake();
                stream.writer.wake();
            }
        }
        self.state().was_reset = true;
        self.request_check();
    }

    /// A stream has read its part of the window.
    fn on_read(&self) {
        let mut state = self.state();
        let counters = self.connection.stats();
        self.update_received(&mut state, &counters);
        self.charge(&mut state);
        let total = self.read.load(Ordering::Relaxed);
        let read = total.saturating_sub(state.measured_read);
        if read < state.window / 4 {
            return;
        }
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(state.measured_at);
        state.measured_at = now;
        state.measured_read = total;
        // Half of the window in a round trip, or more.
        let in_round_trip = u128::from(read).saturating_mul(counters.path.rtt.as_nanos());
        let half = u128::from(state.window / 2).saturating_mul(elapsed.as_nanos());
        if in_round_trip > half {
            let streams = u64::try_from(lock(&self.streams).len()).unwrap_or(u64::MAX);
            let most = streams.saturating_mul(self.windows.stream);
            let twice = state.window.saturating_mul(2);
            self.grow(&mut state, twice.min(most));
        }
    }

    /// A stream has written a step.
    fn on_written(&self) {
        let mut state = self.state();
        self.update_sent(&mut state);
        self.charge(&mut state);
    }

    /// Grows the receive window up to `target`, as far as there is room and credit.
    fn grow(&self, state: &mut State, target: u64) {
        let target = target.min(self.windows.receive);
        let more = target.saturating_sub(state.window);
        if more == 0 || self.resources.under_pressure() || !self.memory.has_room(more, u64::MAX) {
            return;
        }
        let window = state.window + state.credit.grow(more);
        if let Some(bytes) = VarInt::from_u64(window)
            .ok()
            .filter(|_| window > state.window)
        {
            state.window = window;
            self.report_every
                .store(report_every(window), Ordering::Relaxed);
            self.connection.set_receive_window(bytes);
            self.request_check();
        }
    }

    /// Raises the value at which nothing is held, for what was received and is not held although it
    /// was not read.
    fn raise_baseline(&self, state: &mut State) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(state.tolerated_at);
        let read = self.read.load(Ordering::Relaxed);
        let traffic = read.saturating_add(self.written.load(Ordering::Relaxed));
        let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let tolerated = (milliseconds.saturating_mul(TOLERATED_PER_SECOND) / 1000)
            .saturating_add(traffic.saturating_sub(state.tolerated_traffic) / TOLERATED_TRAFFIC);
        if tolerated > 0 {
            state.tolerated_at = now;
            state.tolerated_traffic = traffic;
            state.received_baseline = state.received_baseline.saturating_add_unsigned(tolerated);
        }
    }

    fn received_bytes(&self, counters: &ConnectionStats) -> i64 {
        let chunks_read = self.chunks_read.load(Ordering::Relaxed);
        received_bytes(counters, self.read.load(Ordering::Relaxed), chunks_read)
    }

    fn sent_bytes(&self, state: &State) -> i64 {
        signed_difference(self.written.load(Ordering::Relaxed), state.acks.bytes())
    }

    fn update_received(&self, state: &mut State, counters: &ConnectionStats) {
        let received = self.received_bytes(counters);
        state.received_baseline = state.received_baseline.min(received);
        let streams = u64::try_from(lock(&self.streams).len()).unwrap_or(u64::MAX);
        let most = streams.saturating_mul(STREAM_OVERHEAD);
        state.received =
            excess(received, state.received_baseline).min(state.window.saturating_add(most));
    }

    fn update_sent(&self, state: &mut State) {
        let sent = self.sent_bytes(state);
        state.sent_baseline = state.sent_baseline.min(sent);
        state.sent = excess(sent, state.sent_baseline).min(self.windows.send);
    }

    fn charge(&self, state: &mut State) {
        let held = state.received.saturating_add(state.sent);
        let held = held - held % STEP;
        if held > state.charged {
            self.memory.charge(held - state.charged);
            self.request_check();
        } else {
            self.memory.release(state.charged - held);
        }
        state.charged = held;
    }

    #[cfg(test)]
    pub(super) fn receive_window(&self) -> u64 {
        self.state().window
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.memory.held()
    }
}

/// The part of one stream.
pub(super) struct StreamBuffers {
    flow: Arc<FlowControl>,
    state: Arc<StreamFlags>,
    /// Bytes read since the stream last waited for data.
    read_since_wait: usize,
    unreported_read: u64,
    unreported_written: u64,
}

#[derive(Debug)]
struct StreamFlags {
    /// Whether there may be something to read: it has not waited for data since it last read.
    is_unread: AtomicBool,
    /// Whether the last write had no room.
    is_blocked: AtomicBool,
    /// Whether it is to be reset.
    is_reset: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl StreamBuffers {
    /// Whether the stream has to be reset, because memory runs out.
    pub(super) fn is_reset(&self) -> bool {
        self.state.is_reset.load(Ordering::Acquire)
    }

    /// This number of bytes was read, in this number of whole frames if that is known.
    pub(super) fn read(&mut self, bytes: usize, chunks: usize) {
        let flow = &*self.flow;
        let chunks = u64::try_from(chunks).unwrap_or(u64::MAX);
        flow.chunks_read.fetch_add(chunks, Ordering::Relaxed);
        if !self.state.is_unread.load(Ordering::Relaxed) {
            self.state.is_unread.store(true, Ordering::Relaxed);
            flow.unread_streams.fetch_add(1, Ordering::Relaxed);
        }
        self.read_since_wait = self.read_since_wait.saturating_add(bytes);
        if self.read_since_wait >= CHECKED_READ_BYTES {
            flow.request_check();
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        flow.read.fetch_add(bytes, Ordering::Relaxed);
        self.unreported_read = self.unreported_read.saturating_add(bytes);
        if self.unreported_read >= flow.report_every.load(Ordering::Relaxed) {
            self.unreported_read = 0;
            flow.on_read();
        }
    }

    /// There is nothing to read now. Gives whether the stream has to be reset; otherwise the task is
    /// woken when it has.
    pub(super) fn wait_for_data(&mut self, cx: &mut Context<'_>) -> bool {
        self.set_read();
        self.wait_for_reset(cx)
    }

    /// Nothing is read now. Gives whether the stream has to be reset; otherwise the task is woken when
    /// it has.
    pub(super) fn wait_for_reset(&self, cx: &mut Context<'_>) -> bool {
        self.state.reader.register(cx.waker());
        self.is_reset()
    }

    /// All that comes was read, or is of no interest any more.
    pub(super) fn set_read(&mut self) {
        self.read_since_wait = 0;
        if self.state.is_unread.load(Ordering::Relaxed) {
            self.state.is_unread.store(false, Ordering::Relaxed);
            self.flow.unread_streams.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// So many bytes were written.
    pub(super) fn written(&mut self, bytes: usize) {
        if self.state.is_blocked.load(Ordering::Relaxed) {
            self.state.is_blocked.store(false, Ordering::Relaxed);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.flow.written.fetch_add(bytes, Ordering::Relaxed);
        self.unreported_written = self.unreported_written.saturating_add(bytes);
        if self.unreported_written >= STEP {
            self.unreported_written = 0;
            self.flow.on_written();
        }
    }

    /// There is no room to write. Gives whether the stream has to be reset; otherwise the task is woken
    /// when it has.
    pub(super) fn wait_for_room(&self, cx: &mut Context<'_>) -> bool {
        self.state.is_blocked.store(true, Ordering::Relaxed);
        self.state.writer.register(cx.waker());
        self.is_reset()
    }
}

impl Drop for StreamBuffers {
    fn drop(&mut self) {
        self.set_read();
        let mut streams = lock(&self.flow.streams);
        let own = Arc::as_ptr(&self.state);
        streams.retain(|stream| !std::ptr::eq(stream.as_ptr(), own));
    }
}

fn report_every(window: u64) -> u64 {
    (window / 4).clamp(1, 4 * STEP)
}

/// What was received and not read, from an arbitrary origin.
fn received_bytes(counters: &ConnectionStats, read: u64, chunks_read: u64) -> i64 {
    let (datagrams, frames) = (&counters.udp_rx, &counters.frame_rx);
    let overhead = (datagrams.datagrams.saturating_mul(DATAGRAM_OVERHEAD))
        .saturating_add(frames.stream.saturating_mul(STREAM_FRAME_OVERHEAD))
        .saturating_add(frames.acks.saturating_mul(ACK_FRAME_BYTES));
    let chunks =
        signed_difference(frames.stream, chunks_read).saturating_mul(CHUNK_BYTES.cast_signed());
    signed_difference(datagrams.bytes, overhead.saturating_add(read)).saturating_add(chunks)
}

fn signed_difference(more: u64, less: u64) -> i64 {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    signed(more).saturating_sub(signed(less))
}

fn excess(value: i64, least: i64) -> u64 {
    u64::try_from(value.saturating_sub(least)).unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
