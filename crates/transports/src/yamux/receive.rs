//! The receiving half of the state machine: frames are decoded incrementally and validated by their
//! header.
//!
//! A frame is handled in two stages: its header when all twelve bytes have arrived, and its payload
//! in the pieces in which it arrives. All protocol violations and the receive window are checked on
//! the header, before any byte of the payload is stored; memory is checked for each piece, since
//! other streams and connections may take it in between.
//!
//! Transitions of a stream caused by the remote:
//!
//! | frame | inbound | outbound |
//! |---|---|---|
//! | SYN | new stream: open | open |
//! | data | unchanged, or both reset if memory does not suffice | |
//! | FIN, after its payload | open → finished; otherwise unchanged | unchanged |
//! | RST | open → reset; finished stays | → reset |
//!
//! `inbound` never returns to open and never leaves `Finished` by a frame of the remote, so end-of-file
//! is reported for complete data only, and consistently by every later read.

use super::{
    INITIAL_WINDOW,
    decoder::Payload,
    error::ProtocolError,
    frame::{Flags, Header, Kind},
    session::Session,
    stream_state::Direction,
};

/// The maximum capacity of a chunk relative to the bytes that are stored in it at first. The rest is
/// for bytes that have already arrived and are likely to follow.
const EXPECTED_FACTOR: usize = 4;

