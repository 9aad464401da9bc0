//! Subjects of access rules: peers and networks.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use libp2p::PeerId;
use peer_id_text::parse_peer_id;

/// Text form of [`Subject::None`].
const NONE: &str = "none";

/// What a rule applies to. `Display` writes the form that [`FromStr`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The peer with this id.
    Peer(PeerId),
    /// Peers that connect from this network. It has no bits beyond its prefix, and networks of
    /// IPv4-mapped addresses are converted to IPv4.
    Network(IpNet),
    /// No peer: an allow list with only this denies everything.
    None,
}

impl FromStr for Subject {
    /// The problem; the text continues a sentence about the entry.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NONE {
            return Ok(Self::None);
        }
        // IP addresses contain dots or colons, peer ids do not.
        if !text.contains(['.', ':']) {
            let peer = parse_peer_id(text).map(Self::Peer);
            return peer
                .map_err(|_| "is neither a peer id nor an IP address nor a network".to_owned());
        }
        network(text).map(Self::Network)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::None => f.write_str(NONE),
        }
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_canonical().into());
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| "is not an IP address or a network such as 192.0.2.0/24".to_owned())?;
    // Probably a single address or another prefix is meant.
    if network != network.trunc() {
        return Err(format!(
            "has bits beyond its prefix; the network is {}",
            network.trunc()
        ));
    }
    Ok(unmapped(network))
}

/// `::ffff:192.0.2.0/120` is `192.0.2.0/24`.
fn unmapped(network: IpNet) -> IpNet {
    let mapped = |network: IpNet| -> Option<Ipv4Net> {
        let prefix = network.prefix_len().checked_sub(96)?;
        let IpNet::V6(v6) = network else { return None };
        let v4: Ipv4Addr = v6.network().to_ipv4_mapped()?;
        Ipv4Net::new(v4, prefix).ok()
    };
    mapped(network).map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<String, String> {
        text.parse::<Subject>().map(|entry| entry.to_string())
    }

    #[test]
    fn subjects_round_trip() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let cid = "bafzaajaiaejcao3ke66m5nvefvrkhkgqfjxq243fgikxohpciotdvqciugfvtwrj";
        let hashed = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
        for (text, expected) in [
            (peer, peer),
            (cid, peer),
            (hashed, hashed),
            ("none", "none"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(written(text).as_deref(), Ok(expected), "{text}");
            assert_eq!(written(expected).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn invalid_subjects_are_refused() {
        for (text, problem) in [
            ("", "neither a peer id"),
            ("12D3KooW", "neither a peer id"),
            ("None", "neither a peer id"),
            ("192.0.2.1/33", "not an IP address or a network"),
            ("192.0.2", "not an IP address or a network"),
            ("192.0.2.1/24", "the network is 192.0.2.0/24"),
            ("2001:db8::1/64", "the network is 2001:db8::/64"),
            ("example.org", "not an IP address or a network"),
        ] {
            let error = written(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
