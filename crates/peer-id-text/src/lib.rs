//! The text forms of peer ids: base58 (`12D3Koo…`, `16Uiu2…`, `Qm…`) and CID version 1 (`bafz…`, `k51…`,
//! `z…`, in any multibase), see the [specification].
//!
//! libp2p's own parser knows base58 only. Everything that an operator or another program writes is
//! parsed here; the relay itself writes base58.
//!
//! [specification]: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md#string-representation

use std::borrow::Cow;

use libp2p::{Multiaddr, PeerId, multiaddr};

/// The version of a CID that has a multibase prefix.
const CID_VERSION: u8 = 1;

/// The content type of a public key, `libp2p-key`.
const LIBP2P_KEY: u8 = 0x72;

/// The maximum length of a text in bytes: a peer id of 64 bytes in base 2 would be longer, and is
/// rejected.
const MAX_TEXT_BYTES: usize = 256;

/// The text is not a peer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a peer id")]
pub struct ParsePeerIdError;

/// Parses any text form of a peer id.
///
/// # Errors
/// When the text is not a peer id.
pub fn parse_peer_id(text: &str) -> Result<PeerId, ParsePeerIdError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(ParsePeerIdError);
    }
    // A multihash in base58 starts with one of these, and no multibase prefix does.
    if text.starts_with('1') || text.starts_with("Qm") {
        return text.parse().map_err(|_| ParsePeerIdError);
    }
    let (_, cid) = multibase::decode(text).map_err(|_| ParsePeerIdError)?;
    let multihash = cid.strip_prefix(&[CID_VERSION, LIBP2P_KEY]);
    let peer = multihash.and_then(|multihash| PeerId::from_bytes(multihash).ok());
    peer.ok_or(ParsePeerIdError)
}

/// Parses an address in which peer ids may have any text form.
///
/// # Errors
/// When the text is not an address.
pub fn parse_multiaddr(text: &str) -> Result<Multiaddr, multiaddr::Error> {
    let mut is_peer_id = false;
    let parts = text.split('/').map(|part| {
        let peer = is_peer_id.then(|| parse_peer_id(part).ok()).flatten();
        is_peer_id = matches!(part, "p2p" | "ipfs");
        peer.map_or(Cow::Borrowed(part), |peer| peer.to_base58().into())
    });
    parts.collect::<Vec<_>>().join("/").parse()
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;
    use multibase::Base;

    use super::*;

    /// Examples of the specification.
    const ED25519: [&str; 2] = [
        "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
        "bafzaajaiaejcal72gwuz2or47oyxxn6b3rkwdmmkrxgkjxzy3rqt5kczyn7lcm3l",
    ];
    const RSA: [&str; 2] = [
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe",
    ];

    #[test]
    fn examples_of_the_specification_are_parsed() {
        for [base58, cid] in [ED25519, RSA] {
            let peer: PeerId = base58.parse().unwrap();
            assert_eq!(parse_peer_id(base58), Ok(peer));
            assert_eq!(parse_peer_id(cid), Ok(peer));
        }
    }

    #[test]
    fn every_type_of_key_and_base_is_parsed() {
        for keypair in [
            Keypair::generate_ed25519(),
            Keypair::generate_secp256k1(),
            Keypair::generate_ecdsa(),
        ] {
            let peer = keypair.public().to_peer_id();
            assert_eq!(parse_peer_id(&peer.to_base58()), Ok(peer));
            let cid = [[CID_VERSION, LIBP2P_KEY].as_slice(), &peer.to_bytes()].concat();
            for base in [
                Base::Base16Lower,
                Base::Base32Lower,
                Base::Base32Upper,
                Base::Base36Lower,
                Base::Base58Btc,
                Base::Base64Url,
            ] {
                let text = multibase::encode(base, &cid);
                assert_eq!(parse_peer_id(&text), Ok(peer), "{text}");
            }
        }
    }

    #[test]
    fn other_texts_are_rejected() {
        let peer = PeerId::random().to_bytes();
        let cid = |version, content| {
            multibase::encode(
                Base::Base32Lower,
                [&[version, content], peer.as_slice()].concat(),
            )
        };
        assert!(parse_peer_id(&cid(1, LIBP2P_KEY)).is_ok());
        for text in [
            "",
            "1",
            "Qm",
            "b",
            "bafz",
            "none",
            "example",
            "12D3KooW",
            "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA ",
            // The multihash itself, or a CID of another content or version.
            &multibase::encode(Base::Base58Btc, &peer),
            &cid(1, 0x70),
            &cid(0, LIBP2P_KEY),
            &format!("0{}", "1".repeat(MAX_TEXT_BYTES)),
        ] {
            assert_eq!(parse_peer_id(text), Err(ParsePeerIdError), "{text}");
        }
    }

    #[test]
    fn addresses_may_contain_any_form() {
        let [base58, cid] = ED25519;
        let address = |id: &str| format!("/ip4/192.0.2.1/tcp/9000/p2p/{id}/p2p-circuit/p2p/{id}");
        let expected: Multiaddr = address(base58).parse().unwrap();
        for id in [base58, cid] {
            assert_eq!(parse_multiaddr(&address(id)).unwrap(), expected);
        }
        let name = format!("/dnsaddr/p2p/p2p/{cid}");
        assert_eq!(
            parse_multiaddr(&name).unwrap().to_string(),
            format!("/dnsaddr/p2p/p2p/{base58}")
        );
        for text in [
            "",
            "/ip4/192.0.2.1/tcp/9000",
            "/ip4/192.0.2.1/tcp/9000/p2p/x",
            "/p2p",
        ] {
            let libp2ps: Result<Multiaddr, _> = text.parse();
            assert_eq!(parse_multiaddr(text).is_ok(), libp2ps.is_ok(), "{text}");
        }
    }
}
