//! Conformance of the hop protocol as clients observe it. Every case runs over real swarms at this
//! crate's relay and at libp2p-relay. Both observations are asserted, and every difference is deliberate:
//! `docs/conformance.md` lists them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test fails by panicking, and has no readers of its interfaces"
)]

mod case;
mod cases;
mod document;
mod harness;

use harness::net::Net;

#[tokio::test(flavor = "multi_thread")]
async fn over_memory() {
    case::run_all(cases::all(), Net::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp() {
    case::run_all(cases::all(), Net::Tcp).await;
}

/// Resets may behave differently from TCP.
#[tokio::test(flavor = "multi_thread")]
async fn over_websocket() {
    case::run_all(cases::all(), Net::WebSocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quic() {
    case::run_all(cases::all(), Net::Quic).await;
}
