//! Handshakes with peers that violate the protocol.

use futures::future::join;
use libp2p::PeerId;
use proptest::{collection::vec, prelude::*};
use prost::Message as _;

use super::*;

/// A payload with arbitrary fields.
#[derive(Clone, PartialEq, prost::Message)]
struct Forged {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    extensions: Vec<u8>,
}

impl Forged {
    /// The payload of a well-behaved peer.
    fn valid(keys: &Keys) -> Self {
        Self::decode(keys.payload()).unwrap()
    }
}

/// The results of an acceptor whose dialler sends `payload`, and of a dialler whose acceptor does.
fn results(keys: &Keys, payload: Vec<u8>) -> [Result<PeerId, Error>; 2] {
    let forger = keys.with_payload(payload);
    let (near, far) = memory_sockets();
    let (dialled, _) = block_on(join(dial(super::keys(), near), accept(forger.clone(), far)));
    let (near, far) = memory_sockets();
    let (accepted, _) = block_on(join(accept(super::keys(), far), dial(forger, near)));
    [accepted, dialled].map(|result| result.map(|(peer, _)| peer))
}

#[test]
fn valid_payload_is_accepted() {
    let identity = Keypair::generate_ed25519();
    let keys = Keys::new(&identity).unwrap();
    let mut payload = Forged::valid(&keys);
    payload.extensions = vec![0; 3000];
    for peer in results(&keys, payload.encode_to_vec()) {
        assert_eq!(peer.unwrap(), identity.public().to_peer_id());
    }
}

macro_rules! is_refused {
    ($name:ident, $error:pat, $forge:expr) => {
        #[test]
        fn $name() {
            let keys = keys();
            let mut payload = Forged::valid(&keys);
            let forge: fn(&mut Forged) = $forge;
            forge(&mut payload);
            for peer in results(&keys, payload.encode_to_vec()) {
                assert!(matches!(peer, Err($error)), "{peer:?}");
            }
        }
    };
}

is_refused!(empty_payload, Error::NoIdentity, |payload| {
    *payload = Forged::default();
});
is_refused!(no_identity, Error::NoIdentity, |payload| {
    payload.key.clear();
});
is_refused!(
    unsupported_type_of_key,
    Error::Identity(PeerKeyError::Unsupported),
    |payload| payload.key = b"\x08\x04\x12\x01x".to_vec()
);
is_refused!(
    malformed_key,
    Error::Identity(PeerKeyError::Malformed),
    |payload| payload.key = b"\x08\x01\x12\x01x".to_vec()
);
is_refused!(no_signature, Error::Signature, |payload| {
    payload.signature.clear();
});
is_refused!(invalid_signature, Error::Signature, |payload| {
    payload.signature[0] ^= 1;
});
is_refused!(identity_of_another_peer, Error::Signature, |payload| {
    payload.key = Keypair::generate_ed25519().public().encode_protobuf();
});
is_refused!(noise_key_of_another_peer, Error::Signature, |payload| {
    *payload = Forged::valid(&keys());
});
is_refused!(key_of_another_type, Error::Identity(_), |payload| {
    // The same key with the type secp256k1.
    assert_eq!(payload.key[..2], [8, 1]);
    payload.key[1] = 2;
});
is_refused!(truncated_key, Error::Identity(_), |payload| {
    payload.key.truncate(20);
});

#[test]
fn payload_without_protobuf() {
    for peer in results(&keys(), vec![0xff; 100]) {
        assert!(matches!(peer, Err(Error::Payload(_))), "{peer:?}");
    }
}

/// The error of an acceptor upon these bytes, after which the socket ends.
fn accept_error(bytes: &[u8]) -> Error {
    let (near, far) = memory_sockets();
    near.writes.put(bytes);
    drop(near);
    block_on(accept(keys(), far)).unwrap_err()
}

#[test]
fn message_is_too_long() {
    assert!(matches!(accept_error(&[0xff; 100]), Error::TooLong(65_535)));
    assert!(matches!(accept_error(&[0x10, 0x01]), Error::TooLong(4097)));
    assert!(matches!(accept_error(&[0x10, 0x00]), Error::Io(_)));
}

#[test]
fn message_is_too_short() {
    for bytes in [&[][..], &[0], &[0, 32], &[0, 32, 9, 9]] {
        let error = accept_error(bytes);
        assert!(matches!(&error, Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
    }
    assert!(matches!(accept_error(&[0, 0]), Error::Noise(_)));
    assert!(matches!(accept_error(&[0, 2, 9, 9]), Error::Noise(_)));
}

#[test]
fn first_message_has_a_payload() {
    let mut bytes = [9; 2 + 33];
    bytes[..2].copy_from_slice(&[0, 33]);
    assert!(matches!(accept_error(&bytes), Error::EarlyPayload));
}

/// A low-order point, with which every key exchange has the same result.
#[test]
fn non_contributory_key() {
    let mut bytes = [0; 2 + 32];
    bytes[1] = 32;
    assert!(matches!(
        accept_error(&bytes),
        Error::Noise(snow::Error::Dh)
    ));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_handshake(bytes in vec(any::<u8>(), 0..10_000)) {
        accept_error(&bytes);
    }

    #[test]
    fn arbitrary_bytes_are_no_payload(payload in vec(any::<u8>(), 0..500), key in vec(any::<u8>(), 0..64)) {
        prop_assert!(peer_id(&payload, &key).is_err());
    }
}
