//! Pseudonyms of peers and networks in logs and telemetry.
//!
//! A pseudonym is a truncated HMAC-SHA256 of the peer id. Without the key it cannot be linked to a
//! peer, not even by hashing all known peer ids. The relays of a fleet derive the same key from
//! their seed, so a peer has the same pseudonym on all of them.

use std::fmt;

use hkdf::hmac::{Hmac, KeyInit, Mac};
use libp2p::PeerId;
use named_enum::choice;
use named_enum::named_enum;
use resource_manager::Prefix;
use sha2::Sha256;

use crate::identity::derive;

named_enum! {
    /// How peers are named in everything that the relay prints or exports.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub enum PeerIds {
        /// A keyed hash, the same on every relay of the fleet.
        #[default]
        Pseudonym = "pseudonym",
        /// The peer id itself.
        Full = "full",
    }
}

choice!(PeerIds);

/// Key derivation context.
const INFO: &[u8] = b"descord-relay/pseudonyms/hmac/v1";

/// Computes pseudonyms. Cheap to clone; a pseudonym takes two hash computations and no allocation.
#[derive(Clone)]
pub struct Pseudonyms {
    mode: PeerIds,
    /// Initialized with the key.
    mac: Hmac<Sha256>,
}

/// Displayed name of a peer: `p-` and 16 hexadecimal digits, or the peer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerName {
    /// 64 bits: among a million peers, the probability of a collision is 1 in 37 million.
    Pseudonym(u64),
    /// The full peer id.
    Full(PeerId),
}

impl Pseudonyms {
    /// Creates the pseudonyms of this mode, with a secret of any length such as
    /// [`Identity::pseudonym_key`](crate::identity::Identity::pseudonym_key).
    pub fn new(mode: PeerIds, key: &[u8]) -> Self {
        // The derived key has the block size of the hash, so it is always accepted.
        let key = derive::<64>(key, &[INFO]);
        Self {
            mode,
            mac: Hmac::new(&(*key).into()),
        }
    }

    /// Name of `peer`, deterministic for the same key.
    pub fn name(&self, peer: &PeerId) -> PeerName {
        match self.mode {
            PeerIds::Full => PeerName::Full(*peer),
            PeerIds::Pseudonym => {
                let mac = self.mac.clone().chain_update(peer.as_ref().digest());
                let hash = mac.finalize().into_bytes();
                let bits = hash
                    .iter()
                    .take(8)
                    .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
                PeerName::Pseudonym(bits)
            }
        }
    }

    /// Pseudonym of an address prefix, deterministic for the same key: `n-` and 16 hexadecimal
    /// digits. The key prevents finding the prefix by hashing all of them.
    pub fn network(&self, prefix: Prefix) -> String {
        let text = format!("network {prefix}");
        let hash = self.mac.clone().chain_update(text).finalize().into_bytes();
        let digits = hash.iter().take(8).map(|byte| format!("{byte:02x}"));
        digits.fold("n-".to_owned(), |name, digits| name + &digits)
    }
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pseudonyms")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pseudonym(bits) => write!(f, "p-{bits:016x}"),
            Self::Full(peer) => peer.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"a key of the fleet";

    fn peer() -> PeerId {
        "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
            .parse()
            .unwrap()
    }

    #[test]
    fn networks_have_pseudonyms() {
        let name = |key: &[u8], ip: &str| {
            let prefix = Prefix::host(ip.parse().unwrap());
            Pseudonyms::new(PeerIds::Pseudonym, key).network(prefix)
        };
        let one = name(KEY, "192.0.2.1");
        assert!(one.starts_with("n-") && one.len() == 18, "{one}");
        assert_eq!(one, name(KEY, "::ffff:192.0.2.1"));
        assert_ne!(one, name(KEY, "192.0.2.2"));
        assert_ne!(one, name(b"another key", "192.0.2.1"));
    }

    /// Log lines of different versions have to be comparable.
    #[test]
    fn pseudonyms_are_fixed() {
        let name = Pseudonyms::new(PeerIds::Pseudonym, KEY).name(&peer());
        assert_eq!(name.to_string(), "p-33f613e18f748d36");
    }

    #[test]
    fn pseudonyms_depend_on_peer_and_key() {
        let pseudonyms = Pseudonyms::new(PeerIds::Pseudonym, KEY);
        let name = pseudonyms.name(&peer());
        assert_eq!(pseudonyms.clone().name(&peer()), name);
        assert_ne!(pseudonyms.name(&PeerId::random()), name);
        assert_ne!(
            Pseudonyms::new(PeerIds::Pseudonym, b"another key").name(&peer()),
            name
        );
    }

    #[test]
    fn full_names_are_peer_ids() {
        let name = Pseudonyms::new(PeerIds::Full, KEY).name(&peer());
        assert_eq!(name.to_string(), peer().to_string());
    }

    #[test]
    fn debug_shows_no_key() {
        let pseudonyms = Pseudonyms::new(PeerIds::Pseudonym, KEY);
        assert_eq!(
            format!("{pseudonyms:?}"),
            "Pseudonyms { mode: Pseudonym, .. }"
        );
    }
}
