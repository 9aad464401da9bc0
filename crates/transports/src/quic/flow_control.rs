//! The receive window of a connection, and the accounting of its buffers: bytes that are received and
//! not read, and bytes that are written and not acknowledged.
//!
//! # Receive window
//!
//! The window starts with [`INITIAL_WINDOW`]. It grows in two cases:
//!
//! - Streams are read so fast that the window limits them: it doubles when more than half of it is read
//!   per round trip, up to the sum of the windows of the existing streams.
//! - Unread streams hold half of it: it grows by the window of a stream for each of them, so that they
//!   do not block the other streams.
//!
//! It grows up to [`Config::receive_window`](super::Config::receive_window), and only while there is
//! [credit](super::credit), the connection's memory account has room, and there is no memory pressure.
//! It never shrinks, because QUIC has no way to revoke credit.
//!
//! # Accounting
//!
//! quinn reports neither the number of unread bytes nor that of unacknowledged bytes. Both are
//! estimated:
//!
//! - *Received*: the bytes of all datagrams of the connection without headers, and [`CHUNK_BYTES`] for
//!   each stream frame, minus the same for what was read. A frame behind a gap in its stream keeps its
//!   whole datagram allocated, so padding counts. Duplicate packets and frames without data are never
//!   read, so the estimate is relative to a baseline: its lowest value so far, which is raised with
//!   [time](TOLERATED_PER_SECOND) and [traffic](TOLERATED_TRAFFIC), more slowly than an attack could
//!   fill memory. The upper bound is the window, and [`STREAM_OVERHEAD`] for each stream.
//! - *Sent*: the bytes that were written, minus those that the peer has acknowledged, relative to the
//!   lowest value so far; 0 if no packet is in flight and nothing was written since the last check. The
//!   upper bound is the send window.
//!
//! The account is charged in multiples of [`STEP`]: whenever 16 to 64 KiB were read or written, and
//! periodically while the connection holds buffers, has a larger window, or has unread streams. An idle
//! connection has no timer and is charged nothing; its peer can send [`INITIAL_WINDOW`] without being
//! noticed, which is within the guarantee of each connection. Under memory pressure every connection
//! is charged once a second.

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
use resource_manager::{ConnectionMemory, Relief, Resources};

use super::{
    ack_counters::AckCounters,
    credit::{Credit, INITIAL_WINDOW},
};

/// The number of bytes of a datagram that are not frames: the packet header and the authentication tag.
const DATAGRAM_OVERHEAD: u64 = 32;

/// The header of a stream frame, and the usual size of an ACK frame, in bytes.
const STREAM_FRAME_OVERHEAD: u64 = 8;
const ACK_FRAME_BYTES: u64 = 12;

/// The number of bytes that quinn allocates for each unread frame in addition to its data.
const CHUNK_BYTES: u64 = 64;

/// The maximum number of bytes that quinn keeps for a stream beyond its unread data: by its limit,
/// 32 KiB of datagrams that are partly read, and the list of chunks.
const STREAM_OVERHEAD: u64 = 64 * 1024;

/// The amount of received bytes that are assumed not to be held although they are never read: bytes per
/// second, and a fraction of the traffic.
const TOLERATED_PER_SECOND: u64 = 512;
const TOLERATED_TRAFFIC: u64 = 32;

/// The account is charged in multiples of this number of bytes, rounded down.
const STEP: u64 = 16 * 1024;

/// A check is requested once a stream has read this many bytes without waiting for data. Pings, of 32
/// bytes, do not cause one.
const CHECKED_READ_BYTES: usize = 512;

/// With fewer bytes in flight, only packets with acknowledgements are, which are not acknowledged
/// themselves.
const NOTHING_IN_FLIGHT: u64 = 2 * 1024;

