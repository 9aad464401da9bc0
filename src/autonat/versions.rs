//! Versions of the protocol that the relay serves.

use std::iter;

use libp2p::StreamProtocol;
use named_enum::named_enum;

named_enum! {
    /// A version of the protocol.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Version {
        /// Version 1: the peer as a whole is public or private.
        V1 = "v1",
        /// Version 2: each address is reachable or not.
        V2 = "v2",
    }
}

impl Version {
    /// Protocol of the requests.
    pub(super) fn protocol(self) -> StreamProtocol {
        match self {
            Self::V1 => StreamProtocol::new("/libp2p/autonat/1.0.0"),
            Self::V2 => StreamProtocol::new("/libp2p/autonat/2/dial-request"),
        }
    }
}

/// The text is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no version of AutoNAT")]
pub struct ParseVersionError;

impl std::str::FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_meant = |version: &Self| version.as_str().eq_ignore_ascii_case(text);
        Self::ALL
            .into_iter()
            .find(is_meant)
            .ok_or(ParseVersionError)
    }
}

/// The versions that are served; all by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Whether version 1 is served.
    pub v1: bool,
    /// Whether version 2 is served.
    pub v2: bool,
}

impl Default for Versions {
    fn default() -> Self {
        Self { v1: true, v2: true }
    }
}

impl Versions {
    /// No version.
    pub const NONE: Self = Self {
        v1: false,
        v2: false,
    };

    /// The versions in ascending order.
    pub fn iter(self) -> impl Iterator<Item = Version> {
        let v1 = self.v1.then_some(Version::V1);
        let v2 = self.v2.then_some(Version::V2);
        iter::empty().chain(v1).chain(v2)
    }
}

impl FromIterator<Version> for Versions {
    fn from_iter<I: IntoIterator<Item = Version>>(versions: I) -> Self {
        let mut all = Self::NONE;
        for version in versions {
            match version {
                Version::V1 => all.v1 = true,
                Version::V2 => all.v2 = true,
            }
        }
        all
    }
}
