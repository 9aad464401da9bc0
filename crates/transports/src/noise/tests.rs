//! Tests over pairs of streams, and against hand-made bytes.

use std::iter;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, executor::block_on};
use libp2p::identity::Keypair;

use super::*;
use crate::memory_socket::{
    MemorySocket, memory_sockets, pattern, read_in_parts, repeated, steps, write_in_parts,
};

mod frames;
mod hostile;
mod interop;

fn keys() -> Keys {
    Keys::new(&Keypair::generate_ed25519()).unwrap()
}

/// Both ends of a stream: the dialler's and the acceptor's.
fn streams() -> (NoiseStream<MemorySocket>, NoiseStream<MemorySocket>) {
    let (near, far) = memory_sockets();
    let both = futures::future::join(dial(keys(), near), accept(keys(), far));
    let (dialled, accepted) = block_on(both);
    (dialled.unwrap().1, accepted.unwrap().1)
}