/// The interval of checks while a connection holds buffers, and while it only has a larger window.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
const SLOW_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum windows of a connection, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowLimits {
    /// The maximum receive window of the connection.
    pub(super) receive: u64,
    /// The receive window of each stream.
    pub(super) stream: u64,
    /// The maximum send window of the connection.
    pub(super) send: u64,
}

/// The flow control of one connection, shared by the muxer and its streams.
pub(super) struct FlowControl {
    connection: quinn::Connection,
    resources: Resources,
    memory: ConnectionMemory,
    windows: WindowLimits,
    /// The bytes that streams have read and written.
    read: AtomicU64,
    written: AtomicU64,
    /// The number of chunks that streams have read, each of which was a frame.
    chunks_read: AtomicU64,
    /// The number of streams that may have unread data, see [`StreamFlags::is_unread`].
    unread_streams: AtomicUsize,
    /// The number of bytes after which the reader of a stream updates the account.
    report_every: AtomicU64,
    /// Whether a periodic check is needed.
    needs_check: AtomicBool,
    /// Wakes the muxer when a check becomes necessary.
    check_waker: AtomicWaker,
    streams: Mutex<Vec<Weak<StreamFlags>>>,
    state: Mutex<State>,
}

struct State {
    window: u64,
    credit: Credit,
    /// The start of the current measurement of the read rate, and the bytes that were read until then.
    measured_at: Instant,
    measured_read: u64,
    /// The values of the estimates at which no buffers are held.
    received_baseline: i64,
    sent_baseline: i64,
    /// The last time at which `received_baseline` was raised, and the traffic until then in bytes.
    tolerated_at: Instant,
    tolerated_traffic: u64,
    received: u64,
    sent: u64,
    charged: u64,
    acks: Arc<AckCounters>,
    /// The bytes that were written until the last check.
    checked_written: u64,
    /// Whether streams were reset since the last check.
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
        // Acknowledged bytes include those of the handshake.
        {
            let mut state = flow.state();
            state.sent_baseline = flow.sent_bytes(&state);
        }
        Arc::new(flow)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The accounting of a new stream.
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

    /// Whether the send window may exceed the minimum by `more` bytes.
    pub(super) fn may_send(&self, more: u64) -> bool {
        more == 0 || (!self.resources.under_pressure() && self.memory.has_room(more, u64::MAX))
    }

    /// Switches to the congestion controller of the new path after the peer's address has changed.
    ///
    /// The buffers are still attributed to the address that was validated by the handshake: before
    /// path validation, a packet with a forged source address looks like a migration.
    pub(super) fn on_migration(&self) {
        let mut state = self.state();
        state.acks = AckCounters::of_path(&self.connection);
        state.sent_baseline = self.sent_bytes(&state);
    }

    /// Ready when relief is requested because memory runs out. Otherwise the task is woken when it is,
    /// or when a [check](Self::check) is needed.
    pub(super) fn poll_relief(&self, cx: &mut Context<'_>) -> Poll<Relief> {
        self.check_waker.register(cx.waker());
        let relief = self.memory.poll_relief(cx);
        // Data behind a gap in a stream wakes no task, and would not be noticed without a timer.
        if self.resources.under_pressure() {
            self.request_check();
        }
        relief
    }

    /// Whether a periodic [check](Self::check) is needed.
    pub(super) fn needs_check(&self) -> bool {
        self.needs_check.load(Ordering::Relaxed)
    }

    fn request_check(&self) {
        // The load avoids a write to a shared cache line in the usual case. The swap ensures that only
        // one of several callers wakes the muxer.
        if !self.needs_check() && !self.needs_check.swap(true, Ordering::Relaxed) {
            self.check_waker.wake();
        }
    }

