//! The errors of connections and streams.

use std::io;

/// The error with which a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The remote violated the specification, or a bound that protects the relay.
    #[error("the remote violated the yamux protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The remote ended the connection.
    #[error("the remote closed the connection")]
    RemoteClosed,
    /// The connection was closed here, or has ended with an error that was reported before.
    #[error("the connection is closed")]
    Closed,
    /// The remote has not sent anything for three minutes, not even replies to pings, or has not read
    /// anything that was queued for it.
    #[error("the remote is unresponsive")]
    Unresponsive,
    /// The connection was closed to free memory.
    #[error("the connection was closed to free memory")]
    OutOfMemory,
    /// All stream ids of the connection have been used.
    #[error("all stream ids of the connection are used up")]
    StreamIdsExhausted,
}

/// The violation by which a remote ended its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame of a version other than 0.
    #[error("unknown version {0}")]
    UnknownVersion(u8),
    /// A frame of a type that the specification does not define.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// A stream was opened with an id that only this side assigns, or with 0.
    #[error("stream id {0} has the wrong parity")]
    WrongParity(u32),
    /// A stream was opened with the id of a stream that the remote has not finished.
    #[error("stream id {0} is in use")]
    DuplicateStream(u32),
    /// More data was sent than the stream's receive window allows.
    #[error("the receive window of stream {0} was exceeded")]
    WindowExceeded(u32),
    /// Window updates exceed the maximum window of 2³² − 1 bytes.
    #[error("the send window of stream {0} overflowed")]
    CreditOverflow(u32),
    /// Data was sent on a stream after FIN.
    #[error("data after the end of stream {0}")]
    DataAfterFin(u32),
    /// More than 32 pings are unanswered, because the remote does not read the replies.
    #[error("too many pings")]
    PingFlood,
    /// The remote causes control frames faster than it reads them.
    #[error("too many control frames")]
    ControlFlood,
}

/// The error of a stream that was reset, by the remote or because of a bound.
pub(super) fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream was reset")
}

/// The error of a stream whose connection has ended.
pub(super) fn aborted() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the connection ended before the stream did",
    )
}

/// The failure of a stream whose connection ended after the remote had finished the stream.
pub(super) fn unread() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "the remote does not read the stream any more",
    )
}

/// The error of writing to a stream after closing it.
pub(super) fn finished() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "the stream is closed for writing",
    )
}
