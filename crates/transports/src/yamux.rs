//! Yamux: a stream multiplexer whose streams distinguish a *reset* from an orderly end.
//!
//! This is an implementation of [yamux] (`/yamux/1.0.0`) that preserves how streams end. A relay
//! forwards data that it cannot interpret, so a reset of both streams is its only means to signal that
//! a circuit was cut: without it, truncated data looks like a complete message. The `yamux` crate,
//! which `libp2p` uses, cannot express that:
//!
//! - Its streams read end-of-file when the remote resets them, and when the connection is lost, so
//!   truncated data looks complete to a proxy.
//! - A stream that is dropped after the remote half-closed it sends FIN instead of RST, and one that is
//!   dropped after it was half-closed locally sends nothing.
//!
//! # How a stream ends
//!
//! | event | read | write |
//! |---|---|---|
//! | the remote sent FIN | remaining bytes, then end-of-file | unaffected |
//! | the remote sent RST | remaining bytes, then [`ConnectionReset`] | [`ConnectionReset`] |
//! | RST after FIN | remaining bytes, then end-of-file: that direction was complete | [`ConnectionReset`] |
//! | the connection ended | remaining bytes, then [`ConnectionAborted`] | [`ConnectionAborted`] |
//! | closed here | unaffected | [`BrokenPipe`] |
//!
//! If the remote sent FIN before the connection ended, reads still return end-of-file.
//!
//! # What dropping a stream sends
//!
//! A [`Substream`] that is dropped after both directions ended sends nothing. In any other state it
//! sends RST after the data that it has already queued, with one exception.
//!
//! The sender of a request/response protocol may write, close and drop a stream without reading. The
//! remote may still be reading then, and several implementations discard their receive buffer when
//! RST arrives, which would turn an orderly end into a failure. A stream that is closed here and not
//! finished by the remote is therefore *abandoned*: its id is remembered (1,024 of them at most, the
//! newest), it gets no credit, and the first data that arrives for it is answered with RST. So the
//! remote learns that its data is not read as soon as it sends any.
//!
//! RST is sent at once where that would be too late, or where data is lost:
//! - Bytes were received, or are being received, and were not read. This is always the case if the
//!   remote has exhausted its window, and so could not send the data that would be answered.
//! - A read is pending. A task that drops a stream in this state no longer waits for an answer,
//!   as a relay does with the idle direction of a circuit that it cuts.
//!
//! # Bounds
//!
//! All state that a remote can make grow is bounded, see [`Config`]. If the remote violates the
//! specification, GOAWAY is sent, and the connection ends with a [`ProtocolError`]. Streams that exceed
//! a bound within the specification are refused or reset.
//!
//! GOAWAY from the remote does not end existing streams. Opening another one yields a stream that is
//! already reset: an error would end the connection, and waiting would only delay the failure.
//!
//! # Modules
//!
//! | module | content |
//! |---|---|
//! | `session` | the state machine of a connection, without I/O |
//! | `receive` | its receiving half: decodes and applies frames |
//! | `stream_io` | the operations of a stream's handle |
//! | `stream_state` | the state of one stream |
//! | `window` | the receive window of a stream |
//! | `send_queue` | the frames that wait to be written to the socket |
//! | `chunks` | a byte queue that releases its memory |
//! | `keepalive` | pings to remotes from which nothing is received |
//! | `rtt` | pings that measure the round-trip time |
//! | `connection` | the task that moves bytes between session and socket |
//! | `stream` | the handle of a stream |
//!
//! [yamux]: https://github.com/hashicorp/yamux/blob/master/spec.md
//! [`BrokenPipe`]: std::io::ErrorKind::BrokenPipe
//! [`ConnectionAborted`]: std::io::ErrorKind::ConnectionAborted
//! [`ConnectionReset`]: std::io::ErrorKind::ConnectionReset

use std::{convert::Infallible, iter};

use futures::{
    AsyncRead, AsyncWrite,
    future::{Ready, ready},
};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use resource_manager::Resources;
use session::Role;

pub use connection::Muxer;
pub use error::{Error, ProtocolError};
pub use stream::Substream;
pub use window::FairShare;

mod chunks;
mod connection;
mod decoder;
mod error;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod keepalive;
mod receive;
mod rtt;
mod send_queue;
mod session;
mod stream;
mod stream_io;
mod stream_state;
mod window;

#[cfg(test)]
mod tests;

/// The initial window of every stream in both directions, in bytes, as specified.
const INITIAL_WINDOW: u32 = 256 * 1024;

/// The configuration of connections, and the upgrade of a connection to a [`Muxer`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The maximum number of concurrent streams of a connection, in both directions together.
    ///
    /// Beyond it, streams that the remote opens are refused with RST, and opening a stream here waits
    /// until another one has ended. Default: 512.
    pub max_streams: usize,
    /// The maximum number of streams of the remote that are not yet accepted; further ones are refused
    /// with RST. Default: 256, which other implementations assume as well.
    pub max_accept_backlog: usize,
    /// The maximum payload of a data frame that is sent, in bytes. Default: 64 KiB. Large frames cost
    /// less per byte, small ones interleave streams more finely.
    pub max_frame_size: u32,
    /// The maximum receive window of a stream, in bytes. Default: 1 MiB.
    ///
    /// Every stream starts with 256 KiB. Its window doubles when a quarter of it or more is read per
    /// round trip, if the round-trip time is high or no other stream is busy. Values below 256 KiB
    /// mean 256 KiB.
    pub max_receive_window: u32,
    /// The maximum number of unread bytes of all streams of a connection together.
    ///
    /// A stream whose next frame would exceed it is reset. Windows alone would allow a remote to
    /// occupy [`max_streams`](Self::max_streams) windows. Default: 32 MiB.
    pub max_receive_buffer: usize,
    /// The length of the send queue, in bytes, from which on writers have to wait. Default: 256 KiB.
    ///
    /// The queue may exceed it by one data frame, and by control frames, whose number has a separate
    /// bound.
    pub max_send_queue: usize,
    /// The memory limit for the buffers of all connections together: data that is received and unread,
    /// data that is queued, and buffers of the layers below. Beyond it, streams of connections that
    /// hold much are reset, or their writers wait. Windows do not grow under memory pressure. Default:
    /// unlimited.
    pub resources: Resources,
    /// Shared state by which streams detect whether others are busy, also on other connections.
    /// Default: shared by the clones of this configuration.
    pub fair_share: FairShare,
}

impl Config {
    /// The default configuration, with windows reduced to the limits of `resources`.
    pub fn for_resources(resources: Resources) -> Self {
        let default = Self::default();
        let limits = resources.limits();
        let buffer = usize::try_from(limits.connection_window);
        Self {
            max_receive_window: default.max_receive_window.min(limits.stream_window),
            max_receive_buffer: buffer.map_or(default.max_receive_buffer, |buffer| {
                default.max_receive_buffer.min(buffer)
            }),
            resources,
            ..default
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 512,
            max_accept_backlog: 256,
            max_frame_size: 64 * 1024,
            max_receive_window: 1024 * 1024,
            max_receive_buffer: 32 * 1024 * 1024,
            max_send_queue: 256 * 1024,
            resources: Resources::unlimited(),
            fair_share: FairShare::default(),
        }
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(io, self, Role::Server)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(io, self, Role::Client)))
    }
}