    /// Updates the account, and grows the window if unread streams block others. Returns the time until
    /// the next check, if one is needed.
    pub(super) fn check(&self) -> Option<Duration> {
        // Cleared first: a request during the check leads to another one.
        self.needs_check.store(false, Ordering::Relaxed);
        let mut state = self.state();
        let counters = self.connection.stats();
        let unread = self.unread_streams.load(Ordering::Relaxed);
        self.raise_baseline(&mut state);
        let written = self.written.load(Ordering::Relaxed);
        let is_acknowledged =
            written == state.checked_written && state.acks.in_flight() < NOTHING_IN_FLIGHT;
        // No written data is assumed to be held: it is acknowledged, or was dropped with its stream.
        // The estimate is recalibrated, which corrects its drift.
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

    /// Resets the streams that may hold buffers: those with unread data or a blocked writer. If more is
    /// held than the window allows, which is data behind gaps, all streams are reset.
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

    /// Called when a stream has read [`Self::report_every`] bytes: updates the account, and grows the
    /// window if it limits the connection.
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
        // `read / elapsed > window / 2 / rtt`, without divisions: more than half of the window per
        // round trip.
        let in_round_trip = u128::from(read).saturating_mul(counters.path.rtt.as_nanos());
        let half = u128::from(state.window / 2).saturating_mul(elapsed.as_nanos());
        if in_round_trip > half {
            let streams = u64::try_from(lock(&self.streams).len()).unwrap_or(u64::MAX);
            let limit = streams.saturating_mul(self.windows.stream);
            let twice = state.window.saturating_mul(2);
            self.grow(&mut state, twice.min(limit));
        }
    }

    /// Called when a stream has written [`STEP`] bytes: updates the account.
    fn on_written(&self) {
        let mut state = self.state();
        self.update_sent(&mut state);
        self.charge(&mut state);
    }

    /// Grows the receive window up to `target`, as far as memory and credit allow.
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

    /// Raises the baseline of received bytes, for those that are neither read nor held.
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
        let limit = streams.saturating_mul(STREAM_OVERHEAD);
        state.received =
            excess(received, state.received_baseline).min(state.window.saturating_add(limit));
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

/// The accounting of one stream.
pub(super) struct StreamBuffers {
    flow: Arc<FlowControl>,
    state: Arc<StreamFlags>,
    /// The number of bytes read since the stream last waited for data.
    read_since_wait: usize,
    unreported_read: u64,
    unreported_written: u64,
}

#[derive(Debug)]
struct StreamFlags {
    /// Whether there may be unread data: the stream has not waited for data since it last read.
    is_unread: AtomicBool,
    /// Whether the last write was blocked by the send window.
    is_blocked: AtomicBool,
    /// Whether the stream has to be reset. Set once, and never cleared.
    is_reset: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl StreamBuffers {
    /// Whether the stream has to be reset to free memory.
    pub(super) fn is_reset(&self) -> bool {
        self.state.is_reset.load(Ordering::Acquire)
    }

    /// Records that `bytes` bytes were read, in `chunks` frames.
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

    /// Records that there is no data to read. Returns whether the stream has to be reset; otherwise the
    /// task is woken when it has to be.
    pub(super) fn wait_for_data(&mut self, cx: &mut Context<'_>) -> bool {
        self.set_read();
        self.wait_for_reset(cx)
    }

    /// Returns whether the stream has to be reset; otherwise the task is woken when it has to be.
    pub(super) fn wait_for_reset(&self, cx: &mut Context<'_>) -> bool {
        // The flag is read after the waker is registered, and set before the task is woken: one of the
        // two sides sees the other.
        self.state.reader.register(cx.waker());
        self.is_reset()
    }

    /// Records that there is no unread data, or that it will not be read.
    pub(super) fn set_read(&mut self) {
        self.read_since_wait = 0;
        if self.state.is_unread.load(Ordering::Relaxed) {
            self.state.is_unread.store(false, Ordering::Relaxed);
            self.flow.unread_streams.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Records that `bytes` bytes were written.
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

    /// Records that a write was blocked. Returns whether the stream has to be reset; otherwise the task
    /// is woken when it has to be.
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

/// The estimate of bytes that are received and not read, relative to an arbitrary origin.
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
