//! Requests of version 2, and the nonce that is sent over the new connection.

use std::time::Duration;

use circuit_relay::wire;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::time::timeout;

use super::{
    DialResult, Server,
    message::v2::{DialBack, DialRequest, DialResponse, DialStatus, Message, ResponseStatus},
};
use crate::dialback::DialOutcome;

/// Protocol of the nonce.
pub(super) const DIAL_BACK_PROTOCOL: StreamProtocol =
    StreamProtocol::new("/libp2p/autonat/2/dial-back");
/// Addresses of a request that are considered; further ones are ignored.
const MAX_ADDRESSES: usize = 50;
/// Time to open the stream for the nonce, and to write the nonce.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time in which the peer has to confirm that it has read the nonce.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves one stream. A stream without a valid request is reset.
pub(super) async fn serve(
    server: &Server,
    peer: PeerId,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) {
    let Ok(Message {
        request: Some(request),
        ..
    }) = wire::read(&mut stream).await
    else {
        return;
    };
    let message = Message {
        request: None,
        response: Some(respond(server, peer, &request).await),
    };
    // The peer may have closed the stream; then nobody reads the answer.
    if wire::write(&mut stream, &message).await.is_ok() {
        let _ = stream.close().await;
    }
}

async fn respond(server: &Server, peer: PeerId, request: &DialRequest) -> DialResponse {
    let is_own = |address: &Multiaddr| server.policy.is_own_address(&peer, address);
    let Some((index, address)) = first_own_address(&request.addrs, is_own) else {
        server.policy.record(DialOutcome::ForeignAddress, 1);
        return refusal(ResponseStatus::DialRefused);
    };
    if server.policy.admit(peer, &address).is_err() {
        return refusal(ResponseStatus::RequestRejected);
    }
    let result = server.dial(peer, vec![address], Some(request.nonce)).await;
    let dial_status = match result {
        DialResult::Reached(_) => DialStatus::Ok,
        DialResult::DialBackFailed => DialStatus::DialBackError,
        DialResult::Unreachable => DialStatus::DialError,
        DialResult::NotDialable => return refusal(ResponseStatus::DialRefused),
        DialResult::Busy => return refusal(ResponseStatus::RequestRejected),
    };
    DialResponse {
        status: ResponseStatus::Ok.into(),
        addr_idx: index,
        dial_status: dial_status.into(),
    }
}

fn refusal(status: ResponseStatus) -> DialResponse {
    DialResponse {
        status: status.into(),
        addr_idx: 0,
        dial_status: DialStatus::Unused.into(),
    }
}

/// The first address to dial, with its index.
fn first_own_address(
    addresses: &[Vec<u8>],
    is_own: impl Fn(&Multiaddr) -> bool,
) -> Option<(u32, Multiaddr)> {
    (0..)
        .zip(addresses)
        .take(MAX_ADDRESSES)
        .find_map(|(index, bytes)| {
            let address = Multiaddr::try_from(bytes.clone()).ok()?;
            is_own(&address).then_some((index, address))
        })
}

/// Sends the nonce, and waits until the peer has read it, if it gives a sign of that: it answers, or
/// it ends the stream. Whether the nonce was sent.
pub(super) async fn send_nonce(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    nonce: u64,
) -> bool {
    let message = DialBack { nonce };
    let write = wire::write(&mut stream, &message);
    if !matches!(timeout(WRITE_TIMEOUT, write).await, Ok(Ok(()))) {
        return false;
    }
    // The connection is closed afterwards, which would discard data that is still queued.
    let delivery = async {
        let _ = stream.close().await;
        let _ = stream.read(&mut [0]).await;
    };
    let _ = timeout(DELIVERY_TIMEOUT, delivery).await;
    true
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use prost::Message as _;
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::*;

    /// A stream that the peer resets once it has received something, as go-libp2p does.
    #[derive(Default)]
    struct ResetAfterWrite(Vec<u8>);

    impl AsyncWrite for ResetAfterWrite {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.extend(data);
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncRead for ResetAfterWrite {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    #[tokio::test]
    async fn nonce_that_was_written_counts_when_the_peer_resets_the_stream() {
        let mut stream = ResetAfterWrite::default();
        assert!(send_nonce(&mut stream, 7).await);
        let sent = DialBack::decode_length_delimited(stream.0.as_slice());
        assert_eq!(sent.unwrap().nonce, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn nonce_is_sent_without_any_answer() {
        let (near, _far) = tokio::io::duplex(64);
        assert!(send_nonce(near.compat(), 7).await);
    }

    #[tokio::test]
    async fn closed_stream_takes_no_nonce() {
        let (near, _) = tokio::io::duplex(64);
        assert!(!send_nonce(near.compat(), 7).await);
    }

    #[test]
    fn first_own_address_is_tested() {
        let addresses: Vec<_> = [
            "/ip4/198.51.100.1/tcp/1",
            "/ip4/192.0.2.1/tcp/1",
            "/ip4/192.0.2.1/tcp/2",
        ]
        .iter()
        .map(|text| text.parse::<Multiaddr>().unwrap().to_vec())
        .collect();
        let is_own = |address: &Multiaddr| address.to_string().starts_with("/ip4/192.0.2.1/");
        let (index, address) = first_own_address(&addresses, is_own).unwrap();
        assert_eq!((index, address.to_vec()), (1, addresses[1].clone()));
        assert!(first_own_address(&addresses[..1], is_own).is_none());
        let many = vec![addresses[0].clone(); MAX_ADDRESSES];
        let late = [many, addresses].concat();
        assert!(first_own_address(&late, is_own).is_none());
    }
}
