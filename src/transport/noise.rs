//! Noise as libp2p has it: the handshake `XX`, whose payloads tie each side's identity to its Noise
//! key, and then frames of at most 64 KiB in either direction.
//!
//! This is the relay's own because its cost is the relay's cost: all bytes of most circuits pass
//! through it twice. Here each of them is read from the socket in large pieces, decrypted straight
//! to where it is wanted, encrypted straight behind others, and never copied besides, as long as
//! the socket takes what it is given. A [`NoiseStream`] that has nothing to do holds no buffers.

mod cipher;
mod crypto;
mod decryption;
mod encryption;
mod handshake;
mod keys;
#[cfg(all(target_arch = "x86_64", feature = "openssl"))]
mod openssl_avx512;
#[cfg(not(all(target_arch = "x86_64", feature = "openssl")))]
#[path = "noise/openssl_avx512_stub.rs"]
mod openssl_avx512;
mod payload;
mod stream;

use std::io;

use libp2p::identity;

pub use self::{
    handshake::{accept, dial},
    keys::Keys,
    payload::peer_id,
    stream::NoiseStream,
};

/// The name of the protocol, for those who agree on one.
pub const PROTOCOL: &str = "/noise";

/// The longest message of Noise.
const MAX_MESSAGE_BYTES: usize = u16::MAX as usize;

/// How much longer a message is than what it says.
const TAG_BYTES: usize = 16;

/// A frame is a message behind its length.
const LENGTH_BYTES: usize = 2;
const MAX_FRAME_BYTES: usize = LENGTH_BYTES + MAX_MESSAGE_BYTES;

/// The most that fits into a frame.
const MAX_PLAINTEXT_BYTES: usize = MAX_MESSAGE_BYTES - TAG_BYTES;

/// Why two sides could not agree on a channel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed, or ended too early.
    #[error("the handshake was cut short: {0}")]
    Io(#[from] io::Error),
    /// A message is not what Noise says that it must be.
    #[error("a message of the handshake is not valid: {0}")]
    Noise(#[from] snow::Error),
    /// A message is longer than those of a handshake are.
    #[error("a message of the handshake has {0} bytes")]
    TooLong(usize),
    /// The first message has a payload, which nothing protects.
    #[error("the first message of the handshake has a payload")]
    EarlyPayload,
    /// A payload is no protobuf message, or not the right one.
    #[error("the payload is not valid: {0}")]
    Payload(#[from] prost::DecodeError),
    /// The peer did not say who it is.
    #[error("the peer shows no identity")]
    NoIdentity,
    /// The identity is not a public key, or one of a kind that is not known here.
    #[error("the peer's identity is not valid: {0}")]
    Identity(#[from] identity::DecodingError),
    /// The identity has not signed this Noise key.
    #[error("the peer does not prove its identity")]
    Signature,
    /// Our own identity cannot sign.
    #[error("cannot sign with the identity: {0}")]
    Signing(#[from] identity::SigningError),
}

/// The bytes of a frame's message, if all of the frame is there.
fn message(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests;
