//! The cryptographic primitives of Noise. The key exchange is AWS-LC's, which takes less than half of
//! the time of other libraries.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use snow::{
    Error,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, RingResolver},
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use super::{KEY_BYTES, cipher::ChaChaPoly};

/// Provides X25519, `ChaCha20-Poly1305` and the hashes, but no other ciphers and curves.
pub(super) struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        RingResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let is_known = matches!(choice, DHChoice::Curve25519);
        is_known.then(|| Box::new(KeyPair::default()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let is_known = matches!(choice, CipherChoice::ChaChaPoly);
        is_known.then(|| Box::new(ChaChaPoly::default()) as Box<dyn Cipher>)
    }
}

/// An X25519 key pair.
#[derive(Default)]
pub(super) struct KeyPair {
    secret: Zeroizing<[u8; KEY_BYTES]>,
    public: [u8; KEY_BYTES],
    /// `secret` in the library's format. `None` until there is a secret.
    key: Option<PrivateKey>,
}

impl KeyPair {
    fn with_secret(secret: Zeroizing<[u8; KEY_BYTES]>) -> Option<Self> {
        let key = PrivateKey::from_private_key(&X25519, secret.as_slice()).ok()?;
        let public = key.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self {
            secret,
            public,
            key: Some(key),
        })
    }
}

impl Dh for KeyPair {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_BYTES
    }

    fn priv_len(&self) -> usize {
        KEY_BYTES
    }

    fn set(&mut self, secret: &[u8]) {
        // An invalid secret leaves no key, so that every exchange fails.
        let secret = secret.try_into().map(Zeroizing::new).ok();
        *self = secret.and_then(Self::with_secret).unwrap_or_default();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        random.try_fill_bytes(secret.as_mut_slice())?;
        *self = Self::with_secret(secret).ok_or(Error::Dh)?;
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_slice()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let key = self.key.as_ref().ok_or(Error::Dh)?;
        let public = public.get(..KEY_BYTES).ok_or(Error::Dh)?;
        let out = out.get_mut(..KEY_BYTES).ok_or(Error::Dh)?;
        let public = UnparsedPublicKey::new(&X25519, public);
        agreement::agree(key, public, Error::Dh, |shared| {
            let shared: &[u8; KEY_BYTES] = shared.try_into().map_err(|_| Error::Dh)?;
            out.copy_from_slice(shared);
            Ok(())
        })
    }
}

/// The public key of a secret key.
pub(super) fn public_key(secret: &[u8; KEY_BYTES]) -> Result<[u8; KEY_BYTES], Error> {
    let pair = KeyPair::with_secret(Zeroizing::new(*secret)).ok_or(Error::Dh)?;
    Ok(pair.public)
}
