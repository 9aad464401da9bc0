//! `AutoNAT` version 2: single requests.

use circuit_relay::wire;
use libp2p::{Multiaddr, StreamProtocol};
use tokio::time::timeout;

use crate::{PATIENCE, raw::Raw};

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-request");
/// Response status codes.
pub const REQUEST_REJECTED: i32 = 100;
pub const DIAL_REFUSED: i32 = 101;
pub const OK: i32 = 200;
/// Dial status codes.
pub const UNUSED: i32 = 0;
pub const DIAL_ERROR: i32 = 100;

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(message, optional, tag = "1")]
    request: Option<Request>,
    #[prost(message, optional, tag = "2")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(bytes = "vec", repeated, tag = "1")]
    addrs: Vec<Vec<u8>>,
    #[prost(fixed64, tag = "2")]
    nonce: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(uint32, tag = "2")]
    addr_idx: u32,
    #[prost(int32, tag = "3")]
    dial_status: i32,
}

/// Requests a test of one of these addresses. Returns the response status and the dial status.
pub async fn request(raw: &mut Raw, addresses: &[Multiaddr]) -> (i32, i32) {
    let mut stream = raw.open(PROTOCOL).await.unwrap();
    let message = Message {
        request: Some(Request {
            addrs: addresses.iter().map(Multiaddr::to_vec).collect(),
            nonce: 7,
        }),
        response: None,
    };
    wire::write(&mut stream, &message).await.unwrap();
    let answer = timeout(PATIENCE, wire::read::<Message, _>(&mut stream)).await;
    let response = answer.unwrap().unwrap().response.unwrap();
    (response.status, response.dial_status)
}
