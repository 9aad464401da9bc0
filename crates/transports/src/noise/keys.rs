//! The static key of a side, and the payload that authenticates it.

use std::sync::Arc;

use libp2p::identity::Keypair;
use snow::{Builder, params::NoiseParams};
use zeroize::Zeroizing;

use super::{
    Error, KEY_BYTES,
    crypto::{self, Resolver},
    payload,
};

/// A static Noise key, and its signature by the identity. Clones share it.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    parameters: NoiseParams,
    secret: Zeroizing<[u8; KEY_BYTES]>,
    payload: Vec<u8>,
}

impl Keys {
    /// Generates a key, and signs it with `identity`.
    ///
    /// # Errors
    /// When `identity` cannot sign; Ed25519 and secp256k1 keys always can.
    pub fn new(identity: &Keypair) -> Result<Self, Error> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(secret.as_mut_slice());
        let payload = payload::encode(identity, &crypto::public_key(&secret)?)?;
        Ok(Self(Arc::new(Inner {
            parameters: "Noise_XX_25519_ChaChaPoly_SHA256".parse()?,
            secret,
            payload,
        })))
    }

    /// The builder of a handshake in either role.
    pub(super) fn builder(&self) -> Result<Builder<'_>, Error> {
        let parameters = self.0.parameters.clone();
        let builder = Builder::with_resolver(parameters, Box::new(Resolver));
        Ok(builder.local_private_key(self.0.secret.as_slice())?)
    }

    /// The handshake payload, which authenticates the key.
    pub(super) fn payload(&self) -> &[u8] {
        &self.0.payload
    }
}

#[cfg(test)]
impl Keys {
    /// The same key with another payload.
    pub(super) fn with_payload(&self, payload: Vec<u8>) -> Self {
        let Inner {
            parameters, secret, ..
        } = &*self.0;
        Self(Arc::new(Inner {
            parameters: parameters.clone(),
            secret: secret.clone(),
            payload,
        }))
    }
}
