//! Interoperability with libp2p's Noise.

use futures::future::join;
use libp2p::{
    PeerId,
    core::upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _},
    noise,
};

use super::*;

type Theirs = noise::Output<MemorySocket>;

fn theirs(identity: &Keypair) -> noise::Config {
    noise::Config::new(identity).unwrap()
}

/// Our end and theirs, each with the id of its authenticated peer.
fn accepted(
    ours: &Keypair,
    identity: &Keypair,
) -> ((PeerId, NoiseStream<MemorySocket>), (PeerId, Theirs)) {
    let (near, far) = memory_sockets();
    let dialled = theirs(identity).upgrade_outbound(near, PROTOCOL);
    let accepted = accept(Keys::new(ours).unwrap(), far);
    let (accepted, dialled) = block_on(join(accepted, dialled));
    (accepted.unwrap(), dialled.unwrap())
}

fn dialled(
    ours: &Keypair,
    identity: &Keypair,
) -> ((PeerId, NoiseStream<MemorySocket>), (PeerId, Theirs)) {
    let (near, far) = memory_sockets();
    let accepted = theirs(identity).upgrade_inbound(far, PROTOCOL);
    let dialled = dial(Keys::new(ours).unwrap(), near);
    let (dialled, accepted) = block_on(join(dialled, accepted));
    (dialled.unwrap(), accepted.unwrap())
}

/// Sends writes of various sizes in one direction.
async fn transfer(from: &mut (impl AsyncWrite + Unpin), to: &mut (impl AsyncRead + Unpin)) {
    let sizes = [1, 12, 1000, 65_519, 65_520, 65_548, 100, 300_000, 0, 5];
    let wanted = pattern(sizes.iter().sum());
    let writing = async {
        let mut rest = &wanted[..];
        for size in sizes {
            let (now, later) = rest.split_at(size);
            from.write_all(now).await.unwrap();
            if size % 2 == 0 {
                from.flush().await.unwrap();
            }
            rest = later;
        }
        from.close().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), read) = join(writing, to.read_to_end(&mut got)).await;
    read.unwrap();
    assert!(got == wanted);
}

#[test]
fn both_implementations_interoperate() {
    let (us, them) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    for meet in [accepted, dialled] {
        let ((peer, mut near), (us_there, mut far)) = meet(&us, &them);
        assert_eq!(peer, them.public().to_peer_id());
        assert_eq!(us_there, us.public().to_peer_id());
        block_on(async {
            transfer(&mut near, &mut far).await;
            transfer(&mut far, &mut near).await;
        });
    }
}
