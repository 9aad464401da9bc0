//! TLS configuration, peer ids, and the stateless reset key of an identity.

use std::sync::Arc;

use hkdf::hmac::{Hmac, KeyInit, Mac};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::rustls::NoKeyLog;
use quinn::rustls::client::Resumption;
use quinn::rustls::pki_types::CertificateDer;
use quinn::{ConnectionId, ConnectionIdGenerator};
use sha2::Sha256;

use super::Error;
use crate::{ConnectionGater, tls};

/// The TLS configuration of the accepting side.
pub(super) fn server(keypair: &Keypair, gater: ConnectionGater) -> Result<QuicServerConfig, Error> {
    Ok(tls::server(keypair, gater)?.try_into()?)
}

/// The TLS configuration of the dialling side. If `expected` is present, no other peer is accepted.
pub(super) fn client(
    keypair: &Keypair,
    expected: Option<PeerId>,
) -> Result<QuicClientConfig, Error> {
    let mut tls = libp2p::tls::make_client_config(keypair, expected).map_err(tls::Error::from)?;
    tls.key_log = Arc::new(NoKeyLog);
    tls.resumption = Resumption::disabled();
    Ok(tls.try_into()?)
}

/// The authenticated peer of an established connection.
pub(super) fn peer_id(connection: &quinn::Connection) -> Result<PeerId, Error> {
    let identity = connection.peer_identity();
    let chain = identity.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    Ok(tls::peer_id(&chain.unwrap_or_default())?)
}

/// The key from which the stateless reset tokens of an identity are derived (RFC 9000, section
/// 10.3.2).
///
/// It is the same after a restart. So a relay that has crashed can reset the connections of the
/// previous process, instead of leaving its clients to their idle timeout. `None` if no secret can be
/// derived from this type of key.
pub(super) fn reset_key(keypair: &Keypair) -> Option<ResetKey> {
    let secret = keypair.derive_secret(b"descord-relay quic stateless reset")?;
    Hmac::new_from_slice(&secret).ok().map(ResetKey)
}

/// An HMAC-SHA256 key for quinn.
pub(super) struct ResetKey(Hmac<Sha256>);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let mac = self.0.clone().chain_update(data).finalize().into_bytes();
        for (to, from) in signature.iter_mut().zip(mac) {
            *to = from;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mac = self.0.clone().chain_update(data);
        mac.verify_slice(signature).map_err(|_| CryptoError)
    }
}

/// Generates random connection ids, without structure.
pub(super) struct RandomIds;

/// The length of connection ids in bytes, which makes collisions and guesses improbable.
const ID_LEN: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; ID_LEN]>())
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_key_depends_on_the_identity_only() {
        let sign = |keypair: &Keypair| {
            let mut signature = [0; 32];
            reset_key(keypair).unwrap().sign(b"id", &mut signature);
            signature
        };
        let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        assert_eq!(sign(&one), sign(&one));
        assert_ne!(sign(&one), sign(&other));
        assert_ne!(sign(&one), [0; 32]);
    }

    #[test]
    fn reset_key_verifies_its_signatures() {
        let key = reset_key(&Keypair::generate_ed25519()).unwrap();
        let mut signature = vec![0; key.signature_len()];
        key.sign(b"id", &mut signature);
        assert!(key.verify(b"id", &signature).is_ok());
        assert!(key.verify(b"another", &signature).is_err());
    }
}
