//! Clients of other implementations of libp2p on the real relay, each reached by its own kind and by
//! rust-libp2p.

#[cfg(target_os = "linux")]
mod go;
mod js;
mod python;
