//! Identity keys of peers: which are supported, and why others are rejected.
//!
//! Supported are Ed25519, secp256k1, ECDSA on the curve P-256, and RSA with a modulus of 2,048 to 8,192
//! bits and a public exponent of at most 65,537 ([peer ids]).
//!
//! # Cost
//!
//! The verification of a signature takes 0.04 ms with an Ed25519 key, 0.08 ms with secp256k1, 0.7 ms with
//! ECDSA, and with RSA 0.03 ms (2,048 bits), 0.1 ms (4,096 bits) or 1.0 ms (8,192 bits), on a core of an
//! AMD EPYC. Larger exponents, which no implementation of libp2p generates, would cost up to four times
//! as much. TLS verifies two more signatures, by the key of the certificate. That key is not the
//! identity, so RSA keys of certificates are limited to 4,096 bits ([`check_certificate_key`]).
//!
//! A handshake therefore costs at most 1.2 ms more than one with an Ed25519 key. Handshakes count against
//! the rate of their address whichever key they use ([`Admission::rate_per_ip`](super::Admission), by
//! default 500 and then 20 per second), so the keys of one address take at most 2.4 % of a core, and
//! 0.6 s once; over QUIC twice that, as handshakes with and without address validation have separate
//! rates. They are verified in the task of their connection, which delays no other.
//!
//! [peer ids]: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md#key-types

use libp2p::identity::PublicKey;
use prost::Message;
use resource_manager::ConnectionDenyReason;
use x509_parser::{
    asn1_rs::FromDer,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION},
    public_key::RSAPublicKey,
    x509::SubjectPublicKeyInfo,
};

/// The minimum size of an RSA modulus in bits.
const MIN_RSA_BITS: usize = 2048;

/// The maximum size of the RSA modulus of an identity key in bits.
const MAX_IDENTITY_RSA_BITS: usize = 8192;

/// The maximum size of the RSA modulus of a certificate's own key in bits.
const MAX_CERTIFICATE_RSA_BITS: usize = 4096;

/// The maximum size of an RSA public exponent in bits: 65,537 has 17.
const MAX_RSA_EXPONENT_BITS: usize = 17;

/// The key type of ECDSA in [`EncodedKey`].
const ECDSA: i32 = 3;

/// The number of key types. Their values begin with 0.
const KEY_TYPES: i32 = 4;

/// Why the identity key of a peer is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerKeyError {
    /// The key has an unknown type, or is an ECDSA key on a curve other than P-256.
    #[error("the type or curve of the peer's key is not supported")]
    Unsupported,
    /// An RSA key has a modulus of fewer than 2,048 bits.
    #[error("the peer's RSA key has fewer than 2048 bits")]
    TooSmall,
    /// An RSA key has a modulus of more than 8,192 bits (a certificate's own key: 4,096 bits), or an
    /// exponent of more than 17 bits.
    #[error("the peer's RSA key has too many bits, or an exponent of more than 17 bits")]
    TooLarge,
    /// The key cannot be decoded.
    #[error("the peer's key is malformed")]
    Malformed,
}

impl PeerKeyError {
    /// The reason for logs and metrics.
    pub(super) const fn reason(self) -> &'static str {
        let reason = match self {
            Self::Unsupported => ConnectionDenyReason::KeyUnsupported,
            Self::TooSmall => ConnectionDenyReason::KeyTooSmall,
            Self::TooLarge => ConnectionDenyReason::KeyTooLarge,
            Self::Malformed => ConnectionDenyReason::KeyMalformed,
        };
        reason.as_str()
    }
}

/// A public key in libp2p's protobuf form.
#[derive(Clone, PartialEq, Message)]
struct EncodedKey {
    #[prost(int32, tag = "1")]
    key_type: i32,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

/// Decodes an identity key in libp2p's protobuf form.
///
/// # Errors
/// When the key is malformed or not supported.
pub(super) fn decode(protobuf: &[u8]) -> Result<PublicKey, PeerKeyError> {
    let key = PublicKey::try_decode_protobuf(protobuf).map_err(|_| cause(protobuf))?;
    if let Ok(rsa) = key.clone().try_into_rsa() {
        check_rsa(&rsa.encode_pkcs1(), MAX_IDENTITY_RSA_BITS)?;
    }
    Ok(key)
}

/// Checks the size of a certificate's own key, if it is an RSA key.
///
/// # Errors
/// When the key is malformed, too small or too large.
pub(super) fn check_certificate_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), PeerKeyError> {
    if key.algorithm.algorithm != OID_PKCS1_RSAENCRYPTION {
        return Ok(());
    }
    check_rsa(&key.subject_public_key.data, MAX_CERTIFICATE_RSA_BITS)
}

/// Why a key cannot be decoded.
fn cause(protobuf: &[u8]) -> PeerKeyError {
    let Ok(EncodedKey { key_type, data }) = EncodedKey::decode(protobuf) else {
        return PeerKeyError::Malformed;
    };
    if !(0..KEY_TYPES).contains(&key_type) || (key_type == ECDSA && has_another_curve(&data)) {
        return PeerKeyError::Unsupported;
    }
    PeerKeyError::Malformed
}

/// Whether this is an elliptic-curve key on a named curve other than P-256.
fn has_another_curve(data: &[u8]) -> bool {
    let Ok((_, key)) = SubjectPublicKeyInfo::from_der(data) else {
        return false;
    };
    let parameters = key.algorithm.parameters.as_ref();
    let curve = parameters.and_then(|parameters| parameters.as_oid().ok());
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve != OID_EC_P256)
}

