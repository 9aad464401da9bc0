//! Clients of other libp2p implementations with the real relay, reached by the same implementation and by
//! rust-libp2p.

#[cfg(target_os = "linux")]
mod go;
mod js;
mod python;
