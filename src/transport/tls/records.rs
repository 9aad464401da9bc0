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
pub(super) struct Plain<'a> {
    buffer: &'a mut [u8],
    given: usize,
    beside: &'a mut BytesMut,
}

impl<'a> Plain<'a> {
    /// Into `buffer` first, and what finds no room there into `beside`.
    pub(super) fn new(buffer: &'a mut [u8], beside: &'a mut BytesMut) -> Self {
        Self {
            buffer,
            given: 0,
            beside,
        }
    }

    /// How many bytes are in the buffer.
    pub(super) fn given(&self) -> usize {
        self.given
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = self.buffer.get_mut(self.given..).unwrap_or_default();
        let (fitting, rest) = bytes.split_at(bytes.len().min(room.len()));
        let (room, _) = room.split_at_mut(fitting.len());
        room.copy_from_slice(fitting);
        self.given += fitting.len();
        self.beside.extend_from_slice(rest);
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
    /// Answers of the protocol are put behind `answers`, also what the other side is to know of an
    /// error.
    pub(super) fn open(
        &mut self,
        records: &mut [u8],
        plain: &mut Plain<'_>,
        answers: &mut BytesMut,
    ) -> io::Result<usize> {
        let opened = self.advance(records, plain, answers, |_| Ok(()));
        if opened.is_err()
            && let Ok(ConnectionState::EncodeTlsData(alert)) =
                self.tls.process_tls_records(records).state
        {
            encode(alert, answers)?;
        }
        opened.map(|(used, _)| used)
    }

    /// Encrypts `bytes` into `out`, and tells how many bytes that takes. `records` are those that
    /// were not done with when the last ones were opened.
    pub(super) fn seal(
        &mut self,
        records: &mut [u8],
        plain: &mut Plain<'_>,
        answers: &mut BytesMut,
        bytes: &[u8],
        out: &mut [u8],
    ) -> io::Result<usize> {
        let sealed = self.advance(records, plain, answers, |mut traffic| {
            traffic.encrypt(bytes, out).map_err(io::Error::other)
        });
        sealed?.1.ok_or(io::ErrorKind::BrokenPipe.into())
    }

    /// Puts behind `answers` that our data is complete.
    pub(super) fn close(
        &mut self,
        records: &mut [u8],
        plain: &mut Plain<'_>,
        answers: &mut BytesMut,
    ) -> io::Result<()> {
        let mut alert = [0; ALERT_BYTES];
        let (_, length) = self.advance(records, plain, answers, |mut traffic| {
            let length = traffic.queue_close_notify(&mut alert);
            length.map_err(io::Error::other)
        })?;
        let alert = alert.get(..length.unwrap_or_default()).unwrap_or_default();
        answers.extend_from_slice(alert);
        Ok(())
    }

    /// Goes on as far as `records` allow. Then `write`, if that is possible already and still.
    fn advance<R>(
        &mut self,
        records: &mut [u8],
        plain: &mut Plain<'_>,
        answers: &mut BytesMut,
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
                        plain.push(record.payload);
                        used += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(answer) => encode(answer, answers)?,
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
    mut answer: EncodeTlsData<'_, ServerConnectionData>,
    answers: &mut BytesMut,
) -> io::Result<()> {
    let start = answers.len();
    // The library says how much room it needs.
    while let Err(error) = answer.encode(answers.get_mut(start..).unwrap_or_default()) {
        let EncodeError::InsufficientSize(size) = error else {
            return Err(io::Error::other(error));
        };
        answers.resize(start + size.required_size, 0);
    }
    Ok(())
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
