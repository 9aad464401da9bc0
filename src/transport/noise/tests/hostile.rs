//! Handshakes with those who do not keep to them.

use futures::future::join;
use libp2p::PeerId;
use proptest::{collection::vec, prelude::*};
use prost::Message as _;

use super::*;

/// A payload with anything in it.
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
    /// What an honest peer says.
    fn honest(keys: &Keys) -> Self {
        Self::decode(keys.payload()).unwrap()
    }
}

/// What an acceptor has of a dialler who says this, and a dialler of such an acceptor.
fn met(keys: &Keys, payload: Vec<u8>) -> [Result<PeerId, Error>; 2] {
    let forger = keys.with_payload(payload);
    let (near, far) = memory_sockets();
    let (dialled, _) = block_on(join(dial(super::keys(), near), accept(forger.clone(), far)));
    let (near, far) = memory_sockets();
    let (accepted, _) = block_on(join(accept(super::keys(), far), dial(forger, near)));
    [accepted, dialled].map(|met| met.map(|(peer, _)| peer))
}

#[test]
fn an_honest_one_is_known() {
    let identity = Keypair::generate_ed25519();
    let keys = Keys::new(&identity).unwrap();
    let mut payload = Forged::honest(&keys);
    payload.extensions = vec![0; 3000];
    for peer in met(&keys, payload.encode_to_vec()) {
        assert_eq!(peer.unwrap(), identity.public().to_peer_id());
    }
}

macro_rules! is_refused {
    ($name:ident, $error:pat, $forge:expr) => {
        #[test]
        fn $name() {
            let keys = keys();
            let mut payload = Forged::honest(&keys);
            let forge: fn(&mut Forged) = $forge;
            forge(&mut payload);
            for peer in met(&keys, payload.encode_to_vec()) {
                assert!(matches!(peer, Err($error)), "{peer:?}");
            }
        }
    };
}

is_refused!(nobody, Error::NoIdentity, |payload| {
    *payload = Forged::default();
});
is_refused!(no_identity, Error::NoIdentity, |payload| {
    payload.key.clear();
});
is_refused!(no_signature, Error::Signature, |payload| {
    payload.signature.clear();
});
is_refused!(a_wrong_signature, Error::Signature, |payload| {
    payload.signature[0] ^= 1;
});
is_refused!(the_identity_of_another, Error::Signature, |payload| {
    payload.key = Keypair::generate_ed25519().public().encode_protobuf();
});
is_refused!(the_noise_key_of_another, Error::Signature, |payload| {
    *payload = Forged::honest(&keys());
});
is_refused!(a_key_of_another_kind, Error::Identity(_), |payload| {
    // The same key, said to be one of secp256k1.
    assert_eq!(payload.key[..2], [8, 1]);
    payload.key[1] = 2;
});
is_refused!(half_a_key, Error::Identity(_), |payload| {
    payload.key.truncate(20);
});

#[test]
fn no_protobuf() {
    for peer in met(&keys(), vec![0xff; 100]) {
        assert!(matches!(peer, Err(Error::Payload(_))), "{peer:?}");
    }
}

/// What an acceptor says to these bytes, after which the socket ends.
fn accepted(bytes: &[u8]) -> Error {
    let (near, far) = memory_sockets();
    near.writes.put(bytes);
    drop(near);
    block_on(accept(keys(), far)).unwrap_err()
}

#[test]
fn too_long() {
    assert!(matches!(accepted(&[0xff; 100]), Error::TooLong(65_535)));
    assert!(matches!(accepted(&[0x10, 0x01]), Error::TooLong(4097)));
    assert!(matches!(accepted(&[0x10, 0x00]), Error::Io(_)));
}

#[test]
fn too_short() {
    for bytes in [&[][..], &[0], &[0, 32], &[0, 32, 9, 9]] {
        let error = accepted(bytes);
        assert!(matches!(&error, Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
    }
    assert!(matches!(accepted(&[0, 0]), Error::Noise(_)));
    assert!(matches!(accepted(&[0, 2, 9, 9]), Error::Noise(_)));
}

#[test]
fn a_payload_too_early() {
    let mut bytes = [9; 2 + 33];
    bytes[..2].copy_from_slice(&[0, 33]);
    assert!(matches!(accepted(&bytes), Error::EarlyPayload));
}

/// A key with which every exchange has the same result.
#[test]
fn a_key_that_is_none() {
    let mut bytes = [0; 2 + 32];
    bytes[1] = 32;
    assert!(matches!(accepted(&bytes), Error::Noise(snow::Error::Dh)));
}

proptest! {
    #[test]
    fn no_bytes_are_a_handshake(bytes in vec(any::<u8>(), 0..10_000)) {
        accepted(&bytes);
    }

    #[test]
    fn no_bytes_are_a_proof(payload in vec(any::<u8>(), 0..500), key in vec(any::<u8>(), 0..64)) {
        prop_assert!(peer_id(&payload, &key).is_err());
    }
}
