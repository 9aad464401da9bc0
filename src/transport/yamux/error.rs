//! Why a connection or a stream ends before its time.

use std::io;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The remote broke the specification, or one of the bounds that go with it.
    #[error("the remote violated the yamux protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The remote ended the connection.
    #[error("the remote closed the connection")]
    RemoteClosed,
    /// The connection has ended before, here or with an error that was reported then.
    #[error("the connection is closed")]
    Closed,
    /// For minutes the remote has said nothing, not even a reply to pings, or has read nothing.
    #[error("the remote does not answer")]
    Unresponsive,
    /// The connection held more memory than others when there was none left.
    #[error("memory has run out, and the connection held much of it")]
    OutOfMemory,
    /// All stream ids of the connection have been used.
    #[error("the connection has used up its stream ids")]
    StreamIdsExhausted,
}

/// What a remote did that ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A frame of a version other than 0.
    #[error("unknown version {0}")]
    UnknownVersion(u8),
    /// A frame of a type that the specification does not have.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// A stream was opened with an id that only this side may assign.
    #[error("stream id {0} is not the remote's to open")]
    WrongParity(u32),
    /// A stream was opened with the id of another that is still open.
    #[error("stream id {0} is in use")]
    DuplicateStream(u32),
    /// More data arrived than the stream's window allowed.
    #[error("the receive window of stream {0} was exceeded")]
    WindowExceeded(u32),
    /// Window updates exceed what a window can be (2³² − 1 bytes).
    #[error("the send window of stream {0} overflowed")]
    CreditOverflow(u32),
    /// Data arrived on a stream that the remote had finished.
    #[error("data after the end of stream {0}")]
    DataAfterFin(u32),
    /// More pings are unanswered than any measurement needs.
    #[error("too many pings")]
    PingFlood,
    /// The remote causes answers faster than it reads them.
    #[error("too many control frames")]
    ControlFlood,
}

/// The error of a stream that was reset, by the remote or for a bound that it exceeded.
pub(super) fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream was reset")
}

/// The error of a stream whose connection ended under it.
pub(super) fn aborted() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the connection ended before the stream did",
    )
}

/// The failure of a stream that the remote has finished, and whose connection ended afterwards.
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
