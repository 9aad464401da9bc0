//! Microbenchmarks in memory: copying between two streams, and the secure channels, of which only the
//! relay's end is measured.
//!
//! `cargo bench --bench micro`; append a name to run a part of it.

#![expect(clippy::unwrap_used, reason = "a benchmark fails loudly")]

mod pipe;

use circuit_relay::{
    CircuitLimit, CircuitState,
    circuit::{self, Bounds, EarlyData, Side},
};
use divan::{Bencher, counter::BytesCount};
use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, executor::block_on, future::join,
};
use libp2p::{
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
    identity::{Keypair, PublicKey},
    noise, tls,
};
use test_support::peer_keys;
use tokio_util::sync::CancellationToken;
use transports::ConnectionGater;
use transports::handshakes::Handshakes;
use transports::security::{SecureStream, Security};

use self::pipe::{End, Way, Zeros, pipe};

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

const MIB: usize = 1024 * 1024;
/// The read and write sizes of libp2p's muxer and the relay's muxer.
const CHUNK_BYTES: [usize; 2] = [16 * 1024, 64 * 1024];

const NOISE: &str = "/noise";
const TLS: &str = "/tls/1.0.0";
const PROTOCOLS: [&str; 2] = [NOISE, TLS];

fn main() {
    divan::main();
}

/// Copies in one direction between streams that are always ready.
#[divan::bench]
fn copy(bencher: Bencher) {
    bencher.counter(BytesCount::new(MIB)).bench_local(|| {
        let side = |bytes| Side {
            stream: Zeros::of(bytes),
            closed: CancellationToken::new(),
        };
        let (shutdown, state) = (CancellationToken::new(), CircuitState::default());
        let bounds = Bounds {
            limit: CircuitLimit::default(),
            unused_timeout: None,
            idle_timeout: None,
            shutdown: &shutdown,
            state: &state,
        };
        let (early, limiter) = (EarlyData::default(), None);
        let copied = circuit::relay(side(MIB), early, side(0), bounds, limiter, |_| {});
        block_on(copied)
    });
}

/// The handshake, both ends.
#[divan::bench(args = PROTOCOLS)]
fn handshake(bencher: Bencher, protocol: &'static str) {
    let (client, relay) = (Client::new(protocol), security());
    bencher.bench_local(|| client.connect(&relay));
}

/// Verification of a signature by a peer's identity key.
#[divan::bench(args = [
    "Ed25519", "secp256k1", "ECDSA", "RSA of 2048 bits", "RSA of 4096 bits", "RSA of 8192 bits"
])]
fn identity(bencher: Bencher, name: &str) {
    const MESSAGE: &[u8] = b"noise-libp2p-static-key:";
    let signed = |key: Keypair| (key.public(), key.sign(MESSAGE).unwrap());
    let (public, signature) = match name {
        "Ed25519" => signed(Keypair::generate_ed25519()),
        "secp256k1" => signed(Keypair::generate_secp256k1()),
        "ECDSA" => signed(Keypair::generate_ecdsa()),
        "RSA of 2048 bits" => signed(peer_keys::rsa_2048()),
        "RSA of 4096 bits" => signed(peer_keys::rsa_4096()),
        _ => {
            let key = peer_keys::ForeignKey::rsa_8192();
            let public = PublicKey::try_decode_protobuf(key.public()).unwrap();
            (public, key.sign(MESSAGE))
        }
    };
    bencher.bench_local(|| assert!(public.verify(MESSAGE, &signature)));
}

/// Decryption of received data.
#[divan::bench(args = PROTOCOLS, consts = CHUNK_BYTES, sample_size = 1)]
fn open<const CHUNK: usize>(bencher: Bencher, protocol: &'static str) {
    let (mut client, mut relay, _) = Client::new(protocol).connect(&security());
    bencher
        .counter(BytesCount::new(MIB))
        .with_inputs(|| block_on(write(&mut client, CHUNK)))
        .bench_local_values(|()| block_on(read(&mut relay, CHUNK)));
}

/// Encryption of sent data.
#[divan::bench(args = PROTOCOLS, consts = CHUNK_BYTES, sample_size = 1)]
fn seal<const CHUNK: usize>(bencher: Bencher, protocol: &'static str) {
    let (_client, mut relay, to_client) = Client::new(protocol).connect(&security());
    to_client.discard();
    bencher
        .counter(BytesCount::new(MIB))
        .bench_local(|| block_on(write(&mut relay, CHUNK)));
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), chunk: usize) {
    let chunk = vec![0x5a; chunk];
    for _ in 0..MIB / chunk.len() {
        stream.write_all(&chunk).await.unwrap();
    }
    stream.flush().await.unwrap();
}

async fn read(stream: &mut (impl AsyncRead + Unpin), chunk: usize) {
    let mut chunk = vec![0; chunk];
    for _ in 0..MIB / chunk.len() {
        stream.read_exact(&mut chunk).await.unwrap();
    }
}

/// The relay's side, with the options of its transports.
fn security() -> Security {
    Security::new(
        &Keypair::generate_ed25519(),
        ConnectionGater::unlimited(),
        Handshakes::noop(),
    )
    .unwrap()
}

/// A client's side, with libp2p's options.
struct Client {
    protocol: &'static str,
    noise: noise::Config,
    tls: tls::Config,
}

trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Io for S {}

impl Client {
    fn new(protocol: &'static str) -> Self {
        let key = Keypair::generate_ed25519();
        Self {
            protocol,
            noise: noise::Config::new(&key).unwrap(),
            tls: tls::Config::new(&key).unwrap(),
        }
    }

    /// Connects to a relay: both ends, and the direction from the relay to the client.
    fn connect(&self, relay: &Security) -> (Box<dyn Io>, SecureStream<End>, Way) {
        let (near, far) = pipe();
        let to_client = near.reads();
        let dialled = async {
            let client: Box<dyn Io> = if self.protocol == NOISE {
                let upgrade = self.noise.clone().upgrade_outbound(near, NOISE);
                Box::new(upgrade.await.unwrap().1)
            } else {
                let upgrade = self.tls.clone().upgrade_outbound(near, TLS);
                Box::new(upgrade.await.unwrap().1)
            };
            client
        };
        let accepted = relay.clone().upgrade_inbound(far, self.protocol);
        let (client, accepted) = block_on(join(dialled, accepted));
        (client, accepted.unwrap().1, to_client)
    }
}
