//! libp2p's Noise protocol: the `XX` handshake, whose payloads bind the identity of each side to its
//! Noise key, and then frames of at most 64 KiB in each direction.
//!
//! The relay has its own implementation because Noise dominates its cost: all bytes of most circuits
//! pass through it twice. Here bytes are read from the socket in large chunks, decrypted directly into
//! the reader's buffer, encrypted directly into a batch, and not copied in between, as long as the
//! socket is writable. An idle [`NoiseStream`] holds no buffers.

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

use super::peer_key::PeerKeyError;

pub use self::{
    handshake::{accept, dial},
    keys::Keys,
    payload::peer_id,
    stream::NoiseStream,
};

/// The name of the protocol, for multistream-select.
pub const PROTOCOL: &str = "/noise";

/// The length of secret and public keys in bytes.
const KEY_BYTES: usize = 32;

/// A nonce in the format of RFC 8439.
type Nonce = [u8; 12];

/// The maximum length of a Noise message in bytes.
const MAX_MESSAGE_BYTES: usize = u16::MAX as usize;

/// The length of the authentication tag, by which a message is longer than its plaintext.
const TAG_BYTES: usize = 16;

/// The length prefix of a frame, which consists of the prefix and a message.
const LENGTH_BYTES: usize = 2;
const MAX_FRAME_BYTES: usize = LENGTH_BYTES + MAX_MESSAGE_BYTES;

/// The maximum plaintext of a frame in bytes.
const MAX_PLAINTEXT_BYTES: usize = MAX_MESSAGE_BYTES - TAG_BYTES;

/// The error of a handshake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed, or was closed during the handshake.
    #[error("the socket failed during the handshake: {0}")]
    Io(#[from] io::Error),
    /// A message violates the Noise protocol.
    #[error("a handshake message is not valid: {0}")]
    Noise(#[from] snow::Error),
    /// A message exceeds the maximum length of handshake messages.
    #[error("a handshake message has {0} bytes")]
    TooLong(usize),
    /// The first message has a payload, which would be neither encrypted nor authenticated.
    #[error("the first handshake message has a payload")]
    EarlyPayload,
    /// A payload is not a `NoiseHandshakePayload` in protobuf.
    #[error("the handshake payload is not valid: {0}")]
    Payload(#[from] prost::DecodeError),
    /// The payload has no identity key.
    #[error("the handshake payload has no identity key")]
    NoIdentity,
    /// The identity key is malformed or not supported.
    #[error(transparent)]
    Identity(#[from] PeerKeyError),
    /// The signature of the Noise key by the identity key is not valid.
    #[error("the signature of the Noise key is not valid")]
    Signature,
    /// The local identity key cannot sign.
    #[error("cannot sign with the identity: {0}")]
    Signing(#[from] identity::SigningError),
}

/// The message of the frame at the start of `bytes`, if the frame is complete.
fn message(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests;
