//! Requests of version 1.

use circuit_relay::wire;
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId};

use super::{
    DialResult, Server,
    message::v1::{DialResponse, Message, MessageType, Peer, Status},
};
use crate::dialback::{DialDenied, DialOutcome};

/// Named addresses that are considered; further ones are ignored.
const MAX_NAMED_ADDRESSES: usize = 16;
/// Addresses that are dialled for one request: TCP and QUIC, over IPv4 and IPv6.
const MAX_DIALLED_ADDRESSES: usize = 4;

/// Serves one stream. A stream without a valid request is reset.
pub(super) async fn serve(
    server: &Server,
    peer: PeerId,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) {
    let Ok(request) = wire::read(&mut stream).await else {
        return;
    };
    let Some(named) = parse(request) else {
        return;
    };
    let response = match named {
        Ok(named) => respond(server, peer, named).await,
        Err(text) => response(Status::BadRequest, text),
    };
    let message = Message {
        kind: Some(MessageType::DialResponse.into()),
        dial: None,
        response: Some(response),
    };
    // The peer may have closed the stream; then nobody reads the answer.
    if wire::write(&mut stream, &message).await.is_ok() {
        let _ = stream.close().await;
    }
}

/// The peer in a request; `None` if the message is no request.
fn parse(message: Message) -> Option<Result<Peer, &'static str>> {
    if message.kind != Some(MessageType::Dial.into()) {
        return None;
    }
    let peer = message.dial.and_then(|dial| dial.peer);
    Some(peer.ok_or("missing peer info"))
}

async fn respond(server: &Server, peer: PeerId, named: Peer) -> DialResponse {
    let is_own_id = |id: &Vec<u8>| PeerId::from_bytes(id).is_ok_and(|id| id == peer);
    if !named.id.as_ref().is_none_or(is_own_id) {
        return response(Status::BadRequest, "peer id mismatch");
    }
    let own = own_addresses(&named.addrs, |address| {
        server.policy.is_own_address(&peer, address)
    });
    if own.is_empty() {
        let outcome = if named.addrs.is_empty() {
            DialOutcome::NoAddress
        } else {
            DialOutcome::ForeignAddress
        };
        server.policy.record(outcome, 1);
        return response(Status::DialError, "no dialable addresses");
    }
    let mut denied: Option<DialDenied> = None;
    let mut admitted = Vec::new();
    for address in own {
        match server.policy.admit(peer, &address) {
            Ok(()) => admitted.push(address),
            Err(error) => denied = Some(error),
        }
    }
    if let (true, Some(error)) = (admitted.is_empty(), denied) {
        return response(Status::DialRefused, &error.to_string());
    }
    match server.dial(peer, admitted, None).await {
        DialResult::Reached(address) => DialResponse {
            addr: Some(address.to_vec()),
            ..response(Status::Ok, "")
        },
        DialResult::Busy => response(Status::DialRefused, "too many dials"),
        DialResult::NotDialable => response(Status::DialError, "no dialable addresses"),
        DialResult::Unreachable | DialResult::DialBackFailed => {
            response(Status::DialError, "dial failed")
        }
    }
}

fn response(status: Status, text: &str) -> DialResponse {
    DialResponse {
        status: Some(status.into()),
        status_text: (!text.is_empty()).then(|| text.to_owned()),
        addr: None,
    }
}

/// The distinct addresses to dial among the named ones, in their order.
fn own_addresses(named: &[Vec<u8>], is_own: impl Fn(&Multiaddr) -> bool) -> Vec<Multiaddr> {
    let mut own = Vec::new();
    for bytes in named.iter().take(MAX_NAMED_ADDRESSES) {
        if let Ok(address) = Multiaddr::try_from(bytes.clone())
            && is_own(&address)
            && !own.contains(&address)
        {
            own.push(address);
        }
    }
    own.truncate(MAX_DIALLED_ADDRESSES);
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn four_distinct_own_addresses_are_dialled() {
        let mut named: Vec<Multiaddr> = (1..=5)
            .map(|port| address(&format!("/ip4/192.0.2.1/tcp/{port}")))
            .collect();
        named.insert(1, named[0].clone());
        named.insert(0, address("/ip4/198.51.100.1/tcp/1"));
        let mut bytes: Vec<_> = named.iter().map(Multiaddr::to_vec).collect();
        bytes.insert(0, b"not an address".to_vec());
        let own = own_addresses(&bytes, |address| {
            address.to_string().starts_with("/ip4/192.0.2.1/")
        });
        let expected: Vec<_> = named.iter().skip(1).step_by(1).cloned().collect();
        assert_eq!(own.len(), MAX_DIALLED_ADDRESSES);
        assert!(own.iter().all(|address| expected.contains(address)));
        assert!(own_addresses(&[], |_| true).is_empty());
    }

    #[test]
    fn only_dial_messages_are_requests() {
        let message = |kind| Message {
            kind,
            dial: None,
            response: None,
        };
        assert!(parse(message(None)).is_none());
        let answer = message(Some(MessageType::DialResponse.into()));
        assert!(parse(answer).is_none());
        let empty = parse(message(Some(MessageType::Dial.into())));
        assert_eq!(empty.unwrap().unwrap_err(), "missing peer info");
    }
}
