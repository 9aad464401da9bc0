//! The TLS record layer: decrypts records from bytes, and encrypts bytes to records.
//!
//! rustls' unbuffered API is a state machine over a slice of received bytes. Each call of
//! `process_tls_records` returns a state and the number of bytes to discard. The bytes that are not
//! discarded must be passed again, unchanged, with those that follow: rustls stores offsets into them
//! while a handshake message is incomplete. So the caller keeps them, also when it only wants to
//! write.

use std::io;

use bytes::BytesMut;
use rustls::{
    CommonState,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic},
};

/// The maximum length of an encrypted alert in bytes.
const ALERT_BYTES: usize = 64;

/// The TLS state of a connection, without buffers.
pub(super) struct Records {
    tls: UnbufferedServerConnection,
    is_closed: bool,
}

/// The destination of decrypted bytes.
pub(super) struct PlaintextSink<'a> {
    buffer: &'a mut [u8],
    written: usize,
    overflow: &'a mut BytesMut,
}

impl<'a> PlaintextSink<'a> {
    /// A sink that fills `buffer` first, and appends the rest to `overflow`.
    pub(super) fn new(buffer: &'a mut [u8], overflow: &'a mut BytesMut) -> Self {
        Self {
            buffer,
            written: 0,
            overflow,
        }
    }

    /// The number of bytes in the buffer.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    fn push(&mut self, bytes: &[u8]) {
        let space = self.buffer.get_mut(self.written..).unwrap_or_default();
        let (fitting, rest) = bytes.split_at(bytes.len().min(space.len()));
        let (space, _) = space.split_at_mut(fitting.len());
        space.copy_from_slice(fitting);
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

    /// Whether the peer has sent `close_notify`: its data is complete.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Decrypts the complete records in `records` into `sink`. Returns the number of bytes to discard.
    /// Handshake messages, and the alert in case of an error, are appended to `replies`.
    ///
    /// # Errors
    /// When the peer violates the protocol, or a record cannot be authenticated. What was decrypted
    /// before it is in `sink`.
    pub(super) fn decrypt(
        &mut self,
        records: &mut [u8],
        sink: &mut PlaintextSink<'_>,
        replies: &mut BytesMut,
    ) -> io::Result<usize> {
        let result = self.process(records, sink, replies, |_| Ok(()));
        // After an error rustls is in a terminal state, in which it provides the alert once.
        if result.is_err()
            && let Ok(ConnectionState::EncodeTlsData(alert)) =
                self.tls.process_tls_records(records).state
        {
            encode(alert, replies)?;
        }
        result.map(|(used, _)| used)
    }

    /// Encrypts `bytes` into `out`. Returns the length of the ciphertext. `records` are the bytes that
    /// [`Self::decrypt`] did not discard.
    ///
    /// # Errors
    /// `BrokenPipe` if the state does not allow writing, which is the case after an error.
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

    /// Appends the alert `close_notify` to `replies`, if the state allows it.
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

    /// Advances the state machine as far as `records` allow, and calls `write` if it gets to a state
    /// that allows writing. Returns the number of bytes to discard, and the result of `write`.
    ///
    /// The loop ends: each iteration discards bytes, produces a reply, or gets to a terminal state of
    /// this call.
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
            // In addition to what the state itself discards below: this is for records that were
            // handled before, such as handshake messages.
            used += discard;
            match state.map_err(invalid)? {
                // Records of application data. Each is decrypted in place, copied to the sink, and
                // discarded.
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        sink.push(record.payload);
                        used += record.discard;
                    }
                }
                // A handshake message or alert, of which there may be several in a row.
                ConnectionState::EncodeTlsData(reply) => encode(reply, replies)?,
                // rustls waits until the encoded data is sent. It is queued in order before anything
                // that is encrypted later, which is sufficient.
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                // No more data from the peer; writing is still possible, so this is not the end.
                ConnectionState::PeerClosed => self.is_closed = true,
                // All received records are handled, and the handshake is complete.
                ConnectionState::WriteTraffic(traffic) => {
                    return Ok((used, Some(write(traffic)?)));
                }
                // Blocked until more bytes arrive, or closed in both directions.
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
    // The first call usually fails with the required size, and the second one succeeds.
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
