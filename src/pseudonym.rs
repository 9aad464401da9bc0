//! Names for peers in logs and telemetry that do not give them away.
//!
//! A pseudonym is the start of an HMAC-SHA256 over the peer id. Without the key nobody can tell
//! which peer it stands for, not even by trying all peer ids that they know of; with the same key,
//! which the relays of a fleet derive from their seed, a peer has the same pseudonym everywhere.

use std::fmt;
use std::str::FromStr;

use hkdf::hmac::{Hmac, KeyInit, Mac};
use libp2p::PeerId;
use sha2::Sha256;

use crate::choice::{self, ParseChoiceError};
use crate::identity::derive;
use crate::resources::Prefix;

/// What the HMAC's key is derived for.
const INFO: &[u8] = b"descord-relay/pseudonyms/hmac/v1";

/// How peers are named in everything that the relay prints or exports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PeerIds {
    /// A keyed hash, the same on every relay of the fleet.
    #[default]
    Pseudonym,
    /// The peer id itself.
    Full,
}

impl PeerIds {
    /// All values.
    pub const ALL: [Self; 2] = [Self::Pseudonym, Self::Full];
}

impl fmt::Display for PeerIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pseudonym => "pseudonym",
            Self::Full => "full",
        })
    }
}

impl FromStr for PeerIds {
    type Err = ParseChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        choice::parse(&Self::ALL, text)
    }
}

/// Gives peers their names. Cheap to clone and to use: a name takes two hashes and no allocation.
#[derive(Clone)]
pub struct Pseudonyms {
    mode: PeerIds,
    /// Keyed, with nothing hashed yet.
    mac: Hmac<Sha256>,
}

/// The name of one peer; `Display` gives `p-` and 16 hexadecimal digits, or the peer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerName {
    /// 64 bits: among a million peers, two with one name are as likely as 1 in 37 million.
    Pseudonym(u64),
    /// The peer id itself.
    Full(PeerId),
}

impl Pseudonyms {
    /// Names as `mode` wants them, keyed with a secret of any length such as
    /// [`Identity::pseudonym_key`](crate::identity::Identity::pseudonym_key).
    pub fn new(mode: PeerIds, key: &[u8]) -> Self {
        // As long as a block of the hash, so that there is no length to be refused.
        let key = derive::<64>(key, &[INFO]);
        Self {
            mode,
            mac: Hmac::new(&(*key).into()),
        }
    }

    /// The name of `peer`, the same for the same key.
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

    /// The name of an address prefix, the same for the same key: `n-` and 16 hexadecimal digits. It is
    /// keyed, so that nobody without the key can find the network by trying all of them.
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
    fn networks_have_names_of_their_own() {
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
