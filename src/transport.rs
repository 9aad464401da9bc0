//! How bytes reach the relay: TCP, QUIC and WebSocket, each authenticated and multiplexed.

pub mod quic;
pub mod yamux;
