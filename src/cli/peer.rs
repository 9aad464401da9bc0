//! Peer ids as arguments.

use libp2p::PeerId;

use crate::access::Subject;

/// Parses a peer id, in the same forms as in access rules.
///
/// # Errors
/// When the text is not a peer id; in words that can follow it.
pub(super) fn parse_peer_id(text: &str) -> Result<PeerId, String> {
    match text.parse() {
        Ok(Subject::Peer(peer)) => Ok(peer),
        Ok(Subject::Network(_) | Subject::None) | Err(_) => {
            Err("not a peer id, such as 12D3KooW…".to_owned())
        }
    }
}
