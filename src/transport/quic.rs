//! QUIC v1.
