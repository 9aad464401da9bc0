//! The relay's key pair: configured, derived from the fleet's seed, or ephemeral.
//!
//! Clients advertise addresses that contain the relay's peer id, so it must survive restarts, without
//! a disk. A fleet shares one secret, the seed; each relay derives its own Ed25519 key from the seed
//! and its instance name with HKDF-SHA256 (RFC 5869). With the seed, the peer ids of the whole fleet
//! can be computed before any relay runs.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_PAD_INDIFFERENT, URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use libp2p::PeerId;
use libp2p::identity::{KeyType, Keypair, ed25519, secp256k1};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// HKDF info of instance keys. Another value would change the peer id of every relay.
const IDENTITY_INFO: &[u8] = b"descord-relay/identity/v1/";

/// HKDF info of the key of pseudonyms.
const PSEUDONYM_INFO: &[u8] = b"descord-relay/pseudonym/v1";

/// The instance name of a machine without a usable host name.
pub const DEFAULT_INSTANCE: &str = "relay";

/// Where the key pair comes from: the key, else the seed together with the instance name, else a
/// random number generator. A loaded configuration never has both a key and a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Name of this relay within the fleet.
    pub instance: String,
    /// The fleet's shared secret; at least 16 characters.
    pub seed: Option<Secret>,
    /// Base64 of an Ed25519 or secp256k1 private key in libp2p's protobuf form.
    pub key: Option<Secret>,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            instance: DEFAULT_INSTANCE.to_owned(),
            seed: None,
            key: None,
        }
    }
}

/// The relay's key pair, and other keys derived from the same secret.
pub struct Identity {
    keypair: Keypair,
    source: KeySource,
    pseudonym_key: Zeroizing<[u8; 32]>,
}

/// The source of a key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource {
    /// `RELAY_IDENTITY_KEY`.
    Key,
    /// `RELAY_IDENTITY_SEED` and `RELAY_INSTANCE`.
    Seed,
    /// A random number generator: the peer id changes at every start.
    Ephemeral,
}

/// Why there is no key pair. `Display` gives the problem without the key, in words that can follow the
/// name of the variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key is not base64 text.
    #[error("is not base64")]
    NotBase64,
    /// The key is not a private key in libp2p's protobuf form.
    #[error("is not a private key in libp2p's protobuf form")]
    NotAKey,
    /// The key has a type that relays do not use. RSA keys make handshakes expensive and messages long,
    /// and not all clients support ECDSA.
    #[error("is an {0} key")]
    KeyType(&'static str),
    /// Both a key and a seed are set.
    #[error("is set together with a seed")]
    Ambiguous,
}

impl Identity {
    /// The configured key, else the key derived from seed and instance name, else a new key pair.
    ///
    /// # Errors
    /// When the key is invalid, or a seed is set as well; a loaded configuration has neither problem.
    pub fn from_config(config: &IdentityConfig) -> Result<Self, Error> {
        match (&config.key, &config.seed) {
            (Some(_), Some(_)) => Err(Error::Ambiguous),
            (Some(key), None) => Ok(Self::of_key(decode_key(key)?, KeySource::Key)),
            (None, Some(seed)) => Ok(Self {
                keypair: derive_keypair(seed, &config.instance),
                source: KeySource::Seed,
                // Independent of the instance name: a peer has one pseudonym on all relays of a fleet.
                pseudonym_key: derive(seed.expose().as_bytes(), &[PSEUDONYM_INFO]),
            }),
            (None, None) => Ok(Self::of_key(PrivateKey::ephemeral(), KeySource::Ephemeral)),
        }
    }

    fn of_key(key: PrivateKey, source: KeySource) -> Self {
        Self {
            pseudonym_key: derive(key.secret.as_slice(), &[PSEUDONYM_INFO]),
            keypair: key.keypair,
            source,
        }
    }

    /// The key pair itself.
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// The peer id, which is part of every address of the relay.
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// The source of the key pair.
    pub fn source(&self) -> KeySource {
        self.source
    }

    /// The key of [`Pseudonyms`](crate::pseudonym::Pseudonyms): the same on all relays with the same
    /// seed, otherwise derived from the relay's own key.
    pub fn pseudonym_key(&self) -> &[u8] {
        self.pseudonym_key.as_slice()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("peer_id", &self.peer_id())
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Seed => "seed",
            Self::Ephemeral => "ephemeral",
        })
    }
}

