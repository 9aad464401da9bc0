//! Entry point of a fuzzer.

use circuit_relay::wire;
use futures::{executor::block_on, io::Cursor};
use libp2p::Multiaddr;
use prost::Message;

use super::message::{v1, v2};
use crate::dialback;

/// Reads `bytes` as a request of each version, and considers the addresses in it.
///
/// # Panics
/// If a message reads past its bound, or changes when it is encoded and decoded again.
pub fn autonat(bytes: &[u8]) {
    if let Some(request) = read::<v1::Message>(bytes) {
        let peer = request.dial.and_then(|dial| dial.peer);
        consider(&peer.unwrap_or_default().addrs);
    }
    if let Some(request) = read::<v2::Message>(bytes) {
        consider(&request.request.unwrap_or_default().addrs);
    }
}

fn read<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let mut stream = Cursor::new(bytes);
    let message: M = block_on(wire::read(&mut stream)).ok()?;
    let most = u64::try_from(wire::MAX_MESSAGE_BYTES + 2).unwrap_or(u64::MAX);
    assert!(stream.position() <= most, "read past the bound");
    let again = M::decode(message.encode_to_vec().as_slice());
    assert!(again.is_ok_and(|again| again == message), "not the same");
    Some(message)
}

fn consider(addresses: &[Vec<u8>]) {
    for bytes in addresses {
        if let Ok(address) = Multiaddr::try_from(bytes.clone()) {
            let _ = dialback::is_dialable(&address, None);
        }
    }
}
