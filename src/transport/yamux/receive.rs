//! What the remote sends: frames, decoded piece by piece and judged by their header.

use super::{
    INITIAL_WINDOW,
    error::ProtocolError,
    frame::{Flags, HEADER_LEN, Header, Kind},
    session::Session,
    stream_state::Direction,
};

/// How many times as much as its bytes a chunk may have room for, which others are expected to fill.
const EXPECTED_FACTOR: usize = 4;

/// Where in the sequence of frames the remote is.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    header: [u8; HEADER_LEN],
    /// How much of `header` has arrived.
    filled: usize,
    /// The payload that follows, if any is missing.
    payload: Option<Payload>,
}

/// A payload that is on its way. Only its header was believed so far: nothing is allocated for
/// bytes that have not arrived.
#[derive(Debug, Clone, Copy)]
struct Payload {
    /// Who gets it. `None` discards it: its stream was unknown when it began, and must not get
    /// bytes that no window was asked for even if it comes into being meanwhile.
    stream: Option<u32>,
    missing: usize,
    /// Whether the stream is finished with it.
    fin: bool,
}

impl Decoder {
    /// Whether a part of a payload for this stream is still missing.
    pub(super) fn is_receiving(&self, stream: u32) -> bool {
        self.payload
            .is_some_and(|payload| payload.stream == Some(stream))
    }

    /// Takes what is missing of a header from `bytes`.
    fn header(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEADER_LEN]> {
        let space = self.header.get_mut(self.filled..).unwrap_or_default();
        let n = space.len().min(bytes.len());
        let (now, later) = bytes.split_at(n);
        let (space, _) = space.split_at_mut(n);
        space.copy_from_slice(now);
        *bytes = later;
        self.filled += n;
        if self.filled < HEADER_LEN {
            return None;
        }
        self.filled = 0;
        Some(self.header)
    }
}

impl Session {
    /// Takes bytes from the socket. After an error the connection has to end.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> Result<(), ProtocolError> {
        while !bytes.is_empty() {
            if let Some(payload) = self.decoder.payload {
                let (now, later) = bytes.split_at(payload.missing.min(bytes.len()));
                bytes = later;
                self.keepalive.on_receive();
                self.on_payload(payload, now, later.len());
            } else if let Some(header) = self.decoder.header(&mut bytes) {
                self.on_header(Header::decode(header)?)?;
                if self.send_queue.is_flooded() {
                    return Err(ProtocolError::ControlFlood);
                }
            }
        }
        Ok(())
    }

    fn on_header(&mut self, header: Header) -> Result<(), ProtocolError> {
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
            Kind::GoAway => {
                self.going_away = true;
                self.wake_opener();
                Ok(())
            }
        }
    }

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

    /// A stream that goes beyond a limit is refused; what follows finds no such stream.
    fn on_syn(&mut self, header: Header) -> Result<(), ProtocolError> {
        let id = header.stream;
        if id == 0 || self.role.opens(id) {
            return Err(ProtocolError::WrongParity(id));
        }
        if self.streams.contains_key(&id) || self.abandoned.contains(&id) {
            return Err(ProtocolError::DuplicateStream(id));
        }
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

    /// The remote has accepted or refused a stream that was opened here.
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
        self.on_ack(id);
        self.abandoned.remove(&id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.accepted || stream.inbound == Direction::Finished {
            stream.reset();
            self.wakers.extend(stream.take_wakers());
        } else {
            // Nobody has seen the stream yet, and there is nothing complete to see.
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
            if stream.inbound == Direction::Open {
                if !stream.window.reserve(header.length) {
                    return Err(ProtocolError::WindowExceeded(id));
                }
                let most = self
                    .config
                    .max_receive_buffer
                    .saturating_add(self.delivered);
                if !self.unread.has_room(length, most) {
                    stream.reset();
                    self.wakers.extend(stream.take_wakers());
                    self.send_rst(id);
                }
            }
            true
        } else {
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
        self.on_payload(payload, &[], 0);
        Ok(())
    }

    /// Passes on a part of a payload. A stream that is gone or was reset meanwhile gets nothing.
    ///
    /// So many bytes have arrived behind it. They are likely to be for the same stream, whose chunks
    /// are worth more when they are long.
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
            // There was room when the header came; others may have taken it since.
            let most = self
                .config
                .max_receive_buffer
                .saturating_add(self.delivered);
            let expected = (bytes.len() + behind).min(EXPECTED_FACTOR * bytes.len());
            let has_room_ahead = self.unread.has_room(expected, most);
            if has_room_ahead || self.unread.has_room(bytes.len(), most) {
                let before = stream.held_bytes();
                let expected = if has_room_ahead { expected } else { 0 };
                stream.unread.push(bytes, expected);
                self.unread.replace(before, stream.held_bytes());
                self.wakers.extend(stream.reader.take());
            } else {
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
