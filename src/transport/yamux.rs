//! Yamux.
