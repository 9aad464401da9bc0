//! Yamux: many streams over one connection, each of which can be *reset*.
//!
//! This is an implementation of [yamux] (`/yamux/1.0.0`) whose streams tell the truth about how
//! they ended. A relay forwards what it does not understand, so the only way to tell a client
//! that a circuit was cut is to reset both of its streams; a circuit that merely stops keepalive like
//! a complete message. The `yamux` crate, which `libp2p` uses, cannot express that:
//!
//! - its streams read end-of-file when the remote resets them, and when the connection dies, so
//!   truncated data keepalive complete to whoever copies it onwards;
//! - a stream that is dropped after the remote half-closed it sends FIN instead of RST, and one
//!   that is dropped after it was half-closed locally sends nothing at all.
//!
//! # How a stream ends
//!
//! | what happened | read | write |
//! |---|---|---|
//! | the remote sent FIN | the bytes that are left, then end-of-file | goes on |
//! | the remote sent RST | the bytes that are left, then [`ConnectionReset`] | [`ConnectionReset`] |
//! | RST after FIN | the bytes that are left, then end-of-file: that direction was complete | [`ConnectionReset`] |
//! | the connection ended | the bytes that are left, then [`ConnectionAborted`] | [`ConnectionAborted`] |
//! | closed here | goes on | [`BrokenPipe`] |
//!
//! A connection that ends leaves a stream's end-of-file as it is, if FIN came before.
//!
//! # What dropping a stream sends
//!
//! A [`Substream`] that is dropped after both directions ended sends nothing. In any other state
//! it sends RST right behind what it has already queued, with one exception.
//!
//! A request/response protocol writes, closes and drops without ever reading. The remote may
//! still be reading then, and several implementations discard what they have buffered when RST
//! arrives: it would turn a clean end into a failure. A stream which is closed here while the
//! remote has not finished is therefore *abandoned* instead: its id is remembered (the newest
//! 1,024 of them), no window is credited to it, and the first data that still arrives is answered
//! with RST. The remote learns that nobody reads exactly when it matters to it.
//!
//! Where that would be too late, or where it is known that data is lost, RST goes out at once:
//! - bytes were received (or are just being received) and not read, which is always so when the
//!   remote has used up its window and could send nothing that could be answered;
//! - the last read is still waiting: whoever drops such a stream wanted an answer and gives up,
//!   as a relay does with the idle direction of a circuit that it cuts.
//!
//! # Bounds
//!
//! Everything that a remote can make grow has a bound, see [`Config`]. A remote which breaks the
//! specification is told so with GOAWAY, and the connection ends with a [`ProtocolError`]. One
//! which asks for too much within the specification has the streams concerned refused or reset.
//!
//! A GOAWAY from the remote ends nothing: streams go on, and attempts to open another one yield
//! a stream that is already reset, because failing here would end the connection and waiting
//! would only delay the answer.
//!
//! # Rooms
//!
//! `session` is the state machine of a connection, without any I/O: `receive` is the part of it
//! that interprets what arrives, `stream_io` what the handle of a stream does, `stream_state` the state of a
//! single stream, `window` how much it may receive, and `send_queue` the queue towards the socket;
//! `keepalive` asks a silent remote whether it is still there, and `rtt` a busy one how far
//! away it is. `connection` moves bytes between session and socket, and `stream` is
//! the handle that applications hold.
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

pub use connection::Muxer;
pub use error::{Error, ProtocolError};
pub use stream::Substream;
pub use window::FairShare;

use crate::resources::Resources;
use session::Role;

mod chunks;
mod connection;
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

/// The window with which every stream starts, in both directions. The specification fixes it.
const INITIAL_WINDOW: u32 = 256 * 1024;

/// The bounds of a connection, and the upgrade that makes a [`Muxer`] of it.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many streams a connection has at once, both directions counted together.
    ///
    /// Another one that the remote opens is refused with RST; another one that is opened here
    /// waits until one has ended. Default: 512.
    pub max_streams: usize,
    /// How many streams of the remote wait to be accepted; further ones are refused with RST.
    /// Default: 256, which is also what other implementations assume.
    pub max_accept_backlog: usize,
    /// The longest payload of a data frame that is sent, in bytes. Default: 64 KiB; fewer, larger
    /// frames are cheaper, smaller ones interleave streams more finely.
    pub max_frame_size: u32,
    /// How large the receive window of one stream grows, in bytes. Default: 1 MiB.
    ///
    /// Every stream starts with 256 KiB, and its window doubles when more than a quarter of it comes
    /// in a round trip, if the remote is far away or no other stream is busy.
    /// Values below 256 KiB mean 256 KiB.
    pub max_receive_window: u32,
    /// How many received bytes all streams of the connection together leave unread.
    ///
    /// A stream whose next frame would exceed it is reset. Windows alone would let a remote
    /// occupy [`max_streams`](Self::max_streams) times a window. Default: 32 MiB.
    pub max_receive_buffer: usize,
    /// How many bytes wait for the socket before writers have to wait, too. Default: 256 KiB.
    ///
    /// One more frame may be queued beyond it, and short control frames, whose number is bounded
    /// on its own.
    pub max_send_queue: usize,
    /// What all connections together may hold in buffers: received and not read, queued and not
    /// written, and what the layers below hold. Beyond it, streams of those that hold much are reset or
    /// have to wait. While memory is short, windows do not grow. Default: unlimited.
    pub resources: Resources,
    /// How streams know whether others are busy, also those of other connections. Default: they know
    /// of those that have a clone of this configuration.
    pub fair_share: FairShare,
}

impl Config {
    /// The defaults, or less where `resources` has less for it.
    pub fn within(resources: Resources) -> Self {
        let default = Self::default();
        let plan = resources.limits();
        let buffer = usize::try_from(plan.connection_window);
        Self {
            max_receive_window: default.max_receive_window.min(plan.stream_window),
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
