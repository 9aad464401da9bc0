//! What the handshake's messages say beside keys: who a side is, and a proof of it.

use libp2p::{
    PeerId,
    identity::{Keypair, PublicKey},
};
use prost::Message;

use super::Error;

/// What is signed begins with it, so that it cannot be taken for anything else.
const DOMAIN: &[u8] = b"noise-libp2p-static-key:";

/// libp2p's `NoiseHandshakePayload`. Its extensions are for `WebTransport` and for an early choice
/// of a muxer, which both sides may leave out, and are skipped.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    identity_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    identity_sig: Vec<u8>,
}

/// Says that `identity` has this public key of Noise.
pub(super) fn encode(identity: &Keypair, noise_key: &[u8]) -> Result<Vec<u8>, Error> {
    let payload = Payload {
        identity_key: identity.public().encode_protobuf(),
        identity_sig: identity.sign(&[DOMAIN, noise_key].concat())?,
    };
    Ok(payload.encode_to_vec())
}

/// Who has this public key of Noise, as `payload` says and proves.
///
/// # Errors
/// When `payload` is not valid, or proves nothing.
pub fn peer_id(payload: &[u8], noise_key: &[u8]) -> Result<PeerId, Error> {
    let payload = Payload::decode(payload)?;
    if payload.identity_key.is_empty() {
        return Err(Error::NoIdentity);
    }
    let identity = PublicKey::try_decode_protobuf(&payload.identity_key)?;
    if !identity.verify(&[DOMAIN, noise_key].concat(), &payload.identity_sig) {
        return Err(Error::Signature);
    }
    Ok(identity.to_peer_id())
}
