//! Reservation vouchers: signed statements that the relay serves a peer until a given time.
//!
//! Specification: circuit-v2, section "Reservation Vouchers"; RFC 0002, "Signed Envelopes".

use libp2p::{
    PeerId,
    core::SignedEnvelope,
    identity::{Keypair, SigningError},
};
use prost::Message;

/// Signature domain, which separates vouchers from other uses of the key.
pub const DOMAIN: &str = "libp2p-relay-rsvp";
/// The multicodec `0x0302` as two raw bytes, as other implementations expect it.
pub const PAYLOAD_TYPE: [u8; 2] = [0x03, 0x02];

/// Payload of the signed envelope.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Voucher {
    /// Binary peer id of the relay.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub relay: Option<Vec<u8>>,
    /// Binary peer id of the reserved peer.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub peer: Option<Vec<u8>>,
    /// Expiry in seconds since the Unix epoch, equal to `Reservation.expire`.
    #[prost(uint64, optional, tag = "3")]
    pub expiration: Option<u64>,
}

/// Signs a voucher for `peer`, and returns the encoded envelope.
///
/// # Errors
/// If the key cannot sign. Ed25519 keys always can.
pub(super) fn sign(
    relay: &Keypair,
    peer: PeerId,
    expiration: u64,
) -> Result<Vec<u8>, SigningError> {
    let voucher = Voucher {
        relay: Some(relay.public().to_peer_id().to_bytes()),
        peer: Some(peer.to_bytes()),
        expiration: Some(expiration),
    };
    SignedEnvelope::new(
        relay,
        DOMAIN.to_owned(),
        PAYLOAD_TYPE.to_vec(),
        voucher.encode_to_vec(),
    )
    .map(SignedEnvelope::into_protobuf_encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voucher_round_trips_peer_and_expiry() {
        let relay = Keypair::generate_ed25519();
        let peer = PeerId::random();
        let bytes = sign(&relay, peer, 1_900_000_000).unwrap();
        let envelope = SignedEnvelope::from_protobuf_encoding(&bytes).unwrap();
        let (payload, key) = envelope
            .payload_and_signing_key(DOMAIN.to_owned(), &[3, 2])
            .unwrap();
        assert_eq!(key, &relay.public());
        let voucher = Voucher::decode(payload).unwrap();
        assert_eq!(voucher.relay, Some(relay.public().to_peer_id().to_bytes()));
        assert_eq!(voucher.peer, Some(peer.to_bytes()));
        assert_eq!(voucher.expiration, Some(1_900_000_000));
    }
}
