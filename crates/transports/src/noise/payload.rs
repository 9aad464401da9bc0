//! The payload of handshake messages: the identity of a side, and its signature of the Noise key.

use libp2p::{PeerId, identity::Keypair};
use prost::Message;

use super::Error;
use crate::peer_key;

/// The prefix of the signed data, for domain separation.
const DOMAIN: &[u8] = b"noise-libp2p-static-key:";

/// libp2p's `NoiseHandshakePayload`. The extensions, for `WebTransport` and early muxer negotiation, are
/// optional, and ignored.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    identity_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    identity_sig: Vec<u8>,
}

/// Encodes the payload that binds the public Noise key to `identity`.
pub(super) fn encode(identity: &Keypair, noise_key: &[u8]) -> Result<Vec<u8>, Error> {
    let payload = Payload {
        identity_key: identity.public().encode_protobuf(),
        identity_sig: identity.sign(&[DOMAIN, noise_key].concat())?,
    };
    Ok(payload.encode_to_vec())
}

/// Verifies the payload of the peer with the public key `noise_key`, and returns the peer's id.
///
/// # Errors
/// When the payload cannot be decoded, or its signature is not valid.
pub fn peer_id(payload: &[u8], noise_key: &[u8]) -> Result<PeerId, Error> {
    let payload = Payload::decode(payload)?;
    if payload.identity_key.is_empty() {
        return Err(Error::NoIdentity);
    }
    let identity = peer_key::decode(&payload.identity_key)?;
    if !identity.verify(&[DOMAIN, noise_key].concat(), &payload.identity_sig) {
        return Err(Error::Signature);
    }
    Ok(identity.to_peer_id())
}