/// The peer id of the relay with this instance name.
pub fn peer_id_of(seed: &Secret, instance: &str) -> PeerId {
    derive_keypair(seed, instance).public().to_peer_id()
}

/// Generates a seed for a fleet: 256 random bits from the system's generator, in URL-safe base64, which
/// needs no quoting in shells, env files and YAML.
pub fn generate_seed() -> String {
    let bits = Zeroizing::new(rand::random::<[u8; 32]>());
    URL_SAFE_NO_PAD.encode(bits.as_slice())
}

/// Writes a new seed to a file that only its owner and group can read. Returns `false` if the file
/// exists; it is not changed.
///
/// # Errors
/// When the file cannot be written; then it does not exist.
pub fn write_new_seed(path: &Path) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    let mut file = match options.write(true).create_new(true).mode(0o440).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_file() => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let seed = Zeroizing::new(generate_seed());
    let written = writeln!(file, "{}", *seed).and_then(|()| file.sync_all());
    if written.is_err() {
        // A partial seed must not be used.
        let _ = fs::remove_file(path);
    }
    written.map(|()| true)
}

/// An Ed25519 or secp256k1 key pair, and its secret.
pub struct PrivateKey {
    keypair: Keypair,
    secret: Zeroizing<[u8; 32]>,
}

impl PrivateKey {
    fn ephemeral() -> Self {
        ed25519::Keypair::generate().into()
    }
}

impl From<ed25519::Keypair> for PrivateKey {
    fn from(key: ed25519::Keypair) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(key.secret().as_ref());
        Self {
            keypair: key.into(),
            secret,
        }
    }
}

impl From<secp256k1::Keypair> for PrivateKey {
    fn from(key: secp256k1::Keypair) -> Self {
        let secret = Zeroizing::new(key.secret().to_bytes());
        Self {
            keypair: key.into(),
            secret,
        }
    }
}

/// Decodes the base64 form of private keys of libp2p tools, with or without padding.
///
/// # Errors
/// When the text is not base64, or not an Ed25519 or secp256k1 key.
pub fn decode_key(key: &Secret) -> Result<PrivateKey, Error> {
    let bytes = STANDARD_PAD_INDIFFERENT
        .decode(key.expose())
        .map_err(|_| Error::NotBase64)?;
    let bytes = Zeroizing::new(bytes);
    let keypair = Keypair::from_protobuf_encoding(&bytes).map_err(|_| Error::NotAKey)?;
    let key_type = match keypair.key_type() {
        KeyType::Ed25519 => {
            return keypair
                .try_into_ed25519()
                .map(Into::into)
                .map_err(|_| Error::NotAKey);
        }
        KeyType::Secp256k1 => {
            return keypair
                .try_into_secp256k1()
                .map(Into::into)
                .map_err(|_| Error::NotAKey);
        }
        KeyType::Ecdsa => "ECDSA",
        KeyType::RSA => "RSA",
    };
    Err(Error::KeyType(key_type))
}

#[expect(clippy::expect_used, reason = "any 32 bytes are an Ed25519 secret key")]
fn derive_keypair(seed: &Secret, instance: &str) -> Keypair {
    let mut bytes = derive::<32>(
        seed.expose().as_bytes(),
        &[IDENTITY_INFO, instance.as_bytes()],
    );
    Keypair::ed25519_from_bytes(bytes.as_mut_slice()).expect("a key of 32 bytes")
}

