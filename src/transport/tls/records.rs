//! Records of TLS, from bytes and to bytes.
//!
//! `rustls` must always see the same bytes again that it has not told to discard: it remembers where
//! in them a message of the handshake lies that is not complete.

use std::io;

use bytes::BytesMut;
use rustls::{
    CommonState,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic},
};

/// Room for an alert, encrypted.
const ALERT_BYTES: usize = 64;

/// A connection, once it is known where its bytes are.
pub(super) struct Records {
    tls: UnbufferedServerConnection,
    is_closed: bool,
}

/// Where decrypted bytes go.
pub(super) struct PlaintextSink<'a> {
    buffer: &'a mut [u8],
    written: usize,
    overflow: &'a mut BytesMut,
}

impl<'a> PlaintextSink<'a> {
    /// Into `buffer` first, and what finds no room there into `overflow`.
    pub(super) fn new(buffer: &'a mut [u8], overflow: &'a mut BytesMut) -> Self {
        Self {
            buffer,
            written: 0,
            overflow,
        }
    }

    /// How many bytes are in the buffer.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.buffer.get_mut(self.written..).unwrap_or_default();
        let (fitting, rest) = bytes.split_at(bytes.len().min(room.len()));
        let (room, _) = room.split_at_mut(fitting.len());
        room.copy_from_slice(fitting);
        self.written += fitting.len();
        self.overflow.extend_from_slice(rest);
    }
}

impl Records {
    pub(super) fn new(tls: UnbufferedServerConnection) -> Self {
        Self {
            tls,
            is_closed: false,
        }
    }

    pub(super) fn state(&self) -> &CommonState {
        &self.tls
    }

    /// Whether the other side has told that its data is complete.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Decrypts what is complete in `records`, and tells how many of their bytes are done with.
    /// Answers of the protocol are put behind `replies`, also what the other side is to know of an
    /// error.
    pub(super) fn decrypt(
        &mut self,
        records: &mut [u8],
        sink: &mut PlaintextSink<'_>,
        replies: &mut BytesMut,
    ) -> io::Result<usize> {
        let result = self.process(records, sink, replies, |_| Ok(()));
        if result.is_err()
            && let Ok(ConnectionState::EncodeTlsData(alert)) =
                self.tls.process_tls_records(records).state
        {
            encode(alert, replies)?;
        }
        result.map(|(used, _)| used)
    }

    /// Encrypts `bytes` into `out`, and tells how many bytes that takes. `records` are those that
    /// were not done with when the last ones were result.
    pub(super) fn encrypt(
        &mut self,
        records: &mut [u8],
        sink: &mut PlaintextSink<'_>,
        replies: &mut BytesMut,
        bytes: &[u8],
        out: &mut [u8],
    ) -> io::Result<usize> {
        let result = self.process(records, sink, replies, |mut traffic| {
            traffic.encrypt(bytes, out).map_err(io::Error::other)
        });
        result?.1.ok_or(io::ErrorKind::BrokenPipe.into())
    }

    /// Puts behind `replies` that our data is complete.
    pub(super) fn close(
        &mut self,
        records: &mut [u8],
        sink: &mut PlaintextSink<'_>,
        replies: &mut BytesMut,
    ) -> io::Result<()> {
        let mut alert = [0; ALERT_BYTES];
        let (_, length) = self.process(records, sink, replies, |mut traffic| {
            let length = traffic.queue_close_notify(&mut alert);
            length.map_err(io::Error::other)
        })?;
        let alert = alert.get(..length.unwrap_or_default()).unwrap_or_default();
        replies.extend_from_slice(alert);
        Ok(())
    }

    /// Goes on as far as `records` allow. Then `write`, if that is possible already and still.
    fn process<R>(
        &mut self,
        records: &mut [u8],
        sink: &mut PlaintextSink<'_>,
        replies: &mut BytesMut,
        write: impl FnOnce(WriteTraffic<'_, ServerConnectionData>) -> io::Result<R>,
    ) -> io::Result<(usize, Option<R>)> {
        let mut used = 0;
        loop {
            let rest = records.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(rest);
            used += discard;
            match state.map_err(invalid)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        sink.push(record.payload);
                        used += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(reply) => encode(reply, replies)?,
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::PeerClosed => self.is_closed = true,
                ConnectionState::WriteTraffic(traffic) => {
                    return Ok((used, Some(write(traffic)?)));
                }
                // More is needed, or nothing will come any more.
                _ => return Ok((used, None)),
            }
        }
    }
}

fn encode(
    mut reply: EncodeTlsData<'_, ServerConnectionData>,
    replies: &mut BytesMut,
) -> io::Result<()> {
    let start = replies.len();
    // The library says how much room it needs.
    while let Err(error) = reply.encode(replies.get_mut(start..).unwrap_or_default()) {
        let EncodeError::InsufficientSize(size) = error else {
            return Err(io::Error::other(error));
        };
        replies.resize(start + size.required_size, 0);
    }
    Ok(())
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
