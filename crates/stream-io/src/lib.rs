//! What streams pass to each other besides the bytes in the caller's buffer.
//!
//! libp2p boxes every stream as `AsyncRead` and `AsyncWrite`, whose methods take slices and a waker
//! and nothing else. Three facilities go beyond that interface, each within one poll on one thread:
//!
//! | module | contents | called by | used by |
//! |---|---|---|---|
//! | [`chunk_passing`] | zero-copy transfer of byte chunks | the copy loop of a circuit | yamux and QUIC streams |
//! | [`deferred_wake`] | wakers that defer the wake until the poll has ended | the copy loop, the sender of QUIC packets | every stream of the poll |
//! | [`thread_buffer`] | per-thread buffers for bytes that are copied within one poll | the copy loop, encryption and muxers | |

pub mod chunk_passing;
pub mod deferred_wake;
pub mod thread_buffer;