/// HKDF-SHA256 without salt; `info` is the concatenation of its parts.
#[expect(
    clippy::expect_used,
    reason = "HKDF gives up to 255 hashes, and the assertion below bounds the length"
)]
pub(crate) fn derive<const N: usize>(secret: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "longer than the output of HKDF-SHA256") };
    let mut output = Zeroizing::new([0; N]);
    Hkdf::<Sha256>::new(None, secret)
        .expand_multi_info(info, output.as_mut_slice())
        .expect("the length is checked at compile time");
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "correct horse battery staple";

    fn config(seed: Option<&str>, key: Option<&str>) -> IdentityConfig {
        IdentityConfig {
            instance: "relay-0".to_owned(),
            seed: seed.map(Secret::new),
            key: key.map(Secret::new),
        }
    }

    /// A change of the derivation would change the peer id of every relay.
    #[test]
    fn derivation_is_stable() {
        let seed = Secret::new(SEED);
        assert_eq!(
            peer_id_of(&seed, "relay-0").to_string(),
            "12D3KooWLDJcmm7dYZSfBrM9X951XTySCCMLfVoHWF9xtMEWmdaZ"
        );
        assert_eq!(
            peer_id_of(&seed, "relay-1").to_string(),
            "12D3KooWQKUkJjS83XntpYM1gUhnmzFn7PcV8vEe1yv1jKrB7WXh"
        );
        let identity = Identity::from_config(&config(Some(SEED), None)).unwrap();
        assert_eq!(identity.peer_id(), peer_id_of(&seed, "relay-0"));
        assert_eq!(identity.source(), KeySource::Seed);
    }

    #[test]
    fn relays_of_a_fleet_share_the_pseudonym_key() {
        let first = Identity::from_config(&config(Some(SEED), None)).unwrap();
        let second = IdentityConfig {
            instance: "relay-1".into(),
            ..config(Some(SEED), None)
        };
        let second = Identity::from_config(&second).unwrap();
        assert_ne!(first.peer_id(), second.peer_id());
        assert_eq!(first.pseudonym_key(), second.pseudonym_key());
    }

    #[test]
    fn configured_key_is_used() {
        for keypair in [Keypair::generate_ed25519(), Keypair::generate_secp256k1()] {
            let text = encoded(&keypair);
            for text in [text.as_str(), text.trim_end_matches('=')] {
                let identity = Identity::from_config(&config(None, Some(text))).unwrap();
                assert_eq!(identity.peer_id(), keypair.public().to_peer_id());
                assert_eq!(identity.source(), KeySource::Key);
            }
        }
    }

    fn encoded(keypair: &Keypair) -> String {
        STANDARD_PAD_INDIFFERENT.encode(keypair.to_protobuf_encoding().unwrap())
    }

    /// A change of the derivation would change the pseudonyms of all peers.
    #[test]
    fn pseudonym_key_of_a_configured_key_is_stable() {
        let of = |keypair: Keypair| {
            let key = encoded(&keypair);
            let identity = Identity::from_config(&config(None, Some(&key))).unwrap();
            identity.pseudonym_key().to_vec()
        };
        let expected = derive::<32>(&[7; 32], &[PSEUDONYM_INFO]);
        let ed25519 = Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let secp256k1 = secp256k1::SecretKey::try_from_bytes([7; 32]).unwrap();
        assert_eq!(of(ed25519), *expected);
        assert_eq!(of(secp256k1::Keypair::from(secp256k1).into()), *expected);
    }

    #[test]
    fn invalid_keys_are_refused() {
        let refused = |key: &str| decode_key(&Secret::new(key)).err();
        assert_eq!(refused("no base64!"), Some(Error::NotBase64));
        assert_eq!(refused(""), Some(Error::NotAKey));
        assert_eq!(refused("AAAA"), Some(Error::NotAKey));
        // A secp256k1 key of zero.
        assert_eq!(
            refused("CAISIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            Some(Error::NotAKey)
        );
        assert_eq!(
            refused(&encoded(&Keypair::generate_ecdsa())),
            Some(Error::KeyType("ECDSA"))
        );
    }

    #[test]
    fn key_and_seed_exclude_each_other() {
        let both = Identity::from_config(&config(Some(SEED), Some("AAAA")));
        assert_eq!(both.err(), Some(Error::Ambiguous));
    }

    #[test]
    fn ephemeral_keys_differ() {
        let ephemeral = || Identity::from_config(&config(None, None)).unwrap();
        assert_ne!(ephemeral().peer_id(), ephemeral().peer_id());
        assert_ne!(ephemeral().pseudonym_key(), ephemeral().pseudonym_key());
        assert_eq!(ephemeral().source(), KeySource::Ephemeral);
    }

    #[test]
    fn generated_seed_is_valid() {
        let seed = generate_seed();
        assert_ne!(seed, generate_seed());
        assert_eq!(seed.len(), 43);
        let loaded = crate::config::Config::from_env([("RELAY_IDENTITY_SEED", &seed)]).unwrap();
        assert_eq!(loaded.config.identity.seed, Some(Secret::new(seed)));
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = Identity::from_config(&config(Some(SEED), None)).unwrap();
        let expected = format!(
            "Identity {{ peer_id: PeerId({:?}), source: Seed, .. }}",
            identity.peer_id().to_string()
        );
        assert_eq!(format!("{identity:?}"), expected);
    }
}