/// Checks the size of an RSA key in PKCS #1 form.
fn check_rsa(pkcs1: &[u8], max_bits: usize) -> Result<(), PeerKeyError> {
    let (_, key) = RSAPublicKey::from_der(pkcs1).map_err(|_| PeerKeyError::Malformed)?;
    let modulus = bits(key.modulus);
    if modulus < MIN_RSA_BITS {
        return Err(PeerKeyError::TooSmall);
    }
    if modulus > max_bits || bits(key.exponent) > MAX_RSA_EXPONENT_BITS {
        return Err(PeerKeyError::TooLarge);
    }
    Ok(())
}

/// The size of a big-endian number in bits, without leading zeros.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let first = number.get(zeros).map_or(0, |byte| byte.leading_zeros());
    (number.len() - zeros) * 8 - first as usize
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;
    use rcgen::{KeyPair, PublicKeyData as _};

    use super::*;

    fn encoded(key_type: i32, data: Vec<u8>) -> Vec<u8> {
        EncodedKey { key_type, data }.encode_to_vec()
    }

    /// A DER value.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        let header: &[u8] = match (high, low) {
            (0, 0..0x80) => &[tag, low],
            (0, _) => &[tag, 0x81, low],
            _ => &[tag, 0x82, high, low],
        };
        [header, content].concat()
    }

    /// An RSA key with a modulus of `modulus_bits` bits and this exponent.
    fn rsa(modulus_bits: usize, exponent: &[u8]) -> Vec<u8> {
        assert_eq!(modulus_bits % 8, 0);
        let mut modulus = vec![0xff; modulus_bits / 8 + 1];
        modulus[0] = 0;
        let numbers = [der(2, &modulus), der(2, exponent)].concat();
        let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
        let key = der(3, &[&[0], der(0x30, &numbers).as_slice()].concat());
        encoded(0, der(0x30, &[algorithm.as_slice(), &key].concat()))
    }

    #[test]
    fn supported_keys_are_accepted() {
        for keypair in [
            Keypair::generate_ed25519(),
            Keypair::generate_secp256k1(),
            Keypair::generate_ecdsa(),
        ] {
            let key = keypair.public();
            assert_eq!(decode(&key.encode_protobuf()), Ok(key));
        }
        for bits in [2048, 3072, 8192] {
            assert!(decode(&rsa(bits, &[1, 0, 1])).is_ok(), "{bits}");
        }
        assert!(decode(&rsa(8192, &[1, 0xff, 0xff])).is_ok());
    }

    #[test]
    fn rsa_keys_of_certificates_are_limited() {
        let check = |modulus_bits, exponent| {
            let key = EncodedKey::decode(rsa(modulus_bits, exponent).as_slice()).unwrap();
            let (_, key) = SubjectPublicKeyInfo::from_der(&key.data).unwrap();
            check_certificate_key(&key)
        };
        assert_eq!(check(2048, &[1, 0, 1]), Ok(()));
        assert_eq!(check(4096, &[1, 0, 1]), Ok(()));
        assert_eq!(check(1024, &[1, 0, 1]), Err(PeerKeyError::TooSmall));
        assert_eq!(check(4104, &[1, 0, 1]), Err(PeerKeyError::TooLarge));
        assert_eq!(check(4096, &[2, 0, 1]), Err(PeerKeyError::TooLarge));
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let other = other.subject_public_key_info();
        let (_, other) = SubjectPublicKeyInfo::from_der(&other).unwrap();
        assert_eq!(check_certificate_key(&other), Ok(()));
    }

    #[test]
    fn rejected_keys_have_a_reason() {
        const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
        const P521: &[u8] = &[0x2b, 0x81, 4, 0, 0x23];
        let on_curve = |curve: &[u8], point_bytes: usize| {
            let ec_public_key = der(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]);
            let algorithm = der(0x30, &[ec_public_key, der(6, curve)].concat());
            let point = der(3, &[vec![0], vec![4; point_bytes]].concat());
            encoded(ECDSA, der(0x30, &[algorithm, point].concat()))
        };
        for (key, expected) in [
            (rsa(2040, &[1, 0, 1]), PeerKeyError::TooSmall),
            (rsa(1024, &[1, 0, 1]), PeerKeyError::TooSmall),
            (rsa(8200, &[1, 0, 1]), PeerKeyError::TooLarge),
            (rsa(16384, &[1, 0, 1]), PeerKeyError::TooLarge),
            (rsa(2048, &[2, 0, 1]), PeerKeyError::TooLarge),
            (on_curve(P384, 97), PeerKeyError::Unsupported),
            (on_curve(P521, 133), PeerKeyError::Unsupported),
            (on_curve(P256, 65), PeerKeyError::Malformed),
            (encoded(4, vec![0; 32]), PeerKeyError::Unsupported),
            (encoded(-1, vec![0; 32]), PeerKeyError::Unsupported),
            (encoded(0, vec![0; 300]), PeerKeyError::Malformed),
            (encoded(1, vec![0; 31]), PeerKeyError::Malformed),
            (encoded(2, vec![0; 33]), PeerKeyError::Malformed),
            (encoded(ECDSA, vec![0; 91]), PeerKeyError::Malformed),
            (Vec::new(), PeerKeyError::Malformed),
            (vec![0xff; 36], PeerKeyError::Malformed),
        ] {
            assert_eq!(decode(&key), Err(expected), "{key:02x?}");
        }
    }
}