impl Session {
    /// Handles bytes from the socket.
    ///
    /// # Errors
    /// When the remote violates the protocol. The connection has to be closed then: the session has
    /// handled all frames before the violation and none after it.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> Result<(), ProtocolError> {
        while !bytes.is_empty() {
            if let Some(payload) = self.decoder.payload {
                let (now, later) = bytes.split_at(payload.missing.min(bytes.len()));
                bytes = later;
                // A part of a frame is a sign of life: a payload may take longer than a keepalive
                // period over a slow link.
                self.keepalive.on_receive();
                self.on_payload(payload, now, later.len());
            } else if let Some(header) = self.decoder.header(&mut bytes) {
                self.on_header(Header::decode(header)?)?;
                // Checked after each header, so the queue exceeds its bound by the answers to a
                // single frame at most.
                if self.send_queue.is_flooded() {
                    return Err(ProtocolError::ControlFlood);
                }
            }
        }
        Ok(())
    }

    fn on_header(&mut self, header: Header) -> Result<(), ProtocolError> {
        // A reply to a ping is not counted as received data. The remote is pinged again after another
        // minute, instead of every second minute.
        if header.kind == Kind::Ping && header.flags.contains(Flags::ACK) {
            self.keepalive.on_pong();
            self.rtt.on_pong(header.length);
            return Ok(());
        }
        self.keepalive.on_receive();
        match header.kind {
            Kind::Data | Kind::WindowUpdate => self.on_stream_frame(header),
            Kind::Ping if self.send_queue.pong(header.length) => Ok(()),
            Kind::Ping => Err(ProtocolError::PingFlood),
            // Existing streams go on. A task that waits to open a stream tries again: from now on it
            // gets one that is already reset.
            Kind::GoAway => {
                self.going_away = true;
                self.wake_opener();
                Ok(())
            }
        }
    }

    /// A frame may carry several flags, together with data or a window update. They are applied in
    /// the order SYN, ACK, RST, content, FIN: after RST the content finds the stream reset or gone,
    /// and is discarded.
    fn on_stream_frame(&mut self, header: Header) -> Result<(), ProtocolError> {
        let Header { flags, stream, .. } = header;
        if flags.contains(Flags::SYN) {
            self.on_syn(header)?;
        }
        if flags.contains(Flags::ACK) {
            self.on_ack(stream);
        }
        if flags.contains(Flags::RST) {
            self.on_rst(stream);
        }
        match header.kind {
            Kind::Data => self.on_data(header),
            _ => self.on_window_update(header),
        }
    }

    /// The remote opens a stream. Beyond a limit it is refused with RST and not remembered: later
    /// frames for it find no stream and are discarded.
    fn on_syn(&mut self, header: Header) -> Result<(), ProtocolError> {
        let id = header.stream;
        if id == 0 || self.role.opens(id) {
            return Err(ProtocolError::WrongParity(id));
        }
        // The remote has not finished an abandoned stream, so it is still open from its side.
        if self.streams.contains_key(&id) || self.abandoned.contains(&id) {
            return Err(ProtocolError::DuplicateStream(id));
        }
        // Also checked for a stream that is refused below, in which case `on_data` has no window to
        // check.
        if header.kind == Kind::Data && header.length > INITIAL_WINDOW {
            return Err(ProtocolError::WindowExceeded(id));
        }
        if self.streams.len() >= self.config.max_streams
            || self.backlog.len() >= self.config.max_accept_backlog
        {
            self.send_rst(id);
        } else {
            self.enqueue_inbound(id);
        }
        Ok(())
    }

    /// The remote has accepted a stream that was opened here, or refused it with RST. The check of
    /// `accepted` makes repeated answers count once, so `unacknowledged` does not underflow.
    fn on_ack(&mut self, id: u32) {
        if !self.role.opens(id) {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.accepted
        {
            stream.accepted = true;
            self.unacknowledged -= 1;
            self.wake_opener();
        }
    }

    fn on_rst(&mut self, id: u32) {
        // A refusal is an answer, too.
        self.on_ack(id);
        // The remote has forgotten the stream: neither data to be answered nor FIN will arrive.
        self.abandoned.remove(&id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.accepted || stream.inbound == Direction::Finished {
            stream.reset();
            self.wakers.extend(stream.take_wakers());
        } else {
            // The stream is still in the backlog, and its data is incomplete: it is dropped as if it
            // had never been opened. This bounds the memory of a remote that opens and resets
            // streams in a loop. `on_ack` has set `accepted` for streams that were opened here, so
            // they never get to this branch.
            self.backlog.retain(|&waiting| waiting != id);
            self.unread.replace(stream.held_bytes(), 0);
            self.streams.remove(&id);
        }
    }

    fn on_data(&mut self, header: Header) -> Result<(), ProtocolError> {
        let id = header.stream;
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let fin = header.flags.contains(Flags::FIN);
        let known = if let Some(stream) = self.streams.get_mut(&id) {
            if stream.inbound == Direction::Finished && length > 0 {
                return Err(ProtocolError::DataAfterFin(id));
            }
            // The window is not checked on a stream that was reset: its data is discarded, and was
            // usually sent before the remote received RST.
            if stream.inbound == Direction::Open {
                // The whole payload is reserved at once, so a second frame cannot be accepted on
                // credit that the first one has used.
                if !stream.window.reserve(header.length) {
                    return Err(ProtocolError::WindowExceeded(id));
                }
                // `unread` includes the bytes that were delivered to readers, which do not count
                // against the limit of unread bytes.
                let limit = self
                    .config
                    .max_receive_buffer
                    .saturating_add(self.delivered);
                if !self.unread.has_room(length, limit) {
                    stream.reset();
                    self.wakers.extend(stream.take_wakers());
                    self.send_rst(id);
                }
            }
            true
        } else {
            // The first data for an abandoned stream is answered with RST, so the remote learns that
            // it is not read. FIN without data needs no answer: the stream has ended cleanly on both
            // sides. Either way the stream is forgotten, so there is at most one RST. An empty frame
            // without FIN, as some implementations send to acknowledge, changes nothing.
            let is_news = length > 0 || fin;
            let was_abandoned = is_news && self.abandoned.remove(&id);
            if was_abandoned && length > 0 {
                self.send_rst(id);
            }
            false
        };
        let payload = Payload {
            stream: known.then_some(id),
            missing: length,
            fin,
        };
        // Completes a frame without payload, and begins any other.
        self.on_payload(payload, &[], 0);
        Ok(())
    }

    /// Stores a part of a payload. The bytes are discarded if the stream was dropped or reset since
    /// the header arrived.
    ///
    /// `behind` is the number of bytes that have arrived after this part. They are likely to be for
    /// the same stream, so the chunk is allocated for them as well: long chunks can be passed on
    /// without a copy.
    fn on_payload(&mut self, mut payload: Payload, bytes: &[u8], behind: usize) {
        payload.missing -= bytes.len();
        let done = payload.missing == 0;
        self.decoder.payload = (!done).then_some(payload);
        let Some(id) = payload.stream else {
            return;
        };
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.inbound == Direction::Open
            && !bytes.is_empty()
        {
            // Checked again: there was room when the header arrived, but others may have taken it.
            let limit = self
                .config
                .max_receive_buffer
                .saturating_add(self.delivered);
            let expected = (bytes.len() + behind).min(EXPECTED_FACTOR * bytes.len());
            let has_room_ahead = self.unread.has_room(expected, limit);
            if has_room_ahead || self.unread.has_room(bytes.len(), limit) {
                let before = stream.held_bytes();
                let expected = if has_room_ahead { expected } else { 0 };
                stream.unread.push(bytes, expected);
                self.unread.replace(before, stream.held_bytes());
                self.wakers.extend(stream.reader.take());
            } else {
                // Bytes are lost, so the stream must not reach a clean end: `on_fin` below finds
                // it reset and leaves it so.
                stream.reset();
                self.wakers.extend(stream.take_wakers());
                self.send_rst(id);
            }
        }
        if done && payload.fin {
            self.on_fin(id);
        }
    }

    fn on_window_update(&mut self, header: Header) -> Result<(), ProtocolError> {
        let id = header.stream;
        if let Some(stream) = self.streams.get_mut(&id) {
            // An overflow is a violation rather than saturating: the two sides would disagree about
            // the window from then on. Zero is harmless, and usual in frames that only carry flags.
            stream.send_window = stream
                .send_window
                .checked_add(header.length)
                .ok_or(ProtocolError::CreditOverflow(id))?;
            self.wakers.extend(stream.writer.take());
        }
        if header.flags.contains(Flags::FIN) {
            self.on_fin(id);
        }
        Ok(())
    }

    /// The remote has finished its direction. Ignored after a reset, by which data was lost.
    fn on_fin(&mut self, id: u32) {
        self.abandoned.remove(&id);
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.inbound == Direction::Open
        {
            stream.inbound = Direction::Finished;
            self.wakers.extend(stream.reader.take());
        }
    }
}
