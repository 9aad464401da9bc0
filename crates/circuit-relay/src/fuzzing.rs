//! Entry points of fuzzers.

use std::{fmt::Debug, sync::Arc};

use futures::{AsyncReadExt, AsyncWriteExt, executor::block_on, future::join, io::Cursor};
use libp2p::{PeerId, identity::Keypair, multihash::Multihash, swarm::ConnectionId};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::{
    connection::Connection,
    guards::{Registration, ReservationGuard},
    hop,
    limits::{Limits, RequestRateLimits},
    service::{Config, Relay},
    wire::{self, HopMessage, HopType, MAX_MESSAGE_BYTES, Status, StopMessage},
};

/// Bytes of the longest length prefix that is accepted.
const LENGTH_BYTES: usize = 2;
/// More than is ever in flight here.
const PIPE_BYTES: usize = 1024 * 1024;

/// Decodes `bytes` as messages of both protocols. No byte beyond a message is consumed, and a
/// message survives encoding and decoding.
pub fn wire(bytes: &[u8]) {
    read_as::<HopMessage>(bytes);
    read_as::<StopMessage>(bytes);
    // Interpretation of a message.
    let _ = block_on(wire::read_request(&mut Cursor::new(bytes)));
    let _ = block_on(wire::read_stop_status(&mut Cursor::new(bytes)));
}

fn read_as<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    let mut stream = Cursor::new(bytes);
    let message: Result<M, _> = block_on(wire::read(&mut stream));
    let taken = usize::try_from(stream.position()).unwrap_or(usize::MAX);
    assert!(taken <= LENGTH_BYTES + MAX_MESSAGE_BYTES, "{taken} bytes");
    let Ok(message) = message else { return };
    let mut again = Cursor::new(Vec::new());
    let written = block_on(wire::write(&mut again, &message));
    assert!(written.is_ok());
    again.set_position(0);
    let again: Result<M, _> = block_on(wire::read(&mut again));
    assert!(again.is_ok_and(|again| again == message), "{message:?}");
}

/// A relay, and the runtime of its timers.
struct Fixture {
    relay: Arc<Relay>,
    runtime: Runtime,
}

impl Fixture {
    fn new() -> Option<Self> {
        let limits = Limits {
            // Rate limits would keep requests from the reservation table.
            reservation_rate: RequestRateLimits::default(),
            circuit_rate: RequestRateLimits::default(),
            ..Limits::default()
        };
        let relay = Relay::new(
            Keypair::generate_ed25519(),
            Config {
                limits,
                ..Config::default()
            },
        );
        relay.announce(&["/ip4/192.0.2.1/tcp/9000".parse().ok()?]);
        let runtime = Builder::new_current_thread().enable_time().build().ok()?;
        Some(Self { relay, runtime })
    }
}

thread_local! {
    /// Each test thread has its own relay, because it inspects the reservation table.
    static FIXTURE: Option<Fixture> = Fixture::new();
}

/// The only peer with a reservation.
fn target() -> Option<PeerId> {
    PeerId::from_multihash(Multihash::wrap(0, b"a target").ok()?).ok()
}

/// Serves a hop stream on which a client sends `bytes` and then closes. The first byte selects the
/// client's transport; a circuit may be requested to a peer whose connection opens no streams.
///
/// The client receives a STATUS and EOF, or only EOF if it sent no complete message. Afterwards the
/// reservation table is empty but for a granted reservation, and finally empty.
pub fn hop(bytes: &[u8]) {
    FIXTURE.with(|fixture| {
        let (Some(fixture), Some(target)) = (fixture, target()) else {
            panic!("there is a relay, and a target");
        };
        if let Some((kind, sent)) = bytes.split_first() {
            exchange(fixture, target, *kind, sent);
        }
    });
}

fn exchange(Fixture { relay, runtime }: &Fixture, target: PeerId, kind: u8, sent: &[u8]) {
    let remote = match kind % 3 {
        0 => "/ip4/192.0.2.2/tcp/4001",
        1 => "/ip4/192.0.2.2/udp/4001/quic-v1",
        _ => "/ip4/192.0.2.2/tcp/4001/p2p-circuit",
    };
    let enter = |peer, id, remote: &str| {
        let Ok(remote) = remote.parse() else {
            panic!("{remote} is an address");
        };
        let id = ConnectionId::new_unchecked(id);
        let (connection, _no_stream) = Connection::new(peer, id, None, &remote);
        let connection = Arc::new(connection);
        (
            Arc::clone(&connection),
            Registration::new(Arc::clone(relay), connection),
        )
    };
    let (target, target_registration) = enter(target, 0, "/ip4/192.0.2.3/tcp/4001");
    let (source, source_registration) = enter(PeerId::random(), 1, remote);
    let granted = ReservationGuard::grant(relay, &target);
    assert!(granted.is_ok());
    granted.into_iter().for_each(ReservationGuard::keep);
    let before = relay.statistics();
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let serve = hop::serve(Arc::clone(relay), source, far.compat());
    let client = async {
        let mut near = near.compat();
        near.write_all(sent).await?;
        near.close().await?;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let ((), answer) = runtime.block_on(join(serve, client));
    let Ok(answer) = answer else {
        panic!("the stream ends");
    };
    let after = relay.statistics();
    assert_eq!(after.circuits, 0);
    assert_eq!(relay.open_circuits(), 0);
    let status = status(&answer);
    let has_reserved = status == Some(Status::Ok);
    assert_eq!(
        after.reservations,
        before.reservations + usize::from(has_reserved)
    );
    drop((source_registration, target_registration));
    assert_eq!(relay.statistics().reservations, 0);
    assert_eq!(relay.statistics().peers, 0);
}

/// The status of an answer, which is one message or empty.
fn status(answer: &[u8]) -> Option<Status> {
    if answer.is_empty() {
        return None;
    }
    let message = HopMessage::decode_length_delimited(answer);
    let Ok(message) = message else {
        panic!("the answer is a message");
    };
    assert_eq!(message.encode_length_delimited_to_vec(), answer);
    assert_eq!(message.kind, Some(HopType::Status.into()));
    let status = message
        .status
        .and_then(|status| Status::try_from(status).ok());
    assert!(status.is_some(), "{message:?}");
    assert_eq!(message.reservation.is_some(), status == Some(Status::Ok));
    status
}

#[cfg(test)]
mod tests {
    use fuzz_support::check_invariants;

    #[test]
    fn hop_invariants_hold() {
        check_invariants("hop", super::hop);
    }

    #[test]
    fn wire_invariants_hold() {
        check_invariants("wire", super::wire);
    }
}
