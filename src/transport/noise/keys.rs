//! What a side brings to its handshakes.

use std::sync::Arc;

use libp2p::identity::Keypair;
use snow::{Builder, params::NoiseParams};
use zeroize::Zeroizing;

use super::{
    Error,
    crypto::{self, KEY_BYTES, Resolver},
    payload,
};

/// A key of Noise, and the proof whose it is. Clones share it.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    parameters: NoiseParams,
    secret: Zeroizing<[u8; KEY_BYTES]>,
    payload: Vec<u8>,
}

impl Keys {
    /// A new key, of the peer that `identity` is.
    ///
    /// # Errors
    /// When `identity` cannot sign; an Ed25519 key always can.
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

    /// A handshake to be, of either role.
    pub(super) fn builder(&self) -> Result<Builder<'_>, Error> {
        let parameters = self.0.parameters.clone();
        let builder = Builder::with_resolver(parameters, Box::new(Resolver));
        Ok(builder.local_private_key(self.0.secret.as_slice())?)
    }

    /// What proves to the other side who this is.
    pub(super) fn payload(&self) -> &[u8] {
        &self.0.payload
    }
}

#[cfg(test)]
impl Keys {
    /// The same keys, with something else to say.
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
